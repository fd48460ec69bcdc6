"""What a synthesis run will cost, before anything is loaded: pictures, arithmetic, memory, time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from higfa_cli.artifacts.atomic import read_json
from higfa_cli.artifacts.plan import PlanItem
from higfa_cli.artifacts.run_record import RECORD
from higfa_cli.data.official import official
from higfa_cli.errors import UserError
from higfa_cli.models.architecture import Architecture, architecture
from higfa_cli.models.device import resolve_device
from higfa_cli.models.draw import evaluations, schedule_of
from higfa_cli.models.footprint import Footprint, flops_per_picture, guided_step
from higfa_cli.models.scheduler import SchedulerSolver
from higfa_cli.recipe.refs import resolve_ref
from higfa_cli.recipe.schema import Synthesize
from higfa_cli.stages.context import Context
from higfa_cli.stages.drawing import dataset, plan

Source = Literal["contours", "photos", "published split sizes"]

# Part of a matrix product's speed that a whole run is reckoned to reach: layers that move more
# than they multiply, and an autoencoder in float32, take the rest.
EFFICIENCY = 0.3
_GIB = 2**30
_TIMING_S = 0.5
# Keys of `synthesize` that change what is drawn, or how much, but not the seconds per picture.
_SAME_PACE = {"prompts", "per_contour", "gallery", "local_files_only"}


@dataclass(frozen=True)
class Counted:
    """How many pictures of how many classes, and from what that is known.

    `items` is the plan itself where the contours are there, else empty. `note` says why the
    contours of the workspace were not used, where there are any.
    """

    images: int
    classes: int
    source: Source
    items: tuple[PlanItem, ...] = ()
    note: str | None = None


@dataclass(frozen=True)
class Cost:
    """Of one picture; None where the model's configuration is not on this machine (`notes`)."""

    architecture: Architecture | None = None
    denoiser_evaluations: int | None = None
    guide_evaluations: int | None = None
    flops: float | None = None
    notes: tuple[str, ...] = ()


def count_pictures(ctx: Context) -> Counted:
    """The size of the plan: of the contours, else of the photos, else as the dataset's authors say.

    Raises:
        UserError: data that is neither here nor a public dataset, or an absent split.
    """
    found = photos_folder(ctx)
    note = None
    if (ctx.stage_dir("contours") / "manifest.jsonl").is_file():
        stale = _stale_contours(ctx)
        if stale is None:
            items = plan(ctx)
            return Counted(len(items), len({i.cls for i in items}), "contours", items)
        note = f"the contours of this workspace were not counted: {stale}"
    if found is None and official(ctx.recipe.data.layout) is not None:
        return _published(ctx, note)
    photos = dataset(ctx)
    for split in ctx.recipe.contours.splits:
        if not photos.of(split):
            raise _no_split(split, photos.splits)
    sources = [one for split in ctx.recipe.contours.splits for one in photos.of(split)]
    images = len(sources) * _per_photo(ctx)
    return Counted(images, len({one.cls for one in sources}), "photos", note=note)


def photos_folder(ctx: Context) -> Path | None:
    """The data folder; None where it is not there.

    Raises UserError for a part of the pocket that is not installed.
    """
    root = ctx.recipe.data.root
    try:
        found = resolve_ref(root, ctx.base)
    except UserError:
        if root.startswith("pocket:"):
            raise
        return None
    return found if isinstance(found, Path) else None


def picture_cost(ctx: Context) -> Cost:
    """What one picture costs, from the models' configurations alone."""
    settings = ctx.recipe.synthesize
    try:
        known, solver = model_and_solver(ctx)
    except UserError as error:
        return Cost(notes=(f"steps, arithmetic, memory and time are not known: {error}",))
    denoiser, guide = evaluations(schedule_of(settings), solver.levels)
    about = ctx.recipe.guide
    flops = flops_per_picture(known, settings, about.image_size, about.backbone)
    return Cost(known, denoiser, guide, flops)


def model_and_solver(ctx: Context) -> tuple[Architecture, SchedulerSolver]:
    """What the recipe's model is made of, and the recipe's solver for it; no weights.

    Raises:
        UserError: a configuration that is not on this machine, parts that do not go together, or
            a size that the model cannot draw.
    """
    settings = ctx.recipe.synthesize
    known = architecture(settings, ctx.base)
    check_size(known, settings)
    return known, SchedulerSolver(settings.scheduler, known.scheduler, settings.steps)


def memory_of(ctx: Context, known: Architecture, batch: int) -> Footprint:
    """Bytes on the device of a guided step of `batch` pictures."""
    about = ctx.recipe.guide
    return guided_step(known, ctx.recipe.synthesize, batch, about.image_size, about.backbone)


