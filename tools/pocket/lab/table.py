"""A figure of the instruments, with its interval and what was asked of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tools.pocket.lab.figures import Interval

Unit = Literal["percent", "number", "per second"]


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        figure: its name.
        value: shares in 0..1.
        low, high: its 95 % interval, or None.
        threshold: the least value that is asked for, or None.
        unit: how it is written.
        about: what else a reader must know.
    """

    figure: str
    value: float
    low: float | None = None
    high: float | None = None
    threshold: float | None = None
    unit: Unit = "number"
    about: str = ""


def row(
    figure: str,
    found: Interval,
    threshold: float | None = None,
    unit: Unit = "percent",
    about: str = "",
) -> Row:
    """A row of a figure with its interval."""
    return Row(figure, found.value, found.low, found.high, threshold, unit, about)
