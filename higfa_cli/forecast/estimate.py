"""What a synthesis run will cost, before anything is loaded: pictures, arithmetic, memory, time."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from higfa_cli.artifacts.artifact import parse
from higfa_cli.artifacts.records import SynthesisCounts
from higfa_cli.artifacts.rows import PlanItem
from higfa_cli.artifacts.stage_state import read_record
from higfa_cli.data.layouts import layout_of
from higfa_cli.errors import UserError
from higfa_cli.forecast.model_files import FOLDER, missing_files
from higfa_cli.models.architecture import WrongSize, architecture, check_size
from higfa_cli.models.backbones import check_name
from higfa_cli.models.device import resolve_device
from higfa_cli.models.draw import evaluations
from higfa_cli.models.fake import Setup
from higfa_cli.models.families import FAMILIES
from higfa_cli.models.families.family import Architecture
from higfa_cli.models.footprint import Footprint, flops_per_picture, guided_step
from higfa_cli.models.scheduler import FlowSolver, SchedulerSolver
from higfa_cli.recipe.refs import resolve_ref
from higfa_cli.stages.context import Context
from higfa_cli.stages.drawing import plan
from higfa_cli.stages.photos import load_photos

Source = Literal["contours", "photos", "published split sizes"]

# Part of a matrix product's speed that a whole run is expected to reach: layers that move more
# than they multiply, and an autoencoder in float32, take the rest.
EFFICIENCY = 0.3
# CUDA's context, cuDNN's workspaces and fragmentation, which no estimate sees: docs/memory.md.
ALLOWANCE = 3 * 2**29
_TIMING_S = 0.5
# What the seconds per picture depend on, in the inputs of stage `synthesize`.
_PACE = {"size", "model", "guidance", "sampling", "run"}
_NO_CONFIGURATION = "the model's configuration is not on this machine"


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
    """Of one picture; None where it cannot be known.

    `error` is then what stands in the way, and `reason` the same in short.
    """

    architecture: Architecture | None = None
    denoiser_evaluations: int | None = None
    guide_evaluations: int | None = None
    flops: float | None = None
    error: UserError | None = None
    reason: str = _NO_CONFIGURATION

    @property
    def notes(self) -> tuple[str, ...]:
        """What is not known, and why."""
        if self.error is None:
            return ()
        return (f"steps, arithmetic, memory and time are not known: {self.error}",)


def count_pictures(ctx: Context) -> Counted:
    """The size of the plan: of the contours, else of the photos, else as the dataset's authors say.

    Raises:
        UserError: data that is neither here nor a public dataset, or an absent split.
    """
    found = photos_folder(ctx)
    note = None
    if ctx.ws.contours.manifest.is_file():
        stale = _stale_contours(ctx)
        if stale is None:
            items = plan(ctx)
            return Counted(len(items), len({i.cls for i in items}), "contours", items)
        note = f"the contours of this workspace were not counted: {stale}"
    if found is None and layout_of(ctx.recipe.data.layout) is not None:
        return _published(ctx, note)
    photos = load_photos(ctx)
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
    recipe = ctx.recipe
    try:
        known, solver = model_and_solver(ctx)
    except WrongSize as error:
        return Cost(error=error, reason="depends on size, which the model cannot draw")
    except UserError as error:
        lost = missing_files(recipe.model, ctx.base, recipe.run.local_files_only)
        if not lost:
            return Cost(error=error, reason="depends on model and ControlNet, which do not fit")
        wrong = next((one.remedy for one in lost if one.file == FOLDER), None)
        return Cost(error=error if wrong is None else UserError(wrong))
    about = recipe.guide
    try:
        check_name(about.backbone)
    except UserError as error:
        return Cost(error=error, reason="depends on guide.backbone, which timm does not know")
    denoiser, guide = evaluations(recipe.guidance, solver.levels)
    ctx.progress.note("computing memory and arithmetic of the model ...")
    flops = _flops(_key(known), Setup.of(recipe), about.image_size, about.backbone)
    return Cost(known, denoiser, guide, flops)


def model_and_solver(ctx: Context) -> tuple[Architecture, SchedulerSolver | FlowSolver]:
    """What the recipe's model is made of, and the recipe's solver for it; no weights.

    Raises:
        UserError: a configuration that is not on this machine, parts that do not go together, or
            a size or solver that the model cannot draw with.
    """
    recipe = ctx.recipe
    known = architecture(recipe.model, ctx.base)
    check_size(known, recipe.size, recipe.model)
    sampling = recipe.sampling
    family = FAMILIES[known.family]
    return known, family.solver(sampling.scheduler, known.scheduler, sampling.steps)


def check_drawable(ctx: Context) -> None:
    """Raise WrongSize for a size that the model cannot draw; an unknown model can draw all."""
    try:
        model_and_solver(ctx)
    except WrongSize:
        raise
    except UserError:
        return


def memory_of(ctx: Context, known: Architecture, batch: int) -> Footprint:
    """Bytes on the device of a guided step of `batch` pictures."""
    about = ctx.recipe.guide
    setup = Setup.of(ctx.recipe)
    return _memory(_key(known), setup, batch, about.image_size, about.backbone)


def _key(known: Architecture) -> str:
    """An architecture as something that a cache can hold."""
    return json.dumps(asdict(known), sort_keys=True)


def _of_key(key: str) -> Architecture:
    known = json.loads(key)
    return Architecture(**known | {"text_encoders": tuple(known["text_encoders"])})


# Half a minute for the largest model, and the same for every dataset that it draws.
@functools.cache
def _flops(key: str, setup: Setup, guide_size: int, backbone: str) -> float:
    return flops_per_picture(_of_key(key), setup, guide_size, backbone)


@functools.cache
def _memory(key: str, setup: Setup, batch: int, guide_size: int, backbone: str) -> Footprint:
    return guided_step(_of_key(key), setup, batch, guide_size, backbone)


def seconds_per_picture(
    ctx: Context, flops: float | None, unknown: str = _NO_CONFIGURATION
) -> tuple[float | None, str]:
    """(seconds, from what they are known); (None, why not) where nothing is known.

    `unknown` is why there are no `flops`, where there are none.

    An earlier run of these settings on this device counts first; else the device's speed is
    measured by a matrix product, which takes less than a second.
    """
    try:
        device = resolve_device(ctx.recipe.run.device)
    except UserError as error:
        return None, str(error)
    earlier = _earlier(ctx, device)
    if earlier is not None:
        return earlier, "an earlier run here"
    if flops is None:
        return None, unknown
    ctx.progress.note("measuring this device ...")
    dtype = ctx.recipe.model.dtype
    speed = matmul_speed(device, getattr(torch, dtype))
    return flops / (speed * EFFICIENCY), (
        f"arithmetic speed of {device_name(device)}: {speed / 1e12:.3g} TFLOP/s measured by a "
        f"matrix product in {dtype}, {EFFICIENCY:.0%} of it counted on; rough, typically within "
        "a factor of 2 to 3"
    )


def matmul_speed(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a large matrix product."""
    side = 256 if device.type == "cpu" else 1024
    # Grown until one product is long enough to be timed: what is large depends on the device.
    while True:
        one = torch.ones(side, side, device=device, dtype=dtype)
        # The best of three: the first starts threads up, and other programs want the processor too.
        seconds = min(_timed(lambda: one @ one, device) for _ in range(3))  # noqa: B023
        # Well above the hundredth of a second for which a busy processor lets one thread wait.
        if seconds > 0.03 or side >= 8192:
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
    about = layout_of(ctx.recipe.data.layout)
    assert about is not None
    sizes = dict(about.sizes)
    if ctx.recipe.data.shots is not None:
        sizes["train"] = min(ctx.recipe.data.shots * about.classes, sizes["train"])
    splits = ctx.recipe.contours.splits
    for split in splits:
        if split not in sizes:
            raise _no_split(split, list(sizes))
    images = sum(sizes[split] for split in splits) * _per_photo(ctx)
    return Counted(images, about.classes, "published split sizes", note=note)


def _per_photo(ctx: Context) -> int:
    return ctx.recipe.contours.per_image * ctx.recipe.pictures.per_contour


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
    files = ctx.ws.synthesize
    try:
        record = read_record(files.directory)
        seconds = parse(record.counts, SynthesisCounts, files.record).seconds_per_image
    except UserError:
        return None
    recipe = ctx.recipe
    now = recipe.model_dump(mode="json", include=_PACE) | {"run": recipe.run.parting()}
    before = {section: record.inputs.parameters.get(section) for section in _PACE}
    return seconds if record.device == str(device) and before == now else None
