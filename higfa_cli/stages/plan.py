"""All pictures that a recipe asks for. Needs no torch, so that a look costs little."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from higfa_cli.artifacts.artifact import read_rows
from higfa_cli.artifacts.plan import make_plan, sample
from higfa_cli.artifacts.rows import ContourRow, PlanItem
from higfa_cli.data.dataset import Dataset
from higfa_cli.data.prompts import negative_for, prompts_for
from higfa_cli.errors import UserError
from higfa_cli.recipe.schema import Recipe
from higfa_cli.stages.context import ArmContext, Context, load_photos
from higfa_cli.stages.inputs import manifest_path


def plan(ctx: Context) -> tuple[PlanItem, ...]:
    """All pictures of the recipe in drawing order, not yet in batches.

    Raises:
        UserError: no contours, a class without words or prompts, or nothing to draw.
    """
    rows = contour_rows(ctx)
    return make_plan(
        rows,
        class_prompts(ctx, {row.cls for row in rows}),
        negative_for(ctx.recipe.prompts, ctx.base),
        _by_class(ctx.recipe, load_photos(ctx), Counter(row.cls for row in rows)),
        ctx.recipe.seed,
    )


def expected(recipe: Recipe, photos: Dataset) -> dict[str, int]:
    """Class -> pictures, as far as every photo will give its contours.

    Raises UserError where nothing is to be drawn.
    """
    sources = Counter(photo.cls for split in recipe.contours.splits for photo in photos.of(split))
    contours = {cls: count * recipe.contours.per_image for cls, count in sources.items()}
    return _by_class(recipe, photos, contours)


def _by_class(recipe: Recipe, photos: Dataset, contours: Mapping[str, int]) -> dict[str, int]:
    trained = Counter(photo.cls for photo in photos.of("train"))
    wanted = {cls: recipe.pictures.of(count, trained[cls]) for cls, count in contours.items()}
    if not any(wanted.values()):
        raise UserError(
            f"pictures.total_per_class is {recipe.pictures.total_per_class}, and every class has "
            "as many photos to train on, so there is nothing to draw; raise it"
        )
    return wanted


def arm_plan(ctx: ArmContext) -> tuple[PlanItem, ...]:
    """The pictures of one arm: all of `plan`, or the gallery's sample of them."""
    items = plan(ctx)
    return items if ctx.sample is None else sample(items, ctx.sample, ctx.recipe.seed)


def class_prompts(ctx: Context, classes: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Class -> every prompt that a picture of it may have.

    Raises UserError for a class without words, or a prompt bank that is missing or broken.
    """
    prompts = prompts_for(ctx.recipe.prompts, load_photos(ctx).words, ctx.base)
    return {name: prompts[name] for name in classes}


def contour_rows(ctx: Context) -> list[ContourRow]:
    """Rows of the contours' manifest. Raises UserError: missing, broken, or of other classes."""
    path = manifest_path(ctx)
    rows = read_rows(path, ContourRow)
    classes = load_photos(ctx).classes
    for row in rows:
        if row.class_id >= len(classes) or classes[row.class_id] != row.cls:
            raise UserError(
                f"{path}: class `{row.cls[:80]}` with id {row.class_id} is not so in the data; "
                "run `higfa contours --force`"
            )
    return rows
