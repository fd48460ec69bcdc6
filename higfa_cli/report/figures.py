"""Charts as geometry: what the page's inline SVG draws, computed from the traces.

Colours come from the page's style sheet, so a chart is readable in both colour schemes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from higfa_cli.artifacts.rows import TraceRow
from higfa_cli.errors import UserError
from higfa_cli.report.stats import Difference
from higfa_cli.report.tables import Table, number, significant

WIDTH, HEIGHT = 360.0, 200.0
LEFT, RIGHT, TOP, BOTTOM = 54.0, 10.0, 10.0, 34.0

# Images that the bands are computed from, at most.
SAMPLE = 10_000

# trace key -> (title, symbol)
SERIES = {
    "p": ("Guide's confidence", "p"),
    "s_text": ("Text strength", "s_T"),
    "s_contour": ("Contour strength", "s_C"),
    "s_classifier": ("Classifier strength", "s_K"),
    "grad_norm": ("Size of the classifier gradient", "|g|"),
}


@dataclass(frozen=True)
class Curve:
    """Mean and 10-90 % band over images of one traced quantity; None at steps without values."""

    key: str
    title: str
    symbol: str
    mean: tuple[float | None, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]

    @property
    def measured(self) -> bool:
        return any(v is not None for v in self.mean)


@dataclass(frozen=True)
class Curves:
    """All curves of a synthesis over progress u in [0, 1); `switch` is the first guided step."""

    u: tuple[float, ...]
    sigma: tuple[float, ...]
    curves: tuple[Curve, ...]
    switch: int | None
    images: int


def read_curves(traces: Iterable[TraceRow]) -> Curves | None:
    """Aggregates the traces of finished images; None where there is none.

    Means are over all images, bands over at most `SAMPLE` of them: those of the lowest ids, which
    are hashes and so a fair sample. No more traces than twice that are held at a time.

    Raises UserError: traces of different step counts, so of different syntheses.
    """
    first: TraceRow | None = None
    total = count = np.zeros(0)
    sample: list[tuple[str, np.ndarray]] = []
    images = 0
    for row in traces:
        first = first or row
        columns = [getattr(row, key) for key in SERIES]
        if not row.u or {len(column) for column in (row.u, *columns)} != {len(first.u)}:
            raise UserError(
                "synthesize/traces mix syntheses of different steps; "
                "draw the images again: higfa synthesize RECIPE --force"
            )
        values = np.array(columns, dtype=np.float64)
        present = np.isfinite(values)
        total = np.where(present, values, 0.0) + (total if images else 0.0)
        count = present + (count if images else 0)
        images += 1
        sample.append((row.id, values))
        if len(sample) == 2 * SAMPLE:
            sample = _lowest(sample)
    if first is None:
        return None
    stack = np.stack([values for _, values in _lowest(sample)])
    curves = tuple(
        _curve(key, total[row], count[row], stack[:, row]) for row, key in enumerate(SERIES)
    )
    guided = count[list(SERIES).index("p")] > 0
    return Curves(
        u=first.u,
        sigma=first.sigma,
        curves=curves,
        switch=int(guided.argmax()) if guided.any() else None,
        images=images,
    )


def _lowest(sample: list[tuple[str, np.ndarray]]) -> list[tuple[str, np.ndarray]]:
    return sorted(sample, key=lambda entry: entry[0])[:SAMPLE]


def _curve(key: str, total: np.ndarray, count: np.ndarray, sample: np.ndarray) -> Curve:
    """Sum and number of all values by step, and a sample of images [images, steps]; NaN: none."""
    columns: list[tuple[float | None, float | None, float | None]] = []
    for step, values in enumerate(sample.T):
        present = values[np.isfinite(values)]
        if present.size == 0:
            columns.append((None, None, None))
        else:
            low, high = np.quantile(present, [0.1, 0.9])
            columns.append((float(total[step] / count[step]), float(low), float(high)))
    mean, low_band, high_band = zip(*columns, strict=True)
    return Curve(key, *SERIES[key], mean, low_band, high_band)


def curves_table(curves: Curves, limit: int = 14) -> Table:
    """Means at the first, last, switch and evenly spread steps, at most about `limit` of them."""
    n = len(curves.u)
    steps = {round(i) for i in np.linspace(0, n - 1, min(n, limit))}
    if curves.switch is not None:
        steps |= {max(curves.switch - 1, 0), curves.switch}
    rows = []
    for i in sorted(steps):
        cells = [
            significant(c.mean[i]) if c.key == "grad_norm" else number(c.mean[i], 3)
            for c in curves.curves
        ]
        rows.append((str(i), number(curves.u[i], 3), number(curves.sigma[i], 3), *cells))
    titles = ["Step", "u", "σ", *(c.symbol for c in curves.curves)]
    caption = f"Means over {curves.images:,} images at some of the {n} steps; – where not read."
    return Table(caption, titles, rows, named=False)


@dataclass(frozen=True)
class Chart:
    """One panel: SVG path strings in a WIDTH x HEIGHT view box; ticks are (place, label)."""

    curve: Curve
    line: str
    band: str
    switch: str | None
    x_ticks: Sequence[tuple[str, str]]
    y_ticks: Sequence[tuple[str, str]]
    summary: str


def chart(curve: Curve, curves: Curves) -> Chart:
    """Draws a curve as steps, because a strength holds from its u until the next one."""
    edges = (*curves.u, 1.0)
    top = 1.0 if curve.key == "p" else max((v for v in curve.high if v is not None), default=1.0)
    ticks = nice_ticks(top)
    top = max(top, ticks[-1])

    def x(u: float) -> float:
        return LEFT + u * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM)

    def points(values: Sequence[float | None], steps: Iterable[int]) -> list[tuple[float, float]]:
        pairs = [(i, values[i]) for i in steps]
        return [(x(edges[i + k]), y(v)) for i, v in pairs if v is not None for k in (0, 1)]

    runs = _runs(curve.mean)
    band = [points(curve.low, run) + points(curve.high, run)[::-1] for run in runs]
    last = next((v for v in reversed(curve.mean) if v is not None), None)
    return Chart(
        curve=curve,
        line="".join(_path(points(curve.mean, run)) for run in runs),
        band="".join(_path(polygon) + "Z" for polygon in band),
        switch=None if curves.switch is None else _round(x(curves.u[curves.switch])),
        x_ticks=[(_round(x(u)), f"{u:g}") for u in (0.0, 0.25, 0.5, 0.75, 1.0)],
        y_ticks=[(_round(y(v)), f"{v:g}") for v in ticks],
        summary=f"{curve.title}, mean at the last step {significant(last)}",
    )


def nice_ticks(top: float, count: int = 4) -> tuple[float, ...]:
    """Round values from 0 to at least `top`, in about `count` steps of 1, 2 or 5 times 10^k."""
    if top <= 0:
        return (0.0, 1.0)
    raw = top / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    return tuple(float(f"{i * step:.12g}") for i in range(math.ceil(top / step - 1e-9) + 1))


def _runs(values: Sequence[float | None]) -> list[list[int]]:
    """Stretches of consecutive steps that have a value."""
    stretches = groupby(range(len(values)), key=lambda i: values[i] is not None)
    return [list(steps) for present, steps in stretches if present]


def _round(value: float) -> str:
    return f"{value:.1f}"


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{_round(x)} {_round(y)}" for x, y in points)


def interval_bars(differences: Sequence[Difference | None]) -> list[dict[str, str] | None]:
    """Low, high and point of a bar per arm, in 0..100 with zero in the middle, on one scale."""
    reach = max((max(abs(d.low), abs(d.high)) for d in differences if d), default=0.0) or 1.0

    def at(points: float) -> str:
        return _round(50 + 46 * points / reach)

    return [
        {"low": at(d.low), "high": at(d.high), "point": at(d.points)} if d else None
        for d in differences
    ]
