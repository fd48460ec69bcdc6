"""Checks of `higfa doctor` for what the machine must have: memory, disk and time."""

from __future__ import annotations

import shutil
from pathlib import Path

import psutil
from huggingface_hub import constants

from higfa_cli.errors import UserError
from higfa_cli.forecast import estimate
from higfa_cli.forecast.estimate import ALLOWANCE
from higfa_cli.forecast.findings import Findings, Row
from higfa_cli.forecast.machine import Device
from higfa_cli.forecast.weight_sizes import missing_bytes
from higfa_cli.models.families.family import Architecture
from higfa_cli.recipe.drawing import AUTOMATIC_SHARE
from higfa_cli.stages.context import Context
from higfa_cli.text import duration, gib, plural, roughly

# A PNG of a photo-like picture.
_BYTES_PER_PIXEL = 2
_LONG_S = 30 * 86400


def memory(ctx: Context, known: Findings) -> Row:
    """Whether a guided step fits the device."""
    ctx, cost = known.costliest
    arch = cost.architecture
    if arch is None:
        return Row("memory", "warning", f"not known: {cost.reason}")
    asked = ctx.recipe.run.batch_size
    batch = 1 if asked == "auto" else asked
    need = estimate.memory_of(ctx, arch, batch)
    detail = f"{roughly(need.peak)} for {plural(batch, 'picture')}"
    if known.device is None:
        return Row("memory", "ok", f"{detail} (estimated), plus {roughly(ALLOWANCE)} on a GPU")
    if known.device.kind == "cuda":
        return _on_gpu(ctx, arch, known.device, batch, need.peak, detail)
    found = psutil.virtual_memory()
    detail += f"; {gib(found.available)} of {gib(found.total)} are free"
    detail += f", {AUTOMATIC_SHARE:.0%} of which may be used"
    # The share is of what is left once the weights are loaded.
    working = need.peak - need.weights
    if working <= (found.available - need.weights) * AUTOMATIC_SHARE:
        return Row("memory", "ok", detail)
    if working <= (found.total - need.weights) * AUTOMATIC_SHARE:
        return Row("memory", "warning", detail, f"end other programs, or {_smaller(ctx)}")
    # Only an automatic batch size is refused; another may still fit.
    fails = asked == "auto" or need.peak > found.total
    return Row("memory", "failed" if fails else "warning", detail, _smaller(ctx))


def _on_gpu(
    ctx: Context, arch: Architecture, device: Device, batch: int, peak: int, detail: str
) -> Row:
    free, total = device.free, device.total
    detail += f", plus {roughly(ALLOWANCE)} for CUDA; {gib(free)} of {gib(total)} are free"
    if peak + ALLOWANCE <= free:
        return Row("memory", "ok", detail)
    remedy = _smaller(ctx)
    if peak + ALLOWANCE <= total:
        return Row("memory", "warning", detail, f"end other programs, or {remedy}")
    if batch > 1 and estimate.memory_of(ctx, arch, 1).peak + ALLOWANCE <= total:
        return Row("memory", "warning", f"{detail}; smaller batches will be tried", remedy)
    return Row("memory", "failed", detail, remedy)


def _smaller(ctx: Context) -> str:
    """Keys that save memory and are not set yet."""
    recipe, saved = ctx.recipe, ctx.recipe.run.memory
    keys = {
        "run.batch_size: auto": recipe.run.batch_size not in (1, "auto"),
        "model.dtype: bfloat16": recipe.model.dtype == "float32",
        "model.gradient_autoencoder (a tiny one)": recipe.model.gradient_autoencoder is None,
        "run.memory.gradient_checkpointing: true": not saved.gradient_checkpointing,
        "run.memory.cpu_offload: true": (
            not saved.cpu_offload and recipe.guidance.classifier.gradient == "x0"
        ),
    }
    open_ones = [key for key, useful in keys.items() if useful]
    return f"set {' or '.join(open_ones)}" if open_ones else "use a device with more memory"


def disk(ctx: Context, known: Findings) -> Row:
    """Whether pictures, and weights still to be fetched, have room."""
    try:
        counted = known.counted
    except UserError:
        return Row("disk", "warning", known.uncounted)
    images = counted.images * len(ctx.recipe.arms)
    pictures = images * ctx.recipe.size**2 * _BYTES_PER_PIXEL
    training = {"guide": ctx.recipe.guide, "downstream": ctx.recipe.downstream}
    weights = missing_bytes(known.missing, known.cost.architecture, training)
    said = f"{roughly(pictures)} for {plural(images, 'picture')} ({counted.source})"
    if weights is None:
        said += ", the weights to be downloaded not counted"
    elif weights:
        said += f" and {roughly(weights)} of weights to be downloaded"
    own, cache = _standing(ctx.workspace), _standing(Path(constants.HF_HUB_CACHE))
    free = shutil.disk_usage(own).free
    detail = f"{said}; {gib(free)} are free"
    if own.stat().st_dev == cache.stat().st_dev:
        fits = pictures + (weights or 0) <= free
    else:
        room = shutil.disk_usage(cache).free
        detail += f", {gib(room)} in the hub's cache" if weights else ""
        fits = pictures <= free and (weights or 0) <= room
    if fits:
        return Row("disk", "ok", detail)
    remedy = "make room, or choose another --workspace (weights: another HF_HOME)"
    return Row("disk", "failed", detail, remedy)


def _standing(folder: Path) -> Path:
    """The folder, or the first above it that exists."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def time(ctx: Context, known: Findings) -> Row:
    """How long the whole plan will take, where a run or a preview has measured it."""
    measured = [estimate.seconds_per_picture(arm) for arm, _ in known.costs]
    paces = [pace for pace in measured if pace is not None]
    if len(paces) < len(measured):
        if known.cost.flops is None:
            return Row("time", "warning", f"not known: {known.cost.reason}")
        each = f"{known.cost.flops:.2g} operations per picture"
        return Row("time", "ok", f"not known before a preview or a run has measured it; {each}")
    seconds, source = sum(pace[0] for pace in paces) / len(paces), paces[0][1]
    each = f"{duration(seconds)} per picture ({source})"
    try:
        images = known.counted.images * len(paces)
    except UserError:
        return Row("time", "ok", f"about {each}")
    detail = f"about {duration(seconds * images)}, {each}"
    if seconds * images <= _LONG_S:
        return Row("time", "ok", detail)
    remedy = "lower contours.per_image, pictures.per_contour or sampling.steps"
    on_gpu = known.device is not None and known.device.kind == "cuda"
    remedy += ", or share the work among GPUs (--workers auto)" if on_gpu else ", or use a GPU"
    return Row("time", "warning", detail, remedy)
