"""Rows of `higfa run` and `higfa status`: the objects that `--json` prints."""

from __future__ import annotations

from collections.abc import Mapping
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
