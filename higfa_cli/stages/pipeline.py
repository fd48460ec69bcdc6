"""The six stages in their order: which still hold, which to run, what to type next."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from higfa_cli.artifacts.stage_state import StageInputs, StageState, recorded_outputs, stage_state
from higfa_cli.artifacts.workspace import RECORD
from higfa_cli.errors import UserError
from higfa_cli.stages.arms import recorded_arms
from higfa_cli.stages.context import Context, choose_names
from higfa_cli.stages.recipe_checks import check_run
from higfa_cli.stages.table import STAGES, IntendedRow, StatusRow, StepRow, stage_of
from higfa_cli.stages.worth import consented, telling_kept, warn, worthless

NAMES = tuple(stage.name for stage in STAGES)


class Blocked(StageState):
    """The state of a stage that would fail at once, since what it reads is not there."""


def state(ctx: Context, stage: str, **options: Any) -> StageState:
    """Whether a stage's artifacts hold.

    A stage whose inputs are not there is missing (or stale, if it ran before they went); one that
    is fresh by itself but reads a stage that is not, is stale. `options` are the stage's own.
    """
    states: dict[str, StageState] = {}
    return _together({part: _state(ctx, part, options, states) for part in _parts(ctx, stage)})


def run_stage(
    ctx: Context, stage: str, how: Mapping[str, object] | None = None, **options: Any
) -> Mapping[str, object]:
    """Run one stage, of arms those of the option `arms` or all; returns its summary.

    `options` say what is made, `how` how it is done ({"workers": 2}): the result is the same.
    Raises UserError when a stage that it reads is not fresh.
    """
    check_upstream(ctx, stage, **options)
    if stage_of(stage).arms is not None:
        options["arms"] = [_arm_of(part) for part in _parts(ctx, stage, options.get("arms", ()))]
    return stage_of(stage).run(ctx, **options, **(how or {}))


def check_upstream(ctx: Context, stage: str, **options: Any) -> None:
    """Raise UserError unless every stage that this one reads is fresh."""
    states: dict[str, StageState] = {}
    of_stage = options if stage_of(stage).arms is None else {}
    read: dict[str, None] = {}
    for part in _parts(ctx, stage, options.get("arms") or ()).values():
        read |= dict.fromkeys(_upstream(stage_of(stage).inputs(part, **of_stage), stage))
    for earlier in read:
        before = _upstream_state(ctx, earlier, states)
        if before.kind != "fresh":
            raise UserError(
                f"{stage} reads {earlier}, which is {before.kind} ({'; '.join(before.reasons)}); "
                f"run `higfa {_stage_name(earlier)}` with the same recipe and options first"
            )


def step(
    ctx: Context, stage: str, how: Mapping[str, object] | None = None, **options: Any
) -> StepRow:
    """Run a stage unless it is fresh (`ctx.force`, or failed items to retry: anyway).

    Of a stage of arms only those that are not fresh run. What was set aside is noted.
    """
    from higfa_cli.artifacts.run_record import tidy

    started = time.perf_counter()
    # A shard shares its folder, so `--force` only lets it draw.
    again = (ctx.force and "shard" not in (how or {})) or bool(how and how.get("retry_failed"))
    of_arms = stage_of(stage).arms is not None
    of_stage = {} if of_arms else options
    states: dict[str, StageState] = {}
    parts = tuple(_parts(ctx, stage, options.get("arms") or ()))
    reasons = {part: _state(ctx, part, of_stage, states).reasons for part in parts}
    with telling_kept(ctx, {part: why[0] if why else "--force" for part, why in reasons.items()}):
        todo = [part for part in parts if not _settled(ctx, part, of_stage, states) or again]
        for part in set(parts) - set(todo):
            tidy(ctx.workspace / part)
        if of_arms:
            options["arms"] = [_arm_of(part) for part in todo]
            ctx = _steered(ctx, stage, todo)
        summary = run_stage(ctx, stage, how=how, **options) if todo else {}
    warn(ctx, stage)
    return {
        "stage": stage,
        "action": "ran" if todo else "skipped",
        "seconds": round(time.perf_counter() - started, 2),
        "directory": str(ctx.stage_dir(stage)),
        "summary": summary,
    }


def _steered(ctx: Context, stage: str, parts: Sequence[str]) -> Context:
    """The run, if the guide may steer these parts."""
    guided = [part for part in parts if ctx.recipe.arm(_arm_of(part)).guidance.consulted]
    if guided:
        warn(ctx, "finetune-guide")
    if stage != "synthesize":
        return ctx
    return consented(ctx, {ctx.workspace / part: _inputs(ctx, part, {}) for part in guided})


def iter_stages(ctx: Context, first: str = NAMES[0], last: str = NAMES[-1]) -> Iterator[StepRow]:
    """Run the stages from `first` to `last`, skipping what is fresh; yields each one's `step`."""
    chosen = _between(first, last)
    check_run(ctx, chosen)
    for stage in chosen:
        yield step(ctx, stage)


def status(ctx: Context) -> list[StatusRow]:
    """The state of every stage, in the pipeline's order."""
    states: dict[str, StageState] = {}
    rows = []
    for stage in STAGES:
        parts = {part: _state(ctx, part, {}, states) for part in _parts(ctx, stage.name)}
        whole = _together(parts)
        blocked = isinstance(whole, Blocked) and stage.name == "train-downstream"
        if blocked and _upstream_state(ctx, stage.name, states).kind == "fresh":
            waiting = "trained; other arms wait for pictures, drawn and filtered"
            whole = Blocked("partial", (f"{', '.join(recorded_arms(ctx))}: {waiting}",))
        rows.append(
            StatusRow(
                stage=stage.name,
                state=whole.kind,
                reasons=list(whole.reasons) or [*filter(None, [worthless(ctx, stage.name)])],
                blocked=isinstance(whole, Blocked),
                directory=str(ctx.stage_dir(stage.name)),
                arms={_arm_of(part): its.kind for part, its in parts.items() if stage.arms},
            )
        )
    return rows


