"""`higfa synthesize --dry-run`: the plan in numbers, with or without photos and weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from higfa_cli.artifacts.plan import in_batches
from higfa_cli.forecast.estimate import (
    count_pictures,
    flops_of,
    memory_of,
    picture_cost,
    seconds_per_picture,
)
from higfa_cli.models.architecture import WrongSize
from higfa_cli.stages.context import ArmContext, Context, choose_names
from higfa_cli.stages.recipe_checks import check_recipe

_FIRST = 3
_SUMS = (
    "images",
    "batches",
    "denoiser_evaluations",
    "guide_evaluations",
    "flops",
    "estimated_seconds",
)


def dry_run(ctx: Context, arms: Sequence[str] = ()) -> dict[str, object]:
    """The plan in numbers; nothing is loaded or written, and the network is not asked.

    Where the contours are there, the counts are the plan's own; where they are not, they are
    counted from the photos or from the published sizes of a public dataset ("counted_from").

    Args:
        ctx: the run.
        arms: of the recipe; () for all.

    Returns:
        Counts, arithmetic ("flops", a multiply-add being two), estimated memory (of the arm that
        needs most) and time, of all arms together and of each; the gallery's sample is not
        counted. What cannot be known is None, and "notes" says why. "batches" is None for an
        automatic batch size, which the device settles when the stage starts; memory is then that
        of one picture.

    Raises:
        UserError: data that is neither here nor a public dataset; a prompt bank, class words or a
            size that cannot be right; a name that is no arm of the recipe.
    """
    contexts = [ctx.arm(name) for name in choose_names(arms, ctx.recipe.arms)]
    for arm in contexts:
        check_recipe(arm.recipe, arm.base)
    counted, size = count_pictures(ctx), ctx.recipe.run.batch_size
    notes: dict[str | None, None] = {counted.note: None}
    rows = {arm.name: _arm(arm, counted.images, notes) for arm in contexts}
    result: dict[str, object] = {
        "classes": counted.classes,
        "counted_from": counted.source,
        "batch_size": size,
        **{key: _sum([row[key] for row in rows.values()]) for key in _SUMS},
        "estimated_memory_bytes": max(row["estimated_memory_bytes"] or 0 for row in rows.values())
        or None,
        "arms": rows,
        "notes": [note for note in notes if note is not None],
    }
    if counted.items:
        first = counted.items[:_FIRST]
        parted = first if size == "auto" else in_batches(first, size)
        result["first"] = [item.plain() for item in parted]
    return result


def _arm(ctx: ArmContext, images: int, notes: dict[str | None, None]) -> dict[str, Any]:
    cost, size = picture_cost(ctx), ctx.recipe.run.batch_size
    if isinstance(cost.error, WrongSize):
        raise cost.error
    if cost.error is not None:
        notes[f"steps, arithmetic, memory and time are not known: {cost.error}"] = None
    seconds, source = seconds_per_picture(ctx) or (None, None)
    if seconds is None and cost.error is None:
        notes["time is not known before a preview or a run has measured it"] = None
    memory = flops = None
    if cost.architecture is not None:
        flops = flops_of(ctx, cost.architecture)
        memory = memory_of(ctx, cost.architecture, 1 if size == "auto" else size).peak
    return {
        "images": images,
        "batches": None if size == "auto" else math.ceil(images / size),
        "steps": ctx.recipe.sampling.steps,
        "guided_steps": cost.guide_evaluations,
        "denoiser_evaluations": _times(cost.denoiser_evaluations, images),
        "denoiser_evaluations_per_image": cost.denoiser_evaluations,
        "guide_evaluations": _times(cost.guide_evaluations, images),
        "flops": _times(flops, images),
        "flops_per_image": flops,
        "estimated_memory_bytes": memory,
        "estimated_seconds": _times(seconds, images),
        "estimated_from": source,
        "output": str(ctx.ws.synthesize.images),
    }


def _times(each: float | None, count: int) -> float | None:
    return None if each is None else each * count


def _sum(values: Sequence[float | None]) -> float | None:
    """None where a value is missing."""
    numbers = [value for value in values if value is not None]
    return sum(numbers) if len(numbers) == len(values) else None
