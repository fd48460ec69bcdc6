"""Statistics of arms: spread over seeds, and the paired difference that gives the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from higfa_cli.errors import UserError

LEVEL = 0.95
RESAMPLES = 10_000

VerdictKind = Literal["helped", "hurt", "no evidence"]


@dataclass(frozen=True)
class Prediction:
    """One test photo as one trained classifier saw it."""

    key: str
    true: str
    predicted: str

    @property
    def correct(self) -> bool:
        return self.true == self.predicted


@dataclass(frozen=True)
class Difference:
    """Accuracy of an arm minus accuracy of the reference, in percentage points.

    `low` and `high` bound the central 95 % of the bootstrap; `changed` counts the test photos on
    which the arms differ in at least one seed; `per_seed` follows `seeds`.
    """

    points: float
    low: float
    high: float
    images: int
    changed: int
    seeds: tuple[int, ...]
    per_seed: tuple[float, ...]

    @property
    def verdict(self) -> VerdictKind:
        """`helped` if the interval is wholly above zero, `hurt` if wholly below it."""
        if self.low > 0:
            return "helped"
        return "hurt" if self.high < 0 else "no evidence"


def mean_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1); the latter is None for a single value."""
    array = np.asarray(values, dtype=np.float64)
    return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else None


def paired_difference(
    reference: Mapping[int, Sequence[Prediction]],
    other: Mapping[int, Sequence[Prediction]],
    rng_seed: int,
) -> Difference | None:
    """Paired bootstrap over test photos of the accuracy gained by `other`.

    Both arguments map a training seed to its predictions. Each photo's gain is first averaged
    over the seeds that both arms share, so that a photo and a seed are always compared with
    themselves; then photos are drawn with replacement (`RESAMPLES` times) and the percentile
    interval taken (Efron & Tibshirani, 1993, ch. 13). None where no seed is shared.

    Raises:
        UserError: the two arms predicted different test photos.
    """
    seeds = tuple(sorted(set(reference) & set(other)))
    if not seeds:
        return None
    gains = np.stack([_gains(reference[s], other[s], reference[seeds[0]]) for s in seeds])
    total = gains.sum(axis=0)
    n = total.size
    # Gains summed over seeds take few integer values, so drawing n photos with replacement is a
    # multinomial draw of how often each value comes up: the same distribution, at no cost.
    values, counts = np.unique(total, return_counts=True)
    rng = np.random.default_rng(rng_seed)
    sums = rng.multinomial(n, counts / n, size=RESAMPLES) @ values
    scale = 100.0 / (n * len(seeds))
    low, high = np.quantile(sums, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) * scale
    return Difference(
        points=float(total.sum() * scale),
        low=float(low),
        high=float(high),
        images=n,
        changed=int((gains != 0).any(axis=0).sum()),
        seeds=seeds,
        per_seed=tuple(float(row.mean() * 100) for row in gains),
    )


def _gains(
    reference: Sequence[Prediction], other: Sequence[Prediction], order: Sequence[Prediction]
) -> np.ndarray:
    """[n] integers in -1, 0, 1: gain of `other` on each photo, in the order of `order`."""
    # With its true class: that too must be the same for both.
    first = {(p.key, p.true): p for p in reference}
    second = {(p.key, p.true): p for p in other}
    keys = [(p.key, p.true) for p in order]
    if (
        not keys
        or set(keys) != set(first)
        or set(keys) != set(second)
        or len(set(keys)) < len(keys)
    ):
        raise UserError(
            "the arms' predictions.csv hold different test photos and cannot be paired; "
            "train all arms again: higfa train-downstream RECIPE --force"
        )
    return np.array([int(second[k].correct) - int(first[k].correct) for k in keys])


def class_accuracy(arm: Mapping[int, Sequence[Prediction]]) -> dict[str, tuple[float, int]]:
    """Per true class: accuracy in percent averaged over seeds, and its number of test photos."""
    hits: dict[str, list[int]] = {}
    for predictions in arm.values():
        for p in predictions:
            hits.setdefault(p.true, []).append(int(p.correct))
    return {c: (100.0 * sum(h) / len(h), len(h) // len(arm)) for c, h in hits.items()}
