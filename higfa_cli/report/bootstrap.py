"""Intervals of means and of paired differences: the one implementation, for report and laboratory.

Two things make a difference between two ways of training uncertain: which photos were in the test,
and the luck of the trainings. Photos are many and are resampled (percentile bootstrap, Efron &
Tibshirani 1993, ch. 13). Seeds are few: resampling three values returns the same three, and such an
interval is too narrow. So each resample of the photos is moved by a draw of Student's t with S - 1
degrees of freedom, scaled by the standard error of the seeds' differences. Where photo and seed
interact, their share counts twice; the interval is then too wide, and never too narrow
(`tests/test_bootstrap.py` measures how often it holds the truth).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

LEVEL = 0.95
RESAMPLES = 10_000
# Counts of resamples that are held at a time.
_HELD = 10_000_000


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
    """Mean gain and its interval, over items and trainings.

    Args:
        gains: [S, N]: gain of training seed s on item i. With S = 1 the interval knows nothing of
            the luck of training.
        seed: of the resampling; the same one gives the same interval.

    Raises:
        ValueError: no items, or no seeds.
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
