"""How many pictures go together: the recipe's number, or what fits this device."""

from __future__ import annotations

from collections.abc import Callable

import psutil
from accelerate.utils.memory import find_executable_batch_size

from higfa_cli.artifacts.rows import PlanItem
from higfa_cli.errors import UserError
from higfa_cli.models.architecture import architecture
from higfa_cli.models.classifier import Classifier
from higfa_cli.models.diffusion import DiffusionModel
from higfa_cli.models.footprint import guided_step
from higfa_cli.recipe.drawing import AUTOMATIC_SHARE
from higfa_cli.stages.context import Context
from higfa_cli.stages.drawing import draw_together

LARGEST = 32


def batch_size(ctx: Context, model: DiffusionModel, attempt: Callable[[int], None]) -> int:
    """`run.batch_size`; where it is `auto`, the largest power of two up to 32 that fits.

    On a GPU `attempt(size)` is tried; a device that kills the program instead of raising an error
    (CPU, MPS) is asked for its free memory, and a guided step's need is estimated.

    Raises UserError where not even one picture fits.
    """
    asked = ctx.recipe.run.batch_size
    if asked != "auto":
        return asked
    if model.device.type == "cuda":
        return largest_that_runs(attempt)
    return _largest_by_estimate(ctx)


def largest_that_runs(attempt: Callable[[int], None], start: int = LARGEST) -> int:
    """`start`, halved until `attempt(size)` does not run out of memory.

    Raises UserError where 1 is still too much.
    """
    size = start

    def halve() -> int:
        nonlocal size
        size //= 2
        return size

    @find_executable_batch_size(starting_batch_size=start, reduce_batch_size_fn=halve)
    def run(batch_size: int) -> int:
        attempt(batch_size)
        return batch_size

    try:
        return int(run())
    except RuntimeError as error:
        if "No executable batch size" not in str(error):
            raise
        raise _too_large() from error


def costliest_step(
    ctx: Context, model: DiffusionModel, guide: Classifier | None, item: PlanItem
) -> Callable[[int], None]:
    """Draw so many copies of `item` in one step that is guided if any is, and decode them."""
    # The first step from pure noise is never guided: then the second of two is.
    steps = 1 if model.solver(1).levels[0].alpha > 0 else 2
    changes = {"steps": steps, "conditioning_interval": (0.0, 1.0)}
    sampling = model.sampling.model_copy(update=changes)
    guidance = ctx.recipe.guidance.switched(1.0 if guide is None else 0.0)

    def attempt(size: int) -> None:
        draw_together(ctx, model.with_sampling(sampling), guide, guidance, [item] * size)

    return attempt


def _largest_by_estimate(ctx: Context) -> int:
    room = psutil.virtual_memory().available * AUTOMATIC_SHARE
    arch = architecture(ctx.recipe.model, ctx.base)
    size = LARGEST
    while size >= 1:
        need = guided_step(arch, ctx.recipe, size)
        if need.peak - need.weights <= room:
            return size
        size //= 2
    raise _too_large()


def _too_large() -> UserError:
    return UserError(
        "not even one picture fits in this device's memory; set model.gradient_autoencoder "
        "to a tiny autoencoder, run.memory.gradient_checkpointing: true or "
        "run.memory.cpu_offload: true"
    )
