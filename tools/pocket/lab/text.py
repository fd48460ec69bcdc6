"""Measured figures as a reader sees them. Intervals are [value, low, high], shares of 1."""

from __future__ import annotations

from collections.abc import Sequence


def percent(figure: Sequence[float | None]) -> str:
    """`61.3 [55.0, 67.4]`, in per cent; the value alone where its interval is not known."""
    value, low, high = (None if number is None else 100 * number for number in figure)
    return f"{value:.1f}" if low is None or high is None else f"{value:.1f} [{low:.1f}, {high:.1f}]"


def points(figure: Sequence[float]) -> str:
    """`+20.5 (16.2 to 24.8)`, a difference in percentage points."""
    value, low, high = (100 * number for number in figure)
    text = f"{value:+.1f}"
    return f"{text if float(text) else '0.0'} ({low:.1f} to {high:.1f})"


def share(value: float, digits: int = 1) -> str:
    """`89.2 %`."""
    return f"{100 * value:.{digits}f} %"


def fixed(value: float | None, digits: int = 2) -> str:
    """A number, or a dash for none."""
    return "-" if value is None else f"{value:.{digits}f}"


def written(value: float | None, unit: str) -> str:
    """A figure of the instruments' tables: percent, number or per second; empty for none."""
    if value is None:
        return ""
    if unit == "percent":
        return share(value)
    return f"{value:.2f} / s" if unit == "per second" else f"{value:.3f}"
