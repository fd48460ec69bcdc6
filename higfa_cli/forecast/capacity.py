"""Checks of `higfa doctor` for what the machine must have: memory, disk and time."""

from __future__ import annotations

import shutil
from pathlib import Path

import psutil
from huggingface_hub import constants

from higfa_cli.data.layouts import layout_of
from higfa_cli.errors import UserError
from higfa_cli.forecast import estimate
from higfa_cli.forecast.estimate import ALLOWANCE, published_pictures
from higfa_cli.forecast.findings import Findings, Row
from higfa_cli.forecast.model_files import missing_bytes
from higfa_cli.recipe.drawing import AUTOMATIC_SHARE
from higfa_cli.recipe.schema import Recipe
from higfa_cli.stages.recipe_checks import check_photos, check_room
from higfa_cli.text import duration, gib, plural, roughly

# A PNG of a photo-like picture.
_BYTES_PER_PIXEL = 2
_LONG_S = 30 * 86400
_UNKNOWN = "not known before what fails above is mended"


def memory(findings: Findings) -> Row:
    """Whether a guided step fits the device."""
    recipe = findings.ctx.recipe
    if findings.photos is not None:
        check_photos(recipe, findings.photos)
    elif layout := layout_of(recipe.data.layout):
        check_room(recipe, layout.sizes, published_pictures(recipe, layout))
    ctx, cost = findings.costliest
    arch, device = cost.architecture, findings.device
    if arch is None:
        return Row("memory", "warning", _UNKNOWN)
    automatic = ctx.recipe.run.batch_size == "auto"
    batch = 1 if automatic else int(ctx.recipe.run.batch_size)
    need = estimate.memory_of(ctx, arch, batch)
    detail = f"{roughly(need.peak)} for {plural(batch, 'picture')}"
    if device is None:
        return Row("memory", "ok", f"{detail} (estimated), plus {roughly(ALLOWANCE)} on a GPU")
    if device.kind == "cuda":
        wanted, free, total = need.peak + ALLOWANCE, device.free, device.total
        detail += f", plus {roughly(ALLOWANCE)} for CUDA; {gib(free)} of {gib(total)} are free"
    else:
        # The share is of what is left once the weights are loaded.
        wanted = need.weights + int((need.peak - need.weights) / AUTOMATIC_SHARE)
        free, total = psutil.virtual_memory().available, psutil.virtual_memory().total
        detail += f"; {gib(free)} of {gib(total)} are free"
        detail += f", {AUTOMATIC_SHARE:.0%} of which may be used"
    if wanted <= free:
        return Row("memory", "ok", detail)
    remedy = _saving_keys(ctx.recipe)
    if wanted <= total:
        return Row("memory", "warning", detail, f"end other programs, or {remedy}")
    if device.kind == "cuda" and batch > 1:
        # A batch that does not fit is drawn in smaller ones.
        hopeless = estimate.memory_of(ctx, arch, 1).peak + ALLOWANCE > total
    else:
        # Only an automatic batch size is refused; another may still fit.
        hopeless = device.kind == "cuda" or automatic or need.peak > total
    return Row("memory", "failed" if hopeless else "warning", detail, remedy)


def _saving_keys(recipe: Recipe) -> str:
    """Keys that save memory and are not set yet."""
    saved = recipe.run.memory
    keys = {
        "run.batch_size: auto": recipe.run.batch_size not in (1, "auto"),
        "model.dtype: bfloat16": recipe.model.dtype == "float32",
        "model.gradient_autoencoder (a tiny one)": recipe.model.gradient_autoencoder is None,
        "run.memory.gradient_checkpointing: true": not saved.gradient_checkpointing,
        "run.memory.cpu_offload: true": (
            not saved.cpu_offload and recipe.guidance.classifier.gradient == "x0"
        ),
    }
    useful = [key for key, saves in keys.items() if saves]
    return f"set {' or '.join(useful)}" if useful else "use a device with more memory"


def disk(findings: Findings) -> Row:
    """Whether pictures, and weights still to be fetched, have room."""
    ctx = findings.ctx
    try:
        counted = findings.counted
    except UserError:
        return Row("disk", "warning", _UNKNOWN)
    images = counted.images * len(ctx.recipe.arms)
    pictures = images * ctx.recipe.size**2 * _BYTES_PER_PIXEL
    arch = findings.costliest[1].architecture
    weights = missing_bytes(findings.missing, arch, ctx.recipe)
    detail = f"{roughly(pictures)} for {plural(images, 'picture')} ({counted.source})"
    if weights is None:
        detail += ", the weights to be downloaded not counted"
    elif weights:
        detail += f" and {roughly(weights)} of weights to be downloaded"
    workspace, cache = _standing(ctx.workspace), _standing(Path(constants.HF_HUB_CACHE))
    free, room = shutil.disk_usage(workspace).free, shutil.disk_usage(cache).free
    detail += f"; {gib(free)} are free"
    if workspace.stat().st_dev == cache.stat().st_dev:
        fits = pictures + (weights or 0) <= free
    else:
        detail += f", {gib(room)} in the hub's cache" if weights else ""
        fits = pictures <= free and (weights or 0) <= room
    if fits:
        return Row("disk", "ok", detail)
    remedy = "make room, or choose another --workspace (weights: another HF_HOME)"
    return Row("disk", "failed", detail, remedy)


def _standing(folder: Path) -> Path:
    """The folder, or the first above it that exists."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())


def time(findings: Findings) -> Row:
    """How long the whole plan will take, where a run or a preview has measured it."""
    measured = [estimate.seconds_per_picture(arm) for arm, _ in findings.costs]
    paces = [pace for pace in measured if pace is not None]
    if len(paces) < len(measured):
        if findings.flops is None:
            return Row("time", "warning", _UNKNOWN)
        each = f"{findings.flops:.2g} operations per picture"
        return Row("time", "ok", f"not known before a preview or a run has measured it; {each}")
    seconds, source = sum(pace[0] for pace in paces) / len(paces), paces[0][1]
    each = f"{duration(seconds)} per picture ({source})"
    try:
        images = findings.counted.images * len(paces)
    except UserError:
        return Row("time", "ok", f"about {each}")
    detail = f"about {duration(seconds * images)}, {each}"
    if seconds * images <= _LONG_S:
        return Row("time", "ok", detail)
    remedy = "lower contours.per_image, the number in `pictures`, or sampling.steps"
    on_gpu = findings.device is not None and findings.device.kind == "cuda"
    remedy += ", or share the work among GPUs (--workers auto)" if on_gpu else ", or use a GPU"
    return Row("time", "warning", detail, remedy)
