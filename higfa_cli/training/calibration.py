"""How far a classifier's confidence can be believed, and the temperature that mends it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from higfa_cli.artifacts.results import Assessment, Calibration, LevelAssessment
from higfa_cli.method.protocols import Level

LOWEST_TEMPERATURE = 0.1
HIGHEST_TEMPERATURE = 10.0
# The logarithm of a fitted temperature errs by about 1.2 / sqrt(photos) (0.6 with many classes, 2
# with two): from so many on, its 95 % interval is within a factor of 1.3 either way.
ENOUGH_PHOTOS = 100
_BINS = 15
_RESAMPLES = 1000
_HALVINGS = 60


@dataclass(frozen=True)
class HeldOut:
    """Logits of pictures that the network was not trained on.

    `levels`: one entry per row of `logits` [N, K] (None: only decoded); `clean` are the photos.
    """

    logits: Tensor
    labels: Tensor
    levels: tuple[Level | None, ...]
    clean_logits: Tensor
    clean_labels: Tensor


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature T in [0.1, 10] that minimises the negative log likelihood of logits / T.

    logits [N, K], labels [N]. The likelihood is convex in 1/T, so its one minimum is found by
    bisection of the derivative, in float64. A set that is wholly right has its minimum at T -> 0,
    and gets the lower bound. Raises ValueError for an empty set.
    """
    if len(labels) == 0:
        raise ValueError("temperature needs at least one held-out picture")
    logits = logits.to(torch.float64)
    true = logits.gather(1, labels[:, None]).squeeze(1)

    def slope(inverse: float) -> float:
        """d NLL / d(1/T): how far the expected logit lies above the true class's."""
        expected = ((logits * inverse).softmax(1) * logits).sum(1)
        return float((expected - true).mean())

    low, high = 1.0 / HIGHEST_TEMPERATURE, 1.0 / LOWEST_TEMPERATURE
    if slope(high) <= 0.0:
        return LOWEST_TEMPERATURE
    if slope(low) >= 0.0:
        return HIGHEST_TEMPERATURE
    for _ in range(_HALVINGS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if slope(middle) < 0.0 else (low, middle)
    return 1.0 / (low * high) ** 0.5


def supported(temperature: float, photos: int) -> float:
    """The temperature that so many photos bear out: itself from `ENOUGH_PHOTOS` on.

    Of fewer its logarithm is drawn towards 0 as its precision, which grows with their number.
    """
    return float(temperature ** min(1.0, photos / ENOUGH_PHOTOS))


def ece_interval(
    confidence: Sequence[float], hits: Sequence[bool], seed: int
) -> tuple[float, float, float]:
    """ECE in [0, 1] of top-1 confidences, and the central 95 % over resamples of the photos.

    Raises ValueError for no photos.
    """
    sure = np.asarray(confidence, dtype=np.float64)
    bins = np.minimum((sure * _BINS).astype(np.int64), _BINS - 1)
    gaps, rng, n = np.asarray(hits, dtype=np.float64) - sure, np.random.default_rng(seed), len(sure)

    def ece(rows: np.ndarray) -> float:
        return float(np.abs(np.bincount(bins[rows], gaps[rows], _BINS)).sum() / n)

    drawn = [ece(rng.integers(n, size=n)) for _ in range(_RESAMPLES)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return ece(np.arange(n)), float(low), float(high)


def expected_calibration_error(logits: Tensor, labels: Tensor, temperature: float) -> float:
    """ECE in [0, 1]: 15 equal bins of top-1 confidence, mean |accuracy - confidence| (L1)."""
    # A confidence of exactly 1 would fall into a bin of its own beyond the last.
    probabilities = (logits / temperature).softmax(1).clamp(max=1.0 - 1e-6)
    return float(
        multiclass_calibration_error(
            probabilities, labels, num_classes=logits.shape[1], n_bins=_BINS, norm="l1"
        )
    )


def assess(logits: Tensor, labels: Tensor, temperature: float) -> Assessment:
    """Accuracy and ECE of logits [N, K], at temperature 1 and at `temperature`."""
    hits = (logits.argmax(1) == labels).to(torch.float64)
    return Assessment(
        count=len(labels),
        accuracy=float(hits.mean()),
        ece_before=expected_calibration_error(logits, labels, 1.0),
        ece_after=expected_calibration_error(logits, labels, temperature),
    )


def _own_confidence(held: HeldOut, temperature: float) -> tuple[float, float]:
    """Mean probability of the clean photos' own class, and the lower end of its 95 % interval."""
    probabilities = (held.clean_logits / temperature).softmax(1).to(torch.float64)
    own = probabilities.gather(1, held.clean_labels[:, None]).squeeze(1)
    error = float(own.std()) / len(own) ** 0.5 if len(own) > 1 else float(own[0])
    return float(own.mean()), float(own.mean()) - 1.96 * error


def calibrate(
    held: HeldOut, levels: Sequence[Level], source: Literal["val", "cross-validation"]
) -> Calibration:
    """Temperature from the held-out logits at the guided levels, and ECE per level with it.

    Without guided levels the reconstructions take their place.
    """
    indices = torch.tensor([-1 if level is None else level.index for level in held.levels])
    noised = indices >= 0
    at = noised if bool(noised.any()) else ~noised
    # Versions of one photo err together, so photos count.
    fitted, photos = fit_temperature(held.logits[at], held.labels[at]), len(held.clean_labels)
    temperature = supported(fitted, photos)

    def of(mask: Tensor) -> Assessment:
        return assess(held.logits[mask], held.labels[mask], temperature)

    masks = [(level, indices == level.index) for level in levels]
    return Calibration(
        source=source,
        temperature=temperature,
        fitted=None if temperature == fitted else fitted,
        levels=tuple(
            LevelAssessment(sigma=level.sigma, progress=level.progress, **of(mask).plain())
            for level, mask in masks
            if bool(mask.any())
        ),
        overall=of(at),
        reconstructed=of(~noised),
        clean=assess(held.clean_logits, held.clean_labels, temperature),
        classes=held.logits.shape[1],
        own_confidence=_own_confidence(held, temperature),
    )
