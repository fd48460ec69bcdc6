"""What a synthesis run will cost, before anything is loaded: pictures, arithmetic, memory, time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from higfa_cli.artifacts.artifact import parse, read_model
from higfa_cli.artifacts.records import Pace, SynthesisCounts
from higfa_cli.artifacts.rows import PlanItem
from higfa_cli.artifacts.stage_state import read_record
from higfa_cli.data.layouts import layout_of
from higfa_cli.errors import UserError
from higfa_cli.forecast.model_files import FOLDER, missing_files, weights_of
from higfa_cli.forecast.remembered import remembered
from higfa_cli.models.architecture import WrongSize, architecture, check_size
from higfa_cli.models.families import FAMILIES
from higfa_cli.models.families.family import Architecture
from higfa_cli.recipe.refs import resolve_ref
from higfa_cli.stages.context import ArmContext, Context
from higfa_cli.stages.inputs import drawing_parameters
from higfa_cli.stages.photos import load_photos
from higfa_cli.stages.pipeline import state
from higfa_cli.stages.plan import plan

Source = Literal["contours", "photos", "published split sizes"]

# CUDA's context, cuDNN's workspaces and fragmentation, which no estimate sees: docs/memory.md.
ALLOWANCE = 3 * 2**29
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
class Need:
    """Bytes on the device: weights, and the most that is live at once in a guided step."""

    weights: int
    peak: int


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
    sources = [photo for split in ctx.recipe.contours.splits for photo in photos.of(split)]
    images = len(sources) * _per_photo(ctx)
    return Counted(images, len({photo.cls for photo in sources}), "photos", note=note)


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
        arch = model_parts(ctx)
    except WrongSize as error:
        return Cost(error=error, reason="depends on size, which the model cannot draw")
    except UserError as error:
        lost = missing_files(recipe.model, ctx.base, recipe.run.local_files_only)
        if not lost:
            return Cost(error=error, reason="depends on model and ControlNet, which do not fit")
        wrong = next((one.remedy for one in lost if one.file == FOLDER), None)
        return Cost(error=error if wrong is None else UserError(wrong))
    try:
        weights_of(recipe.guide.backbone)
    except UserError as error:
        return Cost(error=error, reason="depends on guide.backbone, which timm does not know")
    return Cost(arch, *evaluations_of(ctx, arch), _flops(ctx, arch))


def model_parts(ctx: Context) -> Architecture:
    """What the recipe's model is made of; no weights.

    Raises:
        UserError: a configuration that is not on this machine, parts that do not go together, or
            a size or solver that the model cannot draw with.
    """
    recipe = ctx.recipe
    arch = architecture(recipe.model, ctx.base)
    check_size(arch, recipe.size, recipe.model)
    evaluations_of(ctx, arch)
    return arch


def evaluations_of(ctx: Context, arch: Architecture) -> tuple[int, int]:
    """(denoiser, guide) evaluations per picture.

    Raises UserError for a scheduler configuration that is not supported.
    """
    guidance, sampling = ctx.recipe.guidance, ctx.recipe.sampling
    family = FAMILIES[arch.family]

    def compute() -> dict[str, Any]:
        from higfa_cli.models.draw import evaluations

        solver = family.solver(sampling.scheduler, arch.scheduler, sampling.steps)
        denoiser, guide = evaluations(guidance, solver.levels)
        return {"denoiser": denoiser, "guide": guide}

    key = [
        arch.family,
        arch.scheduler,
        ctx.recipe.model_dump(mode="json", include={"guidance", "sampling"}),
    ]
    counts = remembered("evaluations", key, compute)
    return counts["denoiser"], counts["guide"]


def check_drawable(ctx: Context) -> None:
    """Raise WrongSize for a size that the model cannot draw; an unknown model can draw all."""
    try:
        model_parts(ctx)
    except WrongSize:
        raise
    except UserError:
        return


def memory_of(ctx: Context, arch: Architecture, batch: int) -> Need:
    """Bytes on the device of a guided step of `batch` pictures."""

    def compute() -> dict[str, Any]:
        from higfa_cli.models.footprint import guided_step

        ctx.progress.note("estimating the model's memory, once ...")
        return asdict(guided_step(arch, ctx.recipe, batch))

    return Need(**remembered("memory", [batch, _reads(ctx, arch)], compute))


def _flops(ctx: Context, arch: Architecture) -> float:
    def compute() -> dict[str, Any]:
        from higfa_cli.models.footprint import flops_per_picture

        ctx.progress.note("counting the model's arithmetic, once ...")
        return {"flops": flops_per_picture(arch, ctx.recipe)}

    return float(remembered("flops", _reads(ctx, arch), compute)["flops"])


def _reads(ctx: Context, arch: Architecture) -> list[Any]:
    """What memory and arithmetic depend on."""
    recipe = ctx.recipe
    sections = recipe.model_dump(mode="json", include={"model", "size", "guidance", "sampling"})
    guide = [recipe.guide.backbone, recipe.guide.image_size]
    return [asdict(arch), sections, recipe.run.memory.model_dump(mode="json"), guide]


def seconds_per_picture(ctx: ArmContext) -> tuple[float, str] | None:
    """(seconds, what measured them) of an arm's settings in this workspace; None where nothing has.

    A run counts before a preview.
    """
    named = ctx.recipe.run.device
    now = {k: v for k, v in drawing_parameters(ctx).items() if k in _PACE}
    for source, pace in (("an earlier run", _of_run(ctx)), ("a preview", _of_preview(ctx))):
        if pace is None or {k: v for k, v in pace.parameters.items() if k in _PACE} != now:
            continue
        if named == "auto" or pace.device.startswith(named):
            return pace.seconds, f"{source} on {pace.device}"
    return None


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
    contours = state(ctx, "contours")
    if contours.kind == "fresh":
        return None
    return f"they are {contours.kind} ({'; '.join(contours.reasons)})"


def _of_run(ctx: ArmContext) -> Pace | None:
    files = ctx.ws.synthesize
    try:
        record = read_record(files.directory)
        seconds = parse(record.counts, SynthesisCounts, files.record).seconds_per_image
    except UserError:
        # The stage's state reports it; the time is then not known.
        return None
    return Pace(parameters=record.inputs.parameters, seconds=seconds, device=record.device)


def _of_preview(ctx: ArmContext) -> Pace | None:
    path = ctx.ws.preview_pace
    return read_model(path, Pace) if path.is_file() else None
