"""Stage `synthesize`: contours and guide in, pictures with their traces out.

Several processes can draw one plan: a shard each, whoever starts them. All draw by the plan that
the first one settled (batches, their size, threads per process), so who draws a batch does not
change it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from higfa_cli.artifacts.lock import folder_lock, gate, living_parts
from higfa_cli.artifacts.rows import PlanFile
from higfa_cli.artifacts.run_record import (
    StageRun,
    closing_run,
    opening_run,
    part_run,
    stage_run,
)
from higfa_cli.errors import UserError
from higfa_cli.models.device import gpus, resolve_device
from higfa_cli.stages.arm_job import ArmJob, Batch
from higfa_cli.stages.context import Context, Silent, arms_of
from higfa_cli.stages.drawing import Models, torch_threads
from higfa_cli.stages.engines import Crew, Engine, engine_of
from higfa_cli.stages.inputs import synthesize_inputs
from higfa_cli.stages.plan import arm_plan
from higfa_cli.stages.worth import unguided

NAME = "synthesize"
_POLL_SECONDS = 0.1


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
    for arm in chosen:
        if (warning := unguided(arm.recipe)) is not None:
            ctx.progress.note(f"warning: arm {arm.name}: {warning}")
    inputs = [synthesize_inputs(arm) for arm in chosen]
    plans = [(arm, arm_plan(arm)) for arm in chosen]
    models = Models(plans)
    jobs = [
        ArmJob(arm, read, models, items) for (arm, items), read in zip(plans, inputs, strict=True)
    ]
    if shard is not None:
        return {job.ctx.name: _draw_shard(job, *shard) for job in jobs}
    if (count := _count_workers(ctx, workers)) > 1:
        return _draw_in_shards(ctx, jobs, count, engine_of(engine), retry_failed)
    return {job.ctx.name: _draw(job, ctx.force, retry_failed) for job in jobs}


def _draw(job: ArmJob, anew: bool = False, retry_failed: bool = False) -> Mapping[str, object]:
    """Draw an arm in this process."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with stage_run(job.files.directory, job.inputs, job.ctx.recipe, True, anew) as record:
        return job.finish(record, retry_failed)


def _draw_shard(job: ArmJob, index: int, count: int) -> Mapping[str, object]:
    """Draw one shard of an arm; close the arm if all the others are done.

    Raises UserError (exit code 75): the shard is taken, or one process draws the whole plan.
    """
    recipe, directory = job.ctx.recipe, job.files.directory
    settled: list[tuple[PlanFile, list[Batch]]] = []

    def settle(record: StageRun) -> None:
        settled.append(job.settle(record))

    with part_run(directory, job.inputs, recipe, f"shard-{index}-of-{count}", settle) as record:
        ((plan, groups),) = settled
        with torch_threads(plan.threads):
            job.draw(record, [group for group in groups if group[0].batch % count == index])
    with gate(directory), folder_lock(directory):
        so_far, total = len(job.files.all_traces()), len(groups)
        if (summary := job.closed()) is not None:
            return summary
        if so_far < total or living_parts(directory):
            done = f"shard {index}/{count} done, {so_far} of {total} batches so far"
            return {"output": str(job.files.images), "state": done}
        with closing_run(directory, job.inputs, recipe) as record:
            return job.finish(record)


def _draw_in_shards(
    ctx: Context, jobs: Sequence[ArmJob], count: int, engine: Engine, retry_failed: bool
) -> Mapping[str, object]:
    """Have other processes draw all arms, a shard each; the last of them closes an arm.

    Raises UserError when one ended before its time; the batches of the others stay.
    """
    todo = {job.ctx.name: _open_plan(job, count, retry_failed) for job in jobs}
    traces = [job.files.trace(group[0].batch) for job in jobs for group in todo[job.ctx.name]]
    if (shards := min(count, len(traces))) > 0:
        draw = partial(_draw_on, replace(ctx, progress=Silent()), tuple(todo), shards)
        _watch(ctx, engine(draw, shards, ctx.recipe.run.device), traces)
    summaries = {job.ctx.name: job.closed() or _draw(job) for job in jobs}
    return {
        name: {**summary, "drawn_now": sum(len(group) for group in todo[name])}
        for name, summary in summaries.items()
    }


def _draw_on(ctx: Context, arms: Sequence[str], count: int, index: int, device: str) -> None:
    """Draw one shard of every arm on a device, in a process of its own."""
    run_there = ctx.recipe.run.model_copy(update={"device": device})
    recipe = ctx.recipe.model_copy(update={"run": run_there})
    run(replace(ctx, recipe=recipe), arms, shard=(index, count))


def _count_workers(ctx: Context, wanted: int | Literal["auto"]) -> int:
    """`auto`: one per GPU; on a CPU one per two cores."""
    if wanted != "auto":
        return wanted
    if resolve_device(ctx.recipe.run.device).type == "cuda":
        return gpus()
    return max(1, (os.cpu_count() or 1) // 2)


def _open_plan(job: ArmJob, workers: int, retry_failed: bool) -> list[Batch]:
    """Settle the plan for shards that follow; the batches that they are to draw.

    Raises UserError (exit code 75): the folder is in use.
    """
    with opening_run(job.files.directory, job.inputs, job.ctx.recipe, job.ctx.force) as record:
        _, groups = job.settle(record, workers)
        todo = [group for group in groups if not job.is_whole(record, group, retry_failed)]
        # A trace that stays would look like a finished batch.
        for group in todo:
            job.files.trace(group[0].batch).unlink(missing_ok=True)
    return todo


def _watch(ctx: Context, crew: Crew, traces: Sequence[Path]) -> None:
    """Show how the shards get on, until nobody works any more.

    Raises UserError when a batch is missing then; those that are drawn stay.
    """
    try:
        for _ in ctx.progress.track(_written(crew, traces), NAME, total=len(traces)):
            pass
    finally:
        codes = crew.end()
    drawn = sum(path.is_file() for path in traces)
    if drawn < len(traces):
        failed = ", ".join(str(code) for code in codes if code)
        raise UserError(
            f"a worker ended before its time (exit codes {failed or '0'}): {drawn} of "
            f"{len(traces)} batches are drawn; run the same command again"
        )


def _written(crew: Crew, traces: Sequence[Path]) -> Iterator[Path]:
    waiting, working = list(traces), True
    while working:
        working = crew.working(_POLL_SECONDS)
        for path in [path for path in waiting if path.is_file()]:
            waiting.remove(path)
            yield path
