"""Stage `synthesize`: contours and guide in, pictures with their traces out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch

from higfa_cli.artifacts.atomic import write_bytes
from higfa_cli.artifacts.records import SynthesisCounts
from higfa_cli.artifacts.rows import PlanItem
from higfa_cli.artifacts.run_record import StageInputs, StageRun, stage_run
from higfa_cli.data.images import encode_png, fit_square
from higfa_cli.models.diffusion import DiffusionModel
from higfa_cli.models.draw import evaluations
from higfa_cli.stages.batch_files import Models, failures, rows_of, write_metadata
from higfa_cli.stages.context import ArmContext, Context, arms_of
from higfa_cli.stages.inputs import synthesize_inputs
from higfa_cli.stages.photos import load_photos
from higfa_cli.stages.plan import arm_plan
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
    arms: Sequence[str],
    shard: tuple[int, int] | None = None,
    workers: int | Literal["auto"] = 1,
    retry_failed: bool = False,
) -> Mapping[str, object]:
    """Draw the plan of each arm; batches of an interrupted run that are whole are kept.

    Args:
        ctx: the run.
        arms: of `Recipe.drawn`.
        shard: (i, n): draw only the batches whose index leaves i on division by n, beside other
            processes that draw the others; the last of them closes the arm.
        workers: draw in so many processes.
        retry_failed: draw batches with a failed picture again.

    Returns:
        Arm -> counts and cost, as in its `run.json`; for a shard that is not the last, how far
        the plan is.
    """
    chosen = arms_of(ctx, NAME, arms)
    inputs = [synthesize_inputs(arm) for arm in chosen]
    plans = [(arm, arm_plan(arm)) for arm in chosen]
    models = Models(plans)
    parts = None if shard is None else Shard(*shard)
    return {
        arm.name: _draw(arm, of_arm, models, items, parts, workers, retry_failed)
        for of_arm, (arm, items) in zip(inputs, plans, strict=True)
    }


def _draw(
    ctx: ArmContext,
    inputs: StageInputs,
    models: Models,
    items: Sequence[PlanItem],
    shard: Shard | None,
    workers: int | Literal["auto"],
    retry_failed: bool,
) -> Mapping[str, object]:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    if shard is not None:
        return run_shard(
            ctx, inputs, models, items, shard, lambda record: _finish(ctx, record, models, items)
        )
    directory = ctx.ws.synthesize.directory
    with stage_run(directory, inputs, ctx.recipe, resume=not ctx.force) as record:
        count = count_workers(ctx, workers)
        return _finish(ctx, record, models, items, count, retry_failed)


def _finish(
    ctx: ArmContext,
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
        model, _ = models.of(ctx)
        record.device = str(model.device)
        rows = [row for group in settled.groups for row in rows_of(record, files, group)]
        write_metadata(record, files, rows)
        if ctx.sample is not None:
            _write_sources(ctx, record, settled.items)
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


def _write_sources(ctx: ArmContext, record: StageRun, items: Sequence[PlanItem]) -> None:
    """The photos of the gallery's pictures beside them, so that the report needs no data."""
    photos = {sample.key: sample for sample in load_photos(ctx).samples}
    for item in items:
        path = ctx.ws.synthesize.source(item.id)
        write_bytes(path, encode_png(fit_square(photos[item.source].read(), ctx.recipe.size)))
        record.output(path)


def _peak_memory(model: DiffusionModel) -> int | None:
    """Most bytes that the device held for tensors in this process; None where nobody counts."""
    if model.device.type != "cuda":
        return None
    return int(torch.cuda.max_memory_allocated(model.device))
