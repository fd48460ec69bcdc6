"""Several processes draw one plan: shards that somebody starts, and workers that higfa starts.

All draw by the plan that the first one settled (batches, their size, threads per process), so who
draws a batch does not change it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal

import torch
from tqdm import tqdm

from higfa_cli.artifacts.artifact import read_model, write_model, write_rows
from higfa_cli.artifacts.lock import folder_lock, gate, living_parts
from higfa_cli.artifacts.plan import batches, in_batches
from higfa_cli.artifacts.rows import PlanFile, PlanItem
from higfa_cli.artifacts.run_record import (
    StageInputs,
    StageRun,
    closing_run,
    part_run,
    worker_run,
)
from higfa_cli.artifacts.stage_state import read_record
from higfa_cli.errors import UserError
from higfa_cli.models.device import resolve_device
from higfa_cli.stages.batch_files import (
    Batch,
    Models,
    draw_batch,
    is_whole,
    keep_batch,
)
from higfa_cli.stages.batching import batch_size, costliest_step
from higfa_cli.stages.context import ArmContext, Context, Silent

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
class Settled:
    """What all participants of a plan must have in common."""

    items: tuple[PlanItem, ...]
    batch_size: int
    threads: int

    @property
    def groups(self) -> list[tuple[PlanItem, ...]]:
        """The items in batches, in the order of the plan."""
        return batches(self.items)


def settle(
    ctx: ArmContext, record: StageRun, models: Models, items: Sequence[PlanItem], workers: int = 1
) -> Settled:
    """Write plan.json and plan.jsonl, or follow those of an earlier run of the same inputs.

    Raises UserError: the plan was settled on another kind of device.
    """
    files, device = ctx.ws.synthesize, resolve_device(ctx.recipe.run.device).type
    if record.is_kept(files.name(files.plan)):
        record.keep(files.name(files.plan))
    else:
        asked = ctx.recipe.run.batch_size
        written = PlanFile(
            batch_size=asked if asked != "auto" else _probed(ctx, models, items),
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
    ctx: ArmContext,
    known: StageInputs,
    models: Models,
    items: Sequence[PlanItem],
    shard: Shard,
    finish: Callable[[StageRun], Mapping[str, object]],
) -> Mapping[str, object]:
    """Draw one shard; `finish` closes the stage if all the others are done.

    Raises UserError (exit code 75): the shard is taken, or one process draws the whole plan.
    """
    files = ctx.ws.synthesize
    directory = files.directory
    settled: list[Settled] = []

    def open_plan(record: StageRun) -> None:
        settled.append(settle(ctx, record, models, items))

    with part_run(directory, known, ctx.recipe, shard.part, open_plan) as record:
        (plan,) = settled
        own = [group for group in plan.groups if group[0].batch % shard.count == shard.index]
        with torch_threads(plan.threads):
            draw_batches(ctx, record, models, own)
    with gate(directory), folder_lock(directory):
        before = read_record(directory)
        so_far, total = len(files.all_traces()), len(plan.groups)
        if before.status == "done" and before.inputs.key == known.key:
            return {"output": str(files.images), **before.counts}
        if so_far < total or living_parts(directory):
            done = f"shard {shard} done, {so_far} of {total} batches so far"
            return {"output": str(files.images), "state": done}
        with closing_run(directory, known, ctx.recipe) as record:
            return finish(record)


def count_workers(ctx: Context, asked: int | Literal["auto"]) -> int:
    """`auto`: one per GPU; on a CPU one per two cores."""
    if asked != "auto":
        return asked
    if resolve_device(ctx.recipe.run.device).type == "cuda":
        return torch.cuda.device_count()
    return max(1, (os.cpu_count() or 1) // 2)


def draw_in_workers(
    ctx: ArmContext,
    record: StageRun,
    items: Sequence[PlanItem],
    plan: Settled,
    workers: int,
    retry_failed: bool = False,
) -> int:
    """Have processes of their own draw what is missing; returns how many pictures they drew.

    Raises UserError when a worker ended before its time; the batches of the others stay.
    """
    files = ctx.ws.synthesize
    todo = [group for group in plan.groups if not is_whole(record, files, group, retry_failed)]
    count = min(workers, len(todo))
    if count == 0:
        return 0
    parts = [f"worker-{index}-of-{count}" for index in range(count)]
    # A trace that stays would look like a finished batch.
    for group in todo:
        files.trace(group[0].batch).unlink(missing_ok=True)
    context = multiprocessing.get_context("spawn")
    jobs: list[BaseProcess] = [
        context.Process(
            target=_work,
            args=(_for_worker(ctx, index), tuple(items), plan, todo[index::count], part),
        )
        for index, part in enumerate(parts)
    ]
    _run_all(ctx, jobs, [files.trace(group[0].batch) for group in todo])
    record.adopt(parts)
    missing = sum(not is_whole(record, files, group) for group in todo)
    if missing:
        codes = ", ".join(str(job.exitcode) for job in jobs if job.exitcode)
        raise UserError(
            f"a worker ended before its time (exit codes {codes or '0'}): "
            f"{len(plan.groups) - missing} of {len(plan.groups)} batches are drawn; "
            "run the same command again"
        )
    return sum(len(group) for group in todo)


def _run_all(ctx: ArmContext, jobs: Sequence[BaseProcess], traces: Sequence[Path]) -> None:
    try:
        for job in jobs:
            job.start()
        for _ in ctx.progress.track(
            _finished(jobs, traces), f"synthesize {ctx.name}", total=len(traces)
        ):
            pass
    finally:
        for job in jobs:
            if job.pid is not None:
                job.terminate()
                job.join()


def _finished(jobs: Sequence[BaseProcess], traces: Sequence[Path]) -> Iterator[Path]:
    """Traces as they come, until nobody works any more."""
    waiting, working = list(traces), True
    while working:
        working = any(job.is_alive() for job in jobs)
        for path in [path for path in waiting if path.is_file()]:
            waiting.remove(path)
            yield path
        if working:
            time.sleep(_POLL_SECONDS)


def _for_worker(ctx: ArmContext, index: int) -> ArmContext:
    """The same run, silent, on a GPU of its own where there are several."""
    device = ctx.recipe.run.device
    if device in ("auto", "cuda") and resolve_device(device).type == "cuda":
        device = f"cuda:{index % torch.cuda.device_count()}"
    run = ctx.recipe.run.model_copy(update={"device": device})
    recipe = ctx.recipe.model_copy(update={"run": run})
    return replace(ctx, recipe=recipe, progress=Silent())


def _work(
    ctx: ArmContext, items: Sequence[PlanItem], plan: Settled, groups: Sequence[Batch], part: str
) -> None:
    """A worker's life: its batches, until they are drawn or the parent has gone."""
    # Ctrl-C reaches the whole group of processes; the parent answers it and ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A bar's usual lock is shared between processes; one that a killed worker leaves is complained
    # of on stderr.
    tqdm.set_lock(threading.RLock())
    parent = multiprocessing.parent_process()
    files, models = ctx.ws.synthesize, Models([(ctx, items)])
    try:
        with torch_threads(plan.threads), worker_run(files.directory, ctx.recipe, part) as record:
            for group in groups:
                if parent is None or parent.is_alive():
                    draw_batch(ctx, record, files, models, group)
    except UserError as error:
        print(f"error: {part}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _probed(ctx: ArmContext, models: Models, items: Sequence[PlanItem]) -> int:
    model, guide = models.of(ctx)
    return batch_size(ctx, model, costliest_step(ctx, model, guide, items[0]))
