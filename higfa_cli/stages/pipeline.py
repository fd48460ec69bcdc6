"""The six stages in their order: which still hold, which to run, what to type next."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from higfa_cli.artifacts.artifact import read_model
from higfa_cli.artifacts.atomic import write_note
from higfa_cli.artifacts.records import DownstreamOptions
from higfa_cli.artifacts.run_record import (
    RECORD,
    StageInputs,
    StageState,
    recorded_outputs,
    stage_state,
    tidy,
)
from higfa_cli.errors import UserError
from higfa_cli.stages.context import Context
from higfa_cli.stages.summaries import IntendedRow, StatusRow, StepRow
from higfa_cli.stages.table import STAGES, stage_of

NAMES = tuple(stage.name for stage in STAGES)


class Blocked(StageState):
    """The state of a stage that would fail at once, since what it reads is not there."""


def state(ctx: Context, stage: str, **options: Any) -> StageState:
    """Whether a stage's artifacts hold.

    A stage whose inputs are not there is missing (or stale, if it ran before they went); one that
    is fresh by itself but reads a stage that is not, is stale. `options` are the stage's own.
    """
    return _state(ctx, stage, options, {})


def run_stage(
    ctx: Context, stage: str, how: Mapping[str, object] | None = None, **options: Any
) -> Mapping[str, object]:
    """Run one stage; returns its summary.

    `options` say what is made, `how` how it is done ({"workers": 2}): the result is the same.
    Raises UserError when a stage that it reads is not fresh.
    """
    check_upstream(ctx, stage, **options)
    _remember_options(ctx, stage, options)
    return stage_of(stage).run(ctx, **options, **(how or {}))


def check_upstream(ctx: Context, stage: str, **options: Any) -> None:
    """Raise UserError unless every stage that this one reads is fresh."""
    inputs = stage_of(stage).inputs(ctx, **options)
    known: dict[str, StageState] = {}
    for earlier in _upstream(inputs, stage):
        before = _upstream_state(ctx, earlier, known)
        if before.kind != "fresh":
            raise UserError(
                f"{stage} reads {earlier}, which is {before.kind} ({'; '.join(before.reasons)}); "
                f"run `higfa {earlier}` with the same recipe and options first"
            )


def step(
    ctx: Context, stage: str, how: Mapping[str, object] | None = None, **options: Any
) -> StepRow:
    """Run a stage unless it is fresh (`ctx.force`, or failed items to retry: anyway)."""
    started = time.perf_counter()
    again = ctx.force or bool(how and how.get("retry_failed"))
    fresh = not again and state(ctx, stage, **options).kind == "fresh"
    if fresh:
        tidy(ctx.stage_dir(stage))
    summary = {} if fresh else run_stage(ctx, stage, how=how, **options)
    return {
        "stage": stage,
        "action": "skipped" if fresh else "ran",
        "seconds": round(time.perf_counter() - started, 2),
        "directory": str(ctx.stage_dir(stage)),
        "summary": summary,
    }


def iter_stages(ctx: Context, first: str = NAMES[0], last: str = NAMES[-1]) -> Iterator[StepRow]:
    """Run the stages from `first` to `last`, skipping what is fresh; yields each one's `step`."""
    for stage in _between(first, last):
        yield step(ctx, stage)


def run_all(ctx: Context, first: str = NAMES[0], last: str = NAMES[-1]) -> list[StepRow]:
    """All rows of `iter_stages`."""
    return list(iter_stages(ctx, first, last))


def status(ctx: Context) -> list[StatusRow]:
    """The state of every stage, in the pipeline's order."""
    states: dict[str, StageState] = {}
    return [
        StatusRow(
            stage=stage,
            state=_state(ctx, stage, {}, states).kind,
            reasons=list(states[stage].reasons),
            blocked=isinstance(states[stage], Blocked),
            directory=str(ctx.stage_dir(stage)),
        )
        for stage in NAMES
    ]


def intended(ctx: Context, first: str = NAMES[0], last: str = NAMES[-1]) -> list[IntendedRow]:
    """What `iter_stages` would do, with nothing done."""
    chosen = _between(first, last)
    rows: list[IntendedRow] = []
    for row in status(ctx):
        if row["stage"] not in chosen:
            continue
        action: Literal["run", "skip", "fail", "not reached"]
        action = "run" if ctx.force or row["state"] != "fresh" else "skip"
        before = {earlier["action"] for earlier in rows}
        if "fail" in before:
            action = "not reached"
        elif row["blocked"] and "run" not in before:
            action = "fail"
        reasons = row["reasons"]
        if row["blocked"] and before and action != "fail":
            reasons = [f"after {rows[-1]['stage']}"]
        rows.append(IntendedRow(stage=row["stage"], action=action, reasons=reasons))
    return rows


