"""`higfa synthesize --dry-run`: the plan in numbers, with or without photos and weights."""

from __future__ import annotations

import math

from higfa_cli.artifacts.plan import in_batches
from higfa_cli.forecast.estimate import (
    check_drawable,
    count_pictures,
    memory_of,
    picture_cost,
    seconds_per_picture,
)
from higfa_cli.stages.context import Context
from higfa_cli.stages.recipe_checks import check_recipe

NAME = "synthesize"
_FIRST = 3


def dry_run(ctx: Context) -> dict[str, object]:
    """The plan in numbers; nothing is loaded or written, and the network is not asked.

    Where the contours are there, the counts are the plan's own; where they are not, they are
    counted from the photos or from the published sizes of a public dataset ("counted_from").

    Returns:
        Counts, arithmetic ("flops", a multiply-add being two), estimated memory and time. What
        cannot be known is None, and "notes" says why. "batches" is None for an automatic batch
        size, which the device settles when the stage starts; memory is then that of one picture.

    Raises:
        UserError: data that is neither here nor a public dataset; a prompt bank, class words or a
            size that cannot be right.
    """
    check_drawable(ctx)
    check_recipe(ctx.recipe, ctx.base)
    counted = count_pictures(ctx)
    cost = picture_cost(ctx)
    size = ctx.recipe.run.batch_size
    seconds, source = seconds_per_picture(ctx) or (None, None)
    notes = [note for note in (counted.note, *cost.notes) if note is not None]
    if seconds is None and cost.flops is not None:
        notes.append("time is not known before a preview or a run has measured it")
    memory = None
    if cost.architecture is not None:
        memory = memory_of(ctx, cost.architecture, 1 if size == "auto" else size).peak
    result: dict[str, object] = {
        "images": counted.images,
        "classes": counted.classes,
        "counted_from": counted.source,
        "batches": None if size == "auto" else math.ceil(counted.images / size),
        "batch_size": size,
        "steps": ctx.recipe.sampling.steps,
        "guided_steps": cost.guide_evaluations,
        "denoiser_evaluations": _times(cost.denoiser_evaluations, counted.images),
        "denoiser_evaluations_per_image": cost.denoiser_evaluations,
        "guide_evaluations": _times(cost.guide_evaluations, counted.images),
        "flops": _times(cost.flops, counted.images),
        "flops_per_image": cost.flops,
        "estimated_memory_bytes": memory,
        "estimated_seconds": _times(seconds, counted.images),
        "estimated_from": source,
        "output": str(ctx.ws.synthesize.images),
        "notes": notes,
    }
    if counted.items:
        first = counted.items[:_FIRST]
        parted = first if size == "auto" else in_batches(first, size)
        result["first"] = [item.plain() for item in parted]
    return result


def _times(each: float | None, count: int) -> float | None:
    return None if each is None else each * count
