"""Spreads, intervals, and the paired difference that gives the verdict; for the laboratory too.

Two things make a difference between two ways of training uncertain: which photos were in the test,
and the luck of the trainings. Photos are many and are resampled (percentile bootstrap, Efron &
Tibshirani 1993, ch. 13). Seeds are few: resampling three values returns the same three, and such an
interval is too narrow. So each resample of the photos is moved by a draw of Student's t with S - 1
degrees of freedom, scaled by the standard error of the seeds' differences. Where photo and seed
interact, their share counts twice; the interval is then too wide, and never too narrow
(`tests/test_intervals.py` measures how often it holds the truth).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from higfa_cli.errors import UserError

# Trainings of each arm without which nothing is called helped or hurt.
FEWEST_SEEDS = 3

LEVEL = 0.95
RESAMPLES = 10_000
# Counts of resamples that are held at a time.
_HELD = 10_000_000

VerdictKind = Literal["helped", "hurt", "no evidence", "no verdict"]


@dataclass(frozen=True)
class Answer:
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

    `low` and `high` bound its 95 % interval over test photos and, with more than one seed, over the
    luck of training; `changed` counts the test photos on which the arms differ in at least one
    seed; `per_seed` follows `seeds`.
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
        """`helped` if the interval is wholly above zero, `hurt` if wholly below it.

        `no verdict` below `FEWEST_SEEDS`, whatever the figures.
        """
        if len(self.seeds) < FEWEST_SEEDS:
            return "no verdict"
        if self.low > 0:
            return "helped"
        return "hurt" if self.high < 0 else "no evidence"


def mean_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1); the latter is None for a single value."""
    array = np.asarray(values, dtype=np.float64)
    return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else None


def paired_difference(
    reference: Mapping[int, Sequence[Answer]],
    other: Mapping[int, Sequence[Answer]],
    rng_seed: int,
) -> Difference | None:
    """The accuracy gained by `other`, over test photos and training seeds.

    Both arguments map a training seed to its predictions; a photo and a seed are always compared
    with themselves, over the seeds that both arms share. None where they share none.

    Raises:
        UserError: the two arms predicted different test photos.
    """
    seeds = tuple(sorted(set(reference) & set(other)))
    if not seeds:
        return None
    gains = np.stack([_gains(reference[s], other[s], reference[seeds[0]]) for s in seeds])
    points, low, high = (100 * figure for figure in difference_interval(gains, rng_seed))
    return Difference(
        points=points,
        low=low,
        high=high,
        images=gains.shape[1],
        changed=int((gains != 0).any(axis=0).sum()),
        seeds=seeds,
        per_seed=tuple(float(row.mean() * 100) for row in gains),
    )


def _gains(
    reference: Sequence[Answer], other: Sequence[Answer], order: Sequence[Answer]
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


def class_accuracy(arm: Mapping[int, Sequence[Answer]]) -> dict[str, tuple[float, int]]:
    """Per true class: accuracy in percent averaged over seeds, and its number of test photos."""
    hits: dict[str, list[int]] = {}
    for predictions in arm.values():
        for p in predictions:
            hits.setdefault(p.true, []).append(int(p.correct))
    return {c: (100.0 * sum(h) / len(h), len(h) // len(arm)) for c, h in hits.items()}


class Interval(NamedTuple):
    """A figure and its central 95 %."""

    value: float
    low: float
    high: float


def central(resamples: np.ndarray) -> tuple[float, float]:
    """Ends of the central 95 % of [R] resampled figures."""
    low, high = np.quantile(resamples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def resampled_means(items: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Means of `RESAMPLES` resamples of the items, [N] -> [R] or [N, D] -> [R, D].

    Columns are resampled together. Raises ValueError for N = 0.
    """
    n = len(items)
    if n == 0:
        raise ValueError("no items to take a mean of")
    # Drawing n items with replacement is a multinomial draw of how often each different one comes
    # up, and differences of hits take few values.
    values, counts = np.unique(items, axis=0, return_counts=True)
    step = max(1, _HELD // len(values))
    parts = [
        rng.multinomial(n, counts / n, size=min(step, RESAMPLES - start)) @ values / n
        for start in range(0, RESAMPLES, step)
    ]
    return np.concatenate(parts)


def difference_interval(gains: np.ndarray, seed: int) -> Interval:
    """Mean gain and its interval, over items and trainings; `seed` is the resampling's.

    `gains` [S, N]: of training seed s on item i. With S = 1 the interval knows nothing of the luck
    of training. Raises ValueError for no items, or no seeds.
    """
    seeds = len(gains)
    if seeds == 0:
        raise ValueError("no training seeds")
    rng = np.random.default_rng(seed)
    means = resampled_means(gains.mean(axis=0), rng)
    if seeds > 1:
        error = gains.mean(axis=1).std(ddof=1) / np.sqrt(seeds)
        means = means + error * rng.standard_t(seeds - 1, size=len(means))
    return Interval(float(gains.mean()), *central(means))
