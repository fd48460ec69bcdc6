"""What a synthesis run will cost, before anything is loaded: pictures, arithmetic, memory, time."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from higfa_cli.artifacts.artifact import parse, read_model
from higfa_cli.artifacts.records import Pace, SynthesisCounts
from higfa_cli.artifacts.rows import PlanItem
from higfa_cli.artifacts.stage_state import read_record
from higfa_cli.data.layouts import layout_of
from higfa_cli.data.layouts.common import Layout
from higfa_cli.errors import UserError
from higfa_cli.forecast.model_files import FOLDER, missing_files, weights_of
from higfa_cli.forecast.remembered import remembered
from higfa_cli.models.architecture import architecture, check_size
from higfa_cli.models.families import FAMILIES
from higfa_cli.models.families.family import Architecture
from higfa_cli.recipe.refs import resolve_ref
from higfa_cli.recipe.schema import Recipe
from higfa_cli.stages.context import ArmContext, Context, check_splits, load_photos
from higfa_cli.stages.inputs import drawing_parameters
from higfa_cli.stages.pipeline import state
from higfa_cli.stages.plan import expected, plan

# CUDA's context, cuDNN's workspaces and fragmentation, which no estimate sees: docs/memory.md.
ALLOWANCE = 3 * 2**29
# What the seconds per picture depend on, in the inputs of stage `synthesize`.
_PACE = {"size", "model", "guidance", "sampling", "run"}


@dataclass(frozen=True)
class Counted:
    """How many pictures of how many classes, and from what that is known.

    `items` is the plan itself where the contours are there, else empty. `note` says why the
    contours of the workspace were not used, where there are any.
    """

    images: int
    classes: int
    source: Literal["contours", "photos", "published split sizes"]
    items: tuple[PlanItem, ...] = ()
    note: str | None = None


@dataclass(frozen=True)
class Need:
    """Bytes on the device: weights, and the most that is live at once in a guided step."""

    weights: int
    peak: int


@dataclass(frozen=True)
class Cost:
    """Of one picture; None where `error` stands in the way of knowing it."""

    architecture: Architecture | None = None
    denoiser_evaluations: int | None = None
    guide_evaluations: int | None = None
    error: UserError | None = None


def count_pictures(ctx: Context) -> Counted:
    """The size of the plan: of the contours, else of the photos, else as the dataset's authors say.

    Raises:
        UserError: data that is neither here nor a public dataset, or an absent split.
    """
    recipe, note = ctx.recipe, None
    if ctx.ws.contours.manifest.is_file():
        contours = state(ctx, "contours")
        if contours.kind == "fresh":
            items = plan(ctx)
            return Counted(len(items), len({item.cls for item in items}), "contours", items)
        note = (
            f"the contours of this workspace were not counted: they are {contours.kind} "
            f"({'; '.join(contours.reasons)})"
        )
    layout = layout_of(recipe.data.layout)
    if photos_folder(ctx) is None and layout is not None:
        images = published_pictures(recipe, layout)
        return Counted(images, layout.classes, "published split sizes", note=note)
    photos = load_photos(ctx)
    check_splits(recipe, photos.splits)
    wanted = [count for count in expected(recipe, photos).values() if count]
    return Counted(sum(wanted), len(wanted), "photos", note=note)


def published_pictures(recipe: Recipe, layout: Layout) -> int:
    """Pictures of a public dataset, with classes about alike. UserError for an absent split."""
    sizes = dict(layout.sizes)
    if recipe.data.shots is not None:
        sizes["train"] = min(recipe.data.shots * layout.classes, sizes["train"])
    check_splits(recipe, sizes)
    contours = sum(sizes[split] for split in recipe.contours.splits) * recipe.contours.per_image
    return recipe.pictures.of(contours, sizes["train"], layout.classes)


def photos_folder(ctx: Context) -> Path | None:
    """The data folder; None where it is not there.

    Raises UserError for a part of the pocket that is not installed.
    """
    root = ctx.recipe.data.root
    try:
        place = resolve_ref(root, ctx.base)
    except UserError:
        if root.startswith("pocket:"):
            raise
        return None
    return place if isinstance(place, Path) else None


def picture_cost(ctx: Context) -> Cost:
    """What one picture costs, from the models' configurations alone."""
    recipe = ctx.recipe
    try:
        arch = model_parts(ctx)
        weights_of(recipe.guide.backbone)
    except UserError as error:
        missing = missing_files(recipe.model, ctx.base, recipe.run.local_files_only)
        folders = [lost.remedy for lost in missing if lost.file == FOLDER]
        return Cost(error=UserError(folders[0]) if folders else error)
    return Cost(arch, *_evaluations(ctx, arch))