def next_command(rows: Sequence[StatusRow], recipe: str) -> str | None:
    """The command to type next, or None when all is fresh: `doctor` where a stage would fail.

    `recipe` is what stood after the command: a file or a name, and its flags.
    """
    first = next((row for row in rows if row["state"] != "fresh"), None)
    if first is not None and first["blocked"]:
        return f"higfa doctor {recipe}".rstrip()
    return next_stage(rows, recipe)


def next_stage(rows: Sequence[StatusRow], recipe: str) -> str | None:
    """The first stage that is not fresh, as a command; None when all is fresh."""
    first = next((row["stage"] for row in rows if row["state"] != "fresh"), None)
    return None if first is None else f"higfa {first} {recipe}".rstrip()


def describe(ctx: Context, stage: str, **options: Any) -> Mapping[str, object]:
    """What running a stage would do: resolved parameters, inputs, state, files to be written."""
    inputs = stage_of(stage).inputs(ctx, **options)
    directory = ctx.stage_dir(stage)
    return {
        "stage": stage,
        "directory": str(directory),
        **asdict(state(ctx, stage, **options)),
        "parameters": inputs.parameters,
        "inputs": inputs.files,
        "writes": list(stage_of(stage).writes),
        "present_outputs": len(recorded_outputs(directory)),
    }


def report_page(ctx: Context) -> Path:
    """Where the report's page lies."""
    return ctx.ws.report.page


def _state(
    ctx: Context, stage: str, options: Mapping[str, object], known: dict[str, StageState]
) -> StageState:
    """`state`, hashing each stage once: `known` collects what has been found."""
    if stage not in known:
        known[stage] = _find_state(ctx, stage, options, known)
    return known[stage]


def _find_state(
    ctx: Context, stage: str, options: Mapping[str, object], known: dict[str, StageState]
) -> StageState:
    directory = ctx.stage_dir(stage)
    try:
        inputs = stage_of(stage).inputs(ctx, **options)
    except UserError as error:
        ran = (directory / RECORD).is_file()
        return Blocked("stale" if ran else "missing", (str(error),))
    found = stage_state(directory, inputs)
    if found.kind == "fresh":
        for earlier in _upstream(inputs, stage):
            if _upstream_state(ctx, earlier, known).kind != "fresh":
                return StageState("stale", (f"{earlier} must run again first",))
    return found


def _upstream_state(ctx: Context, stage: str, known: dict[str, StageState]) -> StageState:
    """The state that matters to a later stage: by the recipe, or by the last command line.

    After `train-downstream --arm real` the recipe alone would call its results stale, yet they
    are what was asked for, and `report` may read them.
    """
    found = _state(ctx, stage, {}, known)
    path = ctx.ws.options(stage)
    if found.kind != "fresh" and path.is_file():
        options = read_model(path, DownstreamOptions)
        as_last_run = _find_state(ctx, stage, options.plain(), known)
        return as_last_run if as_last_run.kind == "fresh" else found
    return found


def _remember_options(ctx: Context, stage: str, options: Mapping[str, object]) -> None:
    path = ctx.ws.options(stage)
    if options:
        write_note(path, DownstreamOptions.model_validate(options).plain())
    else:
        path.unlink(missing_ok=True)


def _upstream(inputs: StageInputs, stage: str) -> tuple[str, ...]:
    """Earlier stages whose artifacts are among the inputs ("contours/manifest.jsonl")."""
    read = {name.split("/", 1)[0] for name in inputs.files}
    return tuple(one for one in NAMES[: NAMES.index(stage)] if one in read)


def _between(first: str, last: str) -> tuple[str, ...]:
    for flag, stage in (("--from", first), ("--until", last)):
        if stage not in NAMES:
            raise UserError(
                f"{flag} {stage}: no such stage; stages are {', '.join(NAMES)}", exit_code=2
            )
    start, end = NAMES.index(first), NAMES.index(last)
    if start > end:
        raise UserError(f"--from {first} comes after --until {last}; swap them", exit_code=2)
    return NAMES[start : end + 1]
