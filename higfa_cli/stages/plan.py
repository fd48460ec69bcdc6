"""All pictures that a recipe asks for. Needs no torch, so that a look costs little."""

from __future__ import annotations

from collections.abc import Iterable

from higfa_cli.artifacts.artifact import read_rows
from higfa_cli.artifacts.plan import make_plan, sample
from higfa_cli.artifacts.rows import ContourRow, PlanItem
from higfa_cli.data.prompts import negative_for, prompts_for
from higfa_cli.errors import UserError
from higfa_cli.stages.context import ArmContext, Context, load_photos
from higfa_cli.stages.inputs import manifest_path


def plan(ctx: Context) -> tuple[PlanItem, ...]:
    """All pictures of the recipe in drawing order, not yet in batches.

    Raises:
        UserError: no contours, or a class without words or prompts.
    """
    rows = contour_rows(ctx)
    return make_plan(
        rows,
        class_prompts(ctx, {row.cls for row in rows}),
        negative_for(ctx.recipe.prompts, ctx.base),
        ctx.recipe.pictures.per_contour,
        ctx.recipe.seed,
    )


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