def check_size(known: Architecture, settings: Synthesize) -> None:
    """Raise UserError unless the model can draw squares of `synthesize.size`."""
    blocks = known.vae.get("block_out_channels") or known.vae["decoder_block_out_channels"]
    multiple = 2 ** (len(blocks) - 1) * 2 ** (len(known.unet["block_out_channels"]) - 1)
    if settings.size % multiple:
        raise UserError(
            f"synthesize.size: {settings.size} is not a multiple of {multiple}, "
            f"which `{settings.model}` needs; choose one"
        )


def seconds_per_picture(ctx: Context, flops: float | None) -> tuple[float | None, str]:
    """(seconds, from what they are known); (None, why not) where nothing is known.

    An earlier run of these settings on this device counts first; else the device's speed is
    measured by a matrix product, which takes less than a second.
    """
    try:
        device = resolve_device(ctx.recipe.device)
    except UserError as error:
        return None, str(error)
    earlier = _earlier(ctx, device)
    if earlier is not None:
        return earlier, "an earlier run here"
    if flops is None:
        return None, "the model's configuration is not on this machine"
    dtype = ctx.recipe.synthesize.dtype
    speed = matmul_speed(device, getattr(torch, dtype))
    return flops / (speed * EFFICIENCY), (
        f"arithmetic speed of {device_name(device)}: {speed / 1e12:.3g} TFLOP/s measured by a "
        f"matrix product in {dtype}, {EFFICIENCY:.0%} of it reckoned with; rough, typically within "
        "a factor of 2 to 3"
    )


def matmul_speed(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a large matrix product."""
    side = 256 if device.type == "cpu" else 1024
    # Grown until one product is long enough to be timed: what is large depends on the device.
    while True:
        one = torch.ones(side, side, device=device, dtype=dtype)
        _timed(lambda one=one: one @ one, device)  # type: ignore[misc]
        seconds = _timed(lambda one=one: one @ one, device)  # type: ignore[misc]
        if seconds > 0.01 or side >= 8192:
            break
        side *= 2
    best, spent = seconds, seconds
    while spent < _TIMING_S:
        seconds = _timed(lambda: one @ one, device)
        best, spent = min(best, seconds), spent + seconds
    return 2.0 * side**3 / best


def device_name(device: torch.device) -> str:
    """What the device calls itself, where it does."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device} ({torch.get_num_threads()} threads)" if device.type == "cpu" else str(device)


def gib(size: float) -> str:
    """Bytes for people."""
    return f"{size / _GIB:.1f} GiB" if size >= 0.1 * _GIB else f"{size / 2**20:.0f} MiB"


def duration(seconds: float) -> str:
    """Seconds for people: 12 s, or h:mm."""
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,}:{minutes % 60:02d} h"


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _timed(work: Callable[[], Any], device: torch.device) -> float:
    synchronize(device)
    started = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - started


def _published(ctx: Context, note: str | None) -> Counted:
    about = official(ctx.recipe.data.layout)
    assert about is not None
    sizes = {"train": about.train, "val": about.val, "test": about.test}
    if ctx.recipe.data.shots is not None:
        sizes["train"] = min(ctx.recipe.data.shots * about.classes, about.train)
    splits = ctx.recipe.contours.splits
    for split in splits:
        if not sizes[split]:
            raise _no_split(split, [name for name, size in sizes.items() if size])
    images = sum(sizes[split] for split in splits) * _per_photo(ctx)
    return Counted(images, about.classes, "published split sizes", note=note)


def _per_photo(ctx: Context) -> int:
    return ctx.recipe.contours.per_image * ctx.recipe.synthesize.per_contour


def _no_split(split: str, present: Sequence[str]) -> UserError:
    return UserError(
        f"contours.splits asks for `{split}`, which the data has not (present: "
        f"{', '.join(present)}); remove it from contours.splits"
    )


def _stale_contours(ctx: Context) -> str | None:
    """Why the contours do not hold; None where they do."""
    # Not at the top: the pipeline names the stages, and this is part of one.
    from higfa_cli.stages.pipeline import state

    found = state(ctx, "contours")
    if found.kind == "fresh":
        return None
    return f"they are {found.kind} ({'; '.join(found.reasons)})"


def _earlier(ctx: Context, device: torch.device) -> float | None:
    """Seconds per picture of the workspace's last run, if it was of these settings and here."""
    path = ctx.stage_dir("synthesize") / RECORD
    if not path.is_file():
        return None
    record = read_json(path)
    try:
        before = record["inputs"]["parameters"]["synthesize"]
        seconds, where = record["counts"].get("seconds_per_image"), record["device"]
    except (KeyError, TypeError):
        return None
    now = ctx.recipe.synthesize.model_dump(mode="json", exclude=_SAME_PACE)
    before = {key: value for key, value in before.items() if key not in _SAME_PACE}
    if seconds is None or where != str(device) or before != now:
        return None
    return float(seconds)
