"""The six stages in their order, as a table: what each depends on, runs and writes.

And rows of `higfa run` and `higfa status`, the objects that `--json` prints.

Nothing here needs torch before a stage runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

from higfa_cli.artifacts.stage_state import StageInputs
from higfa_cli.artifacts.workspace import Workspace
from higfa_cli.errors import UserError
from higfa_cli.recipe.schema import Recipe
from higfa_cli.stages.context import Context
from higfa_cli.stages.inputs import (
    contour_inputs,
    downstream_inputs,
    filter_inputs,
    guide_inputs,
    synthesize_inputs,
)
from higfa_cli.stages.report_inputs import report_inputs


@dataclass(frozen=True)
class Stage:
    """A stage.

    Attributes:
        name: as it is typed, and its folder's name.
        inputs: what the result depends on, by context and the stage's options; raises UserError
            where something that it reads is missing.
        run: does the work, by context and the same options; returns a JSON-able summary.
        writes: names below the folder, for people, with <placeholders>.
        arms: for each of which it has a folder of its own; None for one folder.
    """

    name: str
    inputs: Callable[..., StageInputs]
    run: Callable[..., Mapping[str, object]]
    writes: tuple[str, ...]
    arms: Callable[[Recipe], Iterable[str]] | None = None


def stage_of(name: str) -> Stage:
    """The stage of a name. Raises UserError for a name that is not a stage's."""
    for stage in STAGES:
        if stage.name == name:
            return stage
    names = ", ".join(stage.name for stage in STAGES)
    raise UserError(f"there is no stage `{name}`; stages are {names}", exit_code=2)


def _contours(ctx: Context) -> Mapping[str, object]:
    from higfa_cli.stages import contours

    return contours.run(ctx)


def _guide(ctx: Context) -> Mapping[str, object]:
    from higfa_cli.stages import finetune_guide

    return finetune_guide.run(ctx)


def _synthesize(ctx: Context, **how: Any) -> Mapping[str, object]:
    from higfa_cli.stages import synthesize

    return synthesize.run(ctx, **how)


def _filter(ctx: Context, arms: Sequence[str]) -> Mapping[str, object]:
    from higfa_cli.stages import filter as stage

    return stage.run(ctx, arms)


def _downstream(ctx: Context, **options: Any) -> Mapping[str, object]:
    from higfa_cli.stages import train_downstream

    return train_downstream.run(ctx, **options)


def _report(ctx: Context) -> Mapping[str, object]:
    from higfa_cli.stages import report

    return report.run(ctx)


_WRITES = {name: folder.writes for name, folder in Workspace(Path()).stages.items()}
STAGES = tuple(
    Stage(name, inputs, run, _WRITES[name], arms)
    for name, inputs, run, arms in (
        ("contours", contour_inputs, _contours, None),
        ("finetune-guide", guide_inputs, _guide, None),
        ("synthesize", synthesize_inputs, _synthesize, lambda recipe: recipe.drawn),
        ("filter", filter_inputs, _filter, lambda recipe: recipe.arms),
        ("train-downstream", downstream_inputs, _downstream, None),
        ("report", report_inputs, _report, None),
    )
)


class StepRow(TypedDict):
    """One stage of a run; `summary` is empty where it was skipped."""

    stage: str
    action: Literal["ran", "skipped"]
    seconds: float
    directory: str
    summary: Mapping[str, object]


class StatusRow(TypedDict):
    """`blocked`: running the stage now would fail at once; `arms`: of each, where it has some."""

    stage: str
    state: Literal["fresh", "stale", "partial", "missing"]
    reasons: list[str]
    blocked: bool
    directory: str
    arms: dict[str, str]


class IntendedRow(TypedDict):
    """`fail`: what the stage reads is not there, and no earlier one of the run would make it."""

    stage: str
    action: Literal["run", "skip", "fail", "not reached"]
    reasons: list[str]


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
