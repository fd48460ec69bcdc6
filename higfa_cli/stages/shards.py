"""Several processes draw one plan: a shard each, whoever starts them.

All draw by the plan that the first one settled (batches, their size, threads per process), so who
draws a batch does not change it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from higfa_cli.artifacts.artifact import read_model, write_model, write_rows
from higfa_cli.artifacts.lock import folder_lock, gate, living_parts
from higfa_cli.artifacts.plan import batches, in_batches
from higfa_cli.artifacts.rows import PlanFile, PlanItem
from higfa_cli.artifacts.run_record import (
    StageInputs,
    StageRun,
    closing_run,
    opening_run,
    part_run,
)
from higfa_cli.artifacts.stage_state import read_record
from higfa_cli.errors import UserError
from higfa_cli.models.device import gpus, resolve_device
from higfa_cli.stages.batch_files import (
    Batch,
    Models,
    draw_batch,
    is_whole,
    keep_batch,
)
from higfa_cli.stages.batching import batch_size, costliest_step
from higfa_cli.stages.context import ArmContext, Context
from higfa_cli.stages.engines import Crew

_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Shard:
    """The batches whose index leaves remainder `index` on division by `count`."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def part(self) -> str:
        """The shard in names of files."""
        return f"shard-{self.index}-of-{self.count}"


@dataclass(frozen=True)
class ArmJob:
    """The pictures of an arm, and all that drawing them takes."""

    ctx: ArmContext
    inputs: StageInputs
    models: Models
    items: tuple[PlanItem, ...]


@dataclass(frozen=True)
class Settled:
    """What all participants of a plan must have in common."""

    items: tuple[PlanItem, ...]
    batch_size: int
    threads: int

    @property
    def groups(self) -> list[tuple[PlanItem, ...]]:
        """The items in batches, in the order of the plan."""
        return batches(self.items)


def settle(job: ArmJob, record: StageRun, workers: int = 1) -> Settled:
    """Write plan.json and plan.jsonl, or follow those of an earlier run of the same inputs.

    Raises UserError: the plan was settled on another kind of device.
    """
    ctx, items = job.ctx, job.items
    files, device = ctx.ws.synthesize, resolve_device(ctx.recipe.run.device).type
    if record.is_kept(files.name(files.plan)):
        record.keep(files.name(files.plan))
    else:
        asked = ctx.recipe.run.batch_size
        written = PlanFile(
            batch_size=asked if asked != "auto" else _probed(job),
            probed=asked == "auto",
            pictures=len(items),
            device=device,
            threads=max(1, torch.get_num_threads() // workers),
            dtype=ctx.recipe.model.dtype,
        )
        write_model(files.plan, written)
        record.output(files.plan)
    plan = read_model(files.plan, PlanFile)
    if plan.device.split(":")[0] != device:
        raise UserError(
            f"{files.plan} was begun on {plan.device}, and {device} draws slightly other pictures; "
            f"go on with --device {plan.device}, or start again with --force"
        )
    settled = Settled(in_batches(items, plan.batch_size), plan.batch_size, plan.threads)
    if record.is_kept(files.name(files.items)):
        record.keep(files.name(files.items))
    else:
        write_rows(files.items, settled.items)
        record.output(files.items)
    return settled


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Compute with so many threads: another number gives slightly other pictures on a CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def draw_batches(
    ctx: ArmContext,
    record: StageRun,
    models: Models,
    groups: Sequence[Batch],
    retry_failed: bool = False,
) -> int:
    """Every batch drawn or taken over; returns how many pictures were drawn now."""
    files, drawn = ctx.ws.synthesize, 0
    for group in ctx.progress.track(groups, f"synthesize {ctx.name}"):
        if is_whole(record, files, group, retry_failed):
            keep_batch(record, files, group)
        else:
            draw_batch(ctx, record, files, models, group)
            drawn += len(group)
    return drawn


def run_shard(
    job: ArmJob, shard: Shard, finish: Callable[[ArmJob, StageRun], Mapping[str, object]]
) -> Mapping[str, object]:
    """Draw one shard; `finish` closes the stage if all the others are done.

    Raises UserError (exit code 75): the shard is taken, or one process draws the whole plan.
    """
    ctx, files = job.ctx, job.ctx.ws.synthesize
    directory = files.directory
    settled: list[Settled] = []

    def settle_plan(record: StageRun) -> None:
        settled.append(settle(job, record))

    with part_run(directory, job.inputs, ctx.recipe, shard.part, settle_plan) as record:
        (plan,) = settled
        own = [group for group in plan.groups if group[0].batch % shard.count == shard.index]
        with torch_threads(plan.threads):
            draw_batches(ctx, record, job.models, own)
    with gate(directory), folder_lock(directory):
        so_far, total = len(files.all_traces()), len(plan.groups)
        if (summary := closed(job)) is not None:
            return summary
        if so_far < total or living_parts(directory):
            done = f"shard {shard} done, {so_far} of {total} batches so far"
            return {"output": str(files.images), "state": done}
        with closing_run(directory, job.inputs, ctx.recipe) as record:
            return finish(job, record)


def closed(job: ArmJob) -> Mapping[str, object] | None:
    """The summary of an arm that is finished with these inputs."""
    files = job.ctx.ws.synthesize
    record = read_record(files.directory)
    if record.status != "done" or record.inputs.key != job.inputs.key:
        return None
    return {"output": str(files.images), **record.counts}


def count_workers(ctx: Context, asked: int | Literal["auto"]) -> int:
    """`auto`: one per GPU; on a CPU one per two cores."""
    if asked != "auto":
        return asked
    if resolve_device(ctx.recipe.run.device).type == "cuda":
        return gpus()
    return max(1, (os.cpu_count() or 1) // 2)


def open_plan(job: ArmJob, workers: int, retry_failed: bool) -> list[Batch]:
    """Settle the plan for shards that follow; the batches that they are to draw.

    Raises UserError (exit code 75): the folder is in use.
    """
    ctx, files = job.ctx, job.ctx.ws.synthesize
    with opening_run(files.directory, job.inputs, ctx.recipe, resume=not ctx.force) as record:
        plan = settle(job, record, workers)
        todo: list[Batch] = [
            group for group in plan.groups if not is_whole(record, files, group, retry_failed)
        ]
        # A trace that stays would look like a finished batch.
        for group in todo:
            files.trace(group[0].batch).unlink(missing_ok=True)
    return todo


def watch(ctx: Context, crew: Crew, traces: Sequence[Path]) -> None:
    """Show how the shards get on, until nobody works any more.

    Raises UserError when a batch is missing then; those that are drawn stay.
    """
    try:
        for _ in ctx.progress.track(_written(crew, traces), "synthesize", total=len(traces)):
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


def _probed(job: ArmJob) -> int:
    model, guide = job.models.of(job.ctx)
    return batch_size(job.ctx, model, costliest_step(job.ctx, model, guide, job.items[0]))
