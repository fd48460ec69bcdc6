"""Statistics of arms: spread over seeds, and the paired difference that gives the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from higfa_cli.errors import UserError
from higfa_cli.report.bootstrap import difference_interval

# Trainings of each arm without which nothing is called helped or hurt.
FEWEST_SEEDS = 3

VerdictKind = Literal["helped", "hurt", "no evidence", "no verdict"]


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
    reference: Mapping[int, Sequence[Prediction]],
    other: Mapping[int, Sequence[Prediction]],
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
