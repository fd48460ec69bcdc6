"""Stage `synthesize`: contours and guide in, pictures with their traces out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from higfa_cli.artifacts.atomic import write_bytes
from higfa_cli.artifacts.records import SynthesisCounts
from higfa_cli.artifacts.rows import PlanItem
from higfa_cli.artifacts.run_record import StageRun, stage_run
from higfa_cli.data.images import encode_png, fit_square
from higfa_cli.models.diffusion import DiffusionModel
from higfa_cli.models.draw import evaluations
from higfa_cli.stages.batch_files import Models, failures, rows_of, write_metadata
from higfa_cli.stages.context import ArmContext, Context, Silent, arms_of
from higfa_cli.stages.engines import Engine, engine_of
from higfa_cli.stages.inputs import synthesize_inputs
from higfa_cli.stages.photos import load_photos
from higfa_cli.stages.plan import arm_plan
from higfa_cli.stages.shards import (
    ArmJob,
    Shard,
    closed,
    count_workers,
    draw_batches,
    open_plan,
    run_shard,
    settle,
    torch_threads,
    watch,
)

NAME = "synthesize"


@dataclass(frozen=True)
class ShardTask:
    """One shard of every arm's plan, for an engine; `ctx` is silent."""

    ctx: Context
    arms: tuple[str, ...]
    index: int
    count: int

    def __call__(self) -> None:
        """Draw it. Raises UserError as `run`."""
        run(self.ctx, self.arms, shard=(self.index, self.count))

    @property
    def device(self) -> str:
        """As the recipe names it."""
        return self.ctx.recipe.run.device

    def on(self, device: str) -> ShardTask:
        """The same on another device."""
        run = self.ctx.recipe.run.model_copy(update={"device": device})
        recipe = self.ctx.recipe.model_copy(update={"run": run})
        return replace(self, ctx=replace(self.ctx, recipe=recipe))


def run(
    ctx: Context,
    arms: Sequence[str],
    shard: tuple[int, int] | None = None,
    workers: int | Literal["auto"] = 1,
    engine: str = "local",
    retry_failed: bool = False,
) -> Mapping[str, object]:
    """Draw the plan of each arm; batches of an interrupted run that are whole are kept.

    Args:
        ctx: the run.
        arms: of `Recipe.drawn`.
        shard: (i, n): draw only the batches whose index leaves i on division by n, beside other
            processes that draw the others; the last of them closes the arm.
        workers: have so many shards drawn.
        engine: what starts them, of `ENGINES`.
        retry_failed: draw batches with a failed picture again.

    Returns:
        Arm -> counts and cost, as in its `run.json`; for a shard that is not the last, how far
        the plan is.
    """
    chosen = arms_of(ctx, NAME, arms)
    inputs = [synthesize_inputs(arm) for arm in chosen]
    plans = [arm_plan(arm) for arm in chosen]
    models = Models(list(zip(chosen, plans, strict=True)))
    jobs = [
        ArmJob(arm, read, models, items)
        for arm, read, items in zip(chosen, inputs, plans, strict=True)
    ]
    if shard is not None:
        return {job.ctx.name: run_shard(job, Shard(*shard), _finish) for job in jobs}
    if (count := count_workers(ctx, workers)) > 1:
        return _draw_in_shards(ctx, jobs, count, engine_of(engine), retry_failed)
    return {job.ctx.name: _draw(job, not ctx.force, retry_failed) for job in jobs}


def _draw(job: ArmJob, resume: bool, retry_failed: bool = False) -> Mapping[str, object]:
    """Draw an arm in this process."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    directory = job.ctx.ws.synthesize.directory
    with stage_run(directory, job.inputs, job.ctx.recipe, resume) as record:
        return _finish(job, record, retry_failed)


def _draw_in_shards(
    ctx: Context, jobs: Sequence[ArmJob], count: int, engine: Engine, retry_failed: bool
) -> Mapping[str, object]:
    """Have other processes draw all arms, a shard each; the last of them closes an arm.

    Raises UserError when one ended before its time; the batches of the others stay.
    """
    todo = {job.ctx.name: open_plan(job, count, retry_failed) for job in jobs}
    traces = [
        job.ctx.ws.synthesize.trace(group[0].batch) for job in jobs for group in todo[job.ctx.name]
    ]
    if (shards := min(count, len(traces))) > 0:
        silent = replace(ctx, progress=Silent())
        tasks = [ShardTask(silent, tuple(todo), index, shards) for index in range(shards)]
        watch(ctx, engine(tasks), traces)
    summaries = {job.ctx.name: closed(job) or _draw(job, resume=True) for job in jobs}
    return {
        name: {**summary, "drawn_now": sum(len(group) for group in todo[name])}
        for name, summary in summaries.items()
    }


def _finish(job: ArmJob, record: StageRun, retry_failed: bool = False) -> Mapping[str, object]:
    """Draw what is missing of the plan, then everything that is made of the whole."""
    ctx, models = job.ctx, job.models
    files = ctx.ws.synthesize
    settled = settle(job, record)
    with torch_threads(settled.threads):
        drawn = draw_batches(ctx, record, models, settled.groups, retry_failed)
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
