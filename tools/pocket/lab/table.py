"""Figures with their bars, as JSON and as a table; whether a bar is reached is reckoned here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tools.pocket.lab.figures import Interval

Unit = Literal["percent", "number", "per second"]
HEAD = (
    "| figure | value | 95 % interval | bar | verdict | about |\n"
    "| --- | --- | --- | --- | --- | --- |"
)


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        figure: its name.
        value: shares in 0..1.
        low, high: its 95 % interval, or None.
        bar: the least value that is asked for, or None.
        unit: how it is written.
        about: what else a reader must know.
    """

    figure: str
    value: float
    low: float | None = None
    high: float | None = None
    bar: float | None = None
    unit: Unit = "number"
    about: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the value is at least the bar; None without a bar. NaN reaches none."""
        return None if self.bar is None else self.value >= self.bar

    def plain(self) -> dict[str, Any]:
        """As JSON, with the verdict."""
        return asdict(self) | {"reached": self.reached}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Row:
        """The inverse of `plain`; the verdict is reckoned anew."""
        return cls(**{name: value for name, value in plain.items() if name != "reached"})


def row(
    figure: str, found: Interval, bar: float | None = None, unit: Unit = "percent", about: str = ""
) -> Row:
    """A row of a figure with its interval."""
    return Row(figure, found.value, found.low, found.high, bar, unit, about)


def markdown(parts: Mapping[str, Sequence[Row]]) -> str:
    """One table per part, each under its heading."""
    blocks = []
    for title, rows in parts.items():
        lines = "\n".join(_line(one) for one in rows)
        blocks.append(f"## {title}\n\n{HEAD}\n{lines}\n")
    return "\n".join(blocks)


def _line(one: Row) -> str:
    interval = ""
    if one.low is not None and one.high is not None:
        interval = f"{written(one.low, one.unit)} to {written(one.high, one.unit)}"
    bar = "" if one.bar is None else f"at least {written(one.bar, one.unit)}"
    verdict = {None: "", True: "reached", False: "**MISSED**"}[one.reached]
    cells = (one.figure, written(one.value, one.unit), interval, bar, verdict, one.about)
    return "| " + " | ".join(cells) + " |"


def written(value: float, unit: Unit) -> str:
    """A value for people."""
    if unit == "percent":
        return f"{100 * value:.1f} %"
    return f"{value:.2f} / s" if unit == "per second" else f"{value:.3f}"
