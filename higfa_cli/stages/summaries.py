"""Rows of `higfa run` and `higfa status`: the objects that `--json` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict


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
