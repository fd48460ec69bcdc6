"""Stage `synthesize`: contours and guide in, pictures with their traces out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch

from higfa_cli.artifacts.records import SynthesisCounts
from higfa_cli.artifacts.rows import PlanItem
from higfa_cli.artifacts.run_record import StageRun, stage_run
from higfa_cli.models.diffusion import DiffusionModel
from higfa_cli.models.draw import evaluations
from higfa_cli.stages.batch_files import Models, failures, rows_of, write_metadata
from higfa_cli.stages.context import Context
from higfa_cli.stages.gallery import write_gallery
from higfa_cli.stages.inputs import synthesize_inputs
from higfa_cli.stages.plan import plan
from higfa_cli.stages.shards import (
    Shard,
    count_workers,
    draw_batches,
    draw_in_workers,
    run_shard,
    settle,
    torch_threads,
)

NAME = "synthesize"


def run(
    ctx: Context,
    shard: tuple[int, int] | None = None,
    workers: int | Literal["auto"] = 1,
    retry_failed: bool = False,
) -> Mapping[str, object]:
    """Draw the whole plan; batches of an interrupted run that are whole are kept.

    Args:
        ctx: the run.
        shard: (i, n): draw only the batches whose index leaves i on division by n, beside other
            processes that draw the others; the last of them closes the stage.
        workers: draw in so many processes.
        retry_failed: draw batches with a failed picture again.

    Returns:
        Counts and cost, as in `run.json`; for a shard that is not the last, how far the plan is.
    """
    inputs = synthesize_inputs(ctx)
    items = plan(ctx)
    directory = ctx.ws.synthesize.directory
    if shard is not None:
        return run_shard(ctx, inputs, items, Shard(*shard), lambda r, m: _finish(ctx, r, m, items))
    with stage_run(directory, inputs, ctx.recipe, resume=not ctx.force) as record:
        count = count_workers(ctx, workers)
        return _finish(ctx, record, Models(ctx, items), items, count, retry_failed)


def _finish(
    ctx: Context,
    record: StageRun,
    models: Models,
    items: Sequence[PlanItem],
    workers: int = 1,
    retry_failed: bool = False,
) -> Mapping[str, object]:
    """Draw what is missing of the plan, then everything that is made of the whole."""
    files = ctx.ws.synthesize
    settled = settle(ctx, record, models, items, workers)
    drawn = 0
    if workers > 1:
        drawn = draw_in_workers(ctx, record, items, settled, workers, retry_failed)
        retry_failed = False
    with torch_threads(settled.threads):
        drawn += draw_batches(ctx, record, models, settled.groups, retry_failed)
        model, _ = models.loaded
        record.device = str(model.device)
        rows = [row for group in settled.groups for row in rows_of(record, files, group)]
        write_metadata(record, files, rows)
        write_gallery(ctx, record, model, settled.items)
    levels = model.solver(ctx.recipe.sampling.steps).levels
    denoiser, passes = evaluations(ctx.recipe.guidance, levels)
    seconds = sum(record.seconds.values())
    failed = failures(rows)
    counts = SynthesisCounts(
        images=len(rows) - sum(failed.values()),
        failed=sum(failed.values()),
        failures=failed,
        smallest_batch=min((row.effective_batch for row in rows), default=None),
        drawn_now=drawn,
        seconds=round(seconds, 3),
        seconds_per_image=round(seconds / len(rows), 4),
        denoiser_evaluations_per_image=denoiser,
        guide_evaluations_per_image=passes,
        batch_size=settled.batch_size,
        dtype=ctx.recipe.model.dtype,
        peak_device_memory=_peak_memory(model),
    )
    record.counts = counts
    return {"output": str(files.images), **counts.plain()}


def _peak_memory(model: DiffusionModel) -> int | None:
    """Most bytes that the device held for tensors in this process; None where nobody counts."""
    if model.device.type != "cuda":
        return None
    return int(torch.cuda.max_memory_allocated(model.device))
