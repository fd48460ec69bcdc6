"""The interval of a paired difference: known answers, and how often it holds the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from higfa_cli.report import stats
from higfa_cli.report.stats import difference_interval, resampled_means


def test_one_training_is_resampled_by_item_alone() -> None:
    gains = np.array([[1, 0, 0, -1] * 100])
    value, low, high = difference_interval(gains, seed=0)
    assert value == 0
    # Standard error by hand: the gains' population std is sqrt(1/2), over sqrt(400).
    half = 1.96 * math.sqrt(0.5 / 400)
    assert low == pytest.approx(-half, abs=0.004) and high == pytest.approx(half, abs=0.004)


def test_seeds_that_agree_leave_the_interval_as_it_was() -> None:
    gains = np.array([1, 0, 0, -1] * 100)
    alone = difference_interval(gains[None], seed=1)
    assert difference_interval(np.stack([gains] * 3), seed=1) == pytest.approx(alone)


def test_seeds_that_disagree_widen_the_interval() -> None:
    photos = np.zeros(400)
    # Per seed +5, +1 and -3 points, on every photo alike: nothing is left to the photos.
    gains = np.stack([photos + gain for gain in (0.05, 0.01, -0.03)])
    value, low, high = difference_interval(gains, seed=0)
    # Student's t with 2 degrees of freedom has its 97.5 % quantile at 4.303; std 0.04 over sqrt 3.
    half = 4.303 * 0.04 / math.sqrt(3)
    assert value == pytest.approx(0.01)
    assert low == pytest.approx(0.01 - half, rel=0.1) and high == pytest.approx(
        0.01 + half, rel=0.1
    )


def test_same_seed_same_interval_and_sign_swaps() -> None:
    gains = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], (3, 50))
    one, again, other = (difference_interval(gains, seed) for seed in (3, 3, 4))
    assert one == again != other
    back = difference_interval(-gains, 3)
    assert back.value == -one.value and back.low == pytest.approx(-one.high, abs=0.02)


def test_columns_are_resampled_together_whatever_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    items = np.array([[0.0, 1.0], [1.0, 3.0], [2.0, 5.0]])
    means = resampled_means(items, np.random.default_rng(0))
    assert means.shape == (stats.RESAMPLES, 2)
    assert means[:, 1] == pytest.approx(2 * means[:, 0] + 1)
    monkeypatch.setattr(stats, "_HELD", 3 * 999)
    assert resampled_means(items, np.random.default_rng(0)) == pytest.approx(means)


@pytest.mark.parametrize("gains", [np.zeros((1, 0)), np.zeros((0, 5))])
def test_nothing_has_no_interval(gains: np.ndarray) -> None:
    with pytest.raises(ValueError, match="no "):
        difference_interval(gains, 0)


def coverage(seeds: int, photos: int, luck: float, seed: int, runs: int = 200) -> float:
    """How often the interval holds the true gain of 0.05.

    A training moves every photo's chance of a gain by N(0, luck), a photo that of every training
    by N(0, 0.15); gains and losses are drawn with these chances.
    """
    rng, held = np.random.default_rng(seed), 0
    for run in range(runs):
        mean = 0.05 + rng.normal(0, luck, (seeds, 1)) + rng.normal(0, 0.15, (1, photos))
        chance = rng.random((seeds, photos))
        up, down = (np.clip(0.2 + sign * mean / 2, 0, 1) for sign in (1, -1))
        gains = (chance < up).astype(int) - (chance > 1 - down)
        _, low, high = difference_interval(gains, run)
        held += low <= 0.05 <= high
    return held / runs


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("luck", [0.0, 0.02, 0.08])
def test_the_interval_holds_the_truth_as_often_as_it_says(
    seeds: int, luck: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stats, "RESAMPLES", 1000)
    # Of 200 runs 95 % +- 3: two standard errors below the level.
    assert coverage(seeds, 200, luck, seed=seeds) >= 0.92


def test_one_training_alone_would_promise_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "RESAMPLES", 1000)
    assert coverage(1, 200, 0.08, seed=0) < 0.8