def intended(ctx: Context, first: str = NAMES[0], last: str = NAMES[-1]) -> list[IntendedRow]:
    """What `iter_stages` would do, with nothing done."""
    chosen = _between(first, last)
    check_run(ctx, chosen)
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


def describe(ctx: Context, stage: str, **options: Any) -> Mapping[str, object]:
    """What running a stage would do, for each of its arms: parameters, inputs, state, files."""
    if stage_of(stage).arms is None:
        return {"stage": stage, **_describe(ctx, stage, options)}
    parts = _parts(ctx, stage, options.get("arms", ()))
    arms = {_arm_of(part): _describe(ctx, part, {}) for part in parts}
    return {"stage": stage, **asdict(state(ctx, stage)), "arms": arms}


def _describe(ctx: Context, part: str, options: Mapping[str, object]) -> dict[str, object]:
    inputs = _inputs(ctx, part, options)
    directory = ctx.workspace / part
    return {
        "directory": str(directory),
        **asdict(_state(ctx, part, options, {})),
        "parameters": inputs.parameters,
        "inputs": inputs.files,
        "writes": list(stage_of(_stage_name(part)).writes),
        "present_outputs": len(recorded_outputs(directory)),
    }


def _parts(ctx: Context, stage: str, arms: Sequence[str] = ()) -> dict[str, Context]:
    """The folders that a stage writes, below the workspace, each with the run that it is for.

    One, or one for each arm. Raises UserError for a name that is no arm of the recipe.
    """
    choices = stage_of(stage).arms
    if choices is None:
        return {stage: ctx}
    names = choose_names(arms, choices(ctx.recipe))
    return {f"{stage}/{name}": ctx.arm(name) for name in names}


def _stage_name(part: str) -> str:
    return part.partition("/")[0]


def _arm_of(part: str) -> str:
    return part.partition("/")[2]


def _inputs(ctx: Context, part: str, options: Mapping[str, object]) -> StageInputs:
    its = ctx.arm(_arm_of(part)) if _arm_of(part) else ctx
    return stage_of(_stage_name(part)).inputs(its, **options)


def _together(states: Mapping[str, StageState]) -> StageState:
    """The state of a stage, of those of its parts."""
    first, *others = states.values()
    if all(other == first for other in others):
        return first
    kinds = {its.kind for its in states.values()}
    kind = kinds.pop() if len(kinds) == 1 else "stale" if "stale" in kinds else "partial"
    reasons = tuple(
        f"{_arm_of(part)}: {reason}" for part, its in states.items() for reason in its.reasons
    )
    blocked = any(isinstance(its, Blocked) for its in states.values())
    return Blocked(kind, reasons) if blocked else StageState(kind, reasons)


def _settled(
    ctx: Context, part: str, options: Mapping[str, object], states: dict[str, StageState]
) -> bool:
    """Whether a part need not run; what these inputs made comes back, where it was set aside."""
    its = _state(ctx, part, options, states)
    if its.kind == "fresh" or isinstance(its, Blocked):
        return its.kind == "fresh"
    from higfa_cli.artifacts.run_record import take_back

    if take_back(ctx.workspace / part, _inputs(ctx, part, options)):
        states[part] = its = _find_state(ctx, part, options, states)
    return its.kind == "fresh"


def _state(
    ctx: Context, part: str, options: Mapping[str, object], states: dict[str, StageState]
) -> StageState:
    """The state of a part, hashing each once: `states` collects them."""
    if part not in states:
        states[part] = _find_state(ctx, part, options, states)
    return states[part]


def _find_state(
    ctx: Context, part: str, options: Mapping[str, object], states: dict[str, StageState]
) -> StageState:
    directory, stage = ctx.workspace / part, _stage_name(part)
    try:
        inputs = _inputs(ctx, part, options)
    except UserError as error:
        ran = (directory / RECORD).is_file()
        return Blocked("stale" if ran else "missing", (str(error),))
    by_itself = stage_state(directory, inputs)
    if by_itself.kind == "fresh":
        for earlier in _upstream(inputs, stage):
            if _upstream_state(ctx, earlier, states).kind != "fresh":
                return StageState("stale", (f"{earlier} must run again first",))
    return by_itself


def _upstream_state(ctx: Context, stage: str, states: dict[str, StageState]) -> StageState:
    """The state that matters to a later stage: by the recipe, or with the arms of the last run.

    After `train-downstream --arm real` the recipe alone would call its results stale, yet they
    are what was asked for, and `report` may read them.
    """
    by_recipe = _state(ctx, stage, {}, states)
    if by_recipe.kind != "fresh" and stage == "train-downstream":
        as_last_run = _find_state(ctx, stage, {"arms": list(recorded_arms(ctx))}, states)
        return as_last_run if as_last_run.kind == "fresh" else by_recipe
    return by_recipe


def _upstream(inputs: StageInputs, stage: str) -> tuple[str, ...]:
    """Earlier parts whose artifacts are among the inputs ("contours/manifest.jsonl")."""
    parts: dict[str, None] = {}
    for name in inputs.files:
        first, _, rest = name.partition("/")
        if first in NAMES[: NAMES.index(stage)]:
            part = first if stage_of(first).arms is None else f"{first}/{rest.partition('/')[0]}"
            parts[part] = None
    return tuple(parts)


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