def model_parts(ctx: Context) -> Architecture:
    """What the recipe's model is made of; no weights.

    Raises:
        UserError: a configuration that is not on this machine, parts that do not go together, or
            a size (WrongSize) or solver that the model cannot draw with.
    """
    recipe = ctx.recipe
    arch = architecture(recipe.model, ctx.base)
    check_size(arch, recipe.size, recipe.model)
    _evaluations(ctx, arch)
    return arch


def _evaluations(ctx: Context, arch: Architecture) -> tuple[int, int]:
    """(denoiser, guide) evaluations per picture.

    Raises UserError for a scheduler configuration that is not supported.
    """
    recipe = ctx.recipe
    sampling, family = recipe.sampling, FAMILIES[arch.family]

    def compute() -> tuple[int, int]:
        from higfa_cli.models.draw import evaluations

        solver = family.solver(sampling.scheduler, arch.scheduler, sampling.steps)
        return evaluations(recipe.guidance, solver.levels)

    sections = recipe.model_dump(mode="json", include={"guidance", "sampling"})
    denoiser, guide = remembered("evaluations", [family.name, arch.scheduler, sections], compute)
    return denoiser, guide


def memory_of(ctx: Context, arch: Architecture, batch: int) -> Need:
    """Bytes on the device of a guided step of `batch` pictures."""

    def compute() -> tuple[int, int]:
        from higfa_cli.models.footprint import guided_step

        ctx.progress.note("estimating the model's memory, once ...")
        need = guided_step(arch, ctx.recipe, batch)
        return need.weights, need.peak

    return Need(*remembered("memory", [batch, _reads(ctx, arch)], compute))


def flops_of(ctx: Context, arch: Architecture) -> float:
    """Floating-point operations of one picture, a multiply-add being two."""

    def compute() -> float:
        from higfa_cli.models.footprint import flops_per_picture

        ctx.progress.note("counting the model's arithmetic, once ...")
        return flops_per_picture(arch, ctx.recipe)

    return float(remembered("flops", _reads(ctx, arch), compute))


def _reads(ctx: Context, arch: Architecture) -> list[Any]:
    """What memory and arithmetic depend on."""
    recipe = ctx.recipe
    sections = recipe.model_dump(
        mode="json",
        include={"model": True, "size": True, "guidance": True, "sampling": True},
        # Where the parts are; `arch` says what they are.
        exclude={"model": {"base", "controlnet", "gradient_autoencoder"}},
    )
    guide = [recipe.guide.backbone, recipe.guide.image_size]
    return [asdict(arch), sections, recipe.run.memory.model_dump(mode="json"), guide]


def seconds_per_picture(ctx: ArmContext) -> tuple[float, str] | None:
    """(seconds, what measured them) of an arm's settings in this workspace; None where nothing has.

    A run counts before a preview.
    """
    device = ctx.recipe.run.device
    now = _pace(drawing_parameters(ctx))
    preview = ctx.ws.preview_pace
    measured = {
        "an earlier run": _of_run(ctx),
        "a preview": read_model(preview, Pace) if preview.is_file() else None,
    }
    for source, pace in measured.items():
        if pace is None or _pace(pace.parameters) != now:
            continue
        if device == "auto" or pace.device.startswith(device):
            return pace.seconds, f"{source} on {pace.device}"
    return None


def _pace(parameters: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in parameters.items() if key in _PACE}


def _of_run(ctx: ArmContext) -> Pace | None:
    files = ctx.ws.synthesize
    try:
        record = read_record(files.directory)
        seconds = parse(record.counts, SynthesisCounts, files.record).seconds_per_image
    except UserError:
        # The stage's state reports it; the time is then not known.
        return None
    return Pace(parameters=record.inputs.parameters, seconds=seconds, device=record.device)
