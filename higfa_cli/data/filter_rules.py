"""Which drawn pictures may train: what is measured on each one, and the rules on the numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image

from higfa_cli.artifacts.rows import PICTURE_FAULTS, PictureFault
from higfa_cli.data.images import fit_square
from higfa_cli.recipe.classifiers import Filter

N = TypeVar("N", int, float)

THUMBNAIL = 32
# Recorded and compared with so many decimals: the record alone then repeats every decision.
_DECIMALS = 6


@dataclass(frozen=True)
class Measured:
    """One drawn picture in numbers.

    Attributes:
        source, replica: key of its source photo, whose pictures are counted from 0.
        confidence: the guide's probability of the target class, in [0, 1]; None without a guide.
        rank: the target class's place among the guide's classes, 1 the likeliest; None likewise.
        duplicate: correlation with the source photo, in [-1, 1] (`source_correlation`).
        std: `spread`, 0-255 units.
    """

    source: str
    replica: int
    confidence: float | None
    rank: int | None
    duplicate: float
    std: float


def decide(pictures: Sequence[Measured], rules: Filter) -> list[tuple[PictureFault, ...]]:
    """Per picture why it is rejected, in the order of `PICTURE_FAULTS`; none: it is kept.

    `best_of` comes last, among the pictures that nothing else rejects: of each group of N replicas
    of one photo (0..N-1, N..2N-1, ...) the surest is kept, of equally sure ones the first.

    Raises:
        ValueError: a rule asks for the guide, and a picture was measured without it.
    """
    faults = [_alone(picture, rules) for picture in pictures]
    if rules.best_of == 1:
        return faults
    groups: dict[tuple[str, int], list[int]] = {}
    for index, (picture, reasons) in enumerate(zip(pictures, faults, strict=True)):
        if not reasons:
            group = (picture.source, picture.replica // rules.best_of)
            groups.setdefault(group, []).append(index)
    for members in groups.values():
        surest = min(members, key=lambda i: (-_given(pictures[i].confidence), pictures[i].replica))
        for index in members:
            if index != surest:
                faults[index] = ("best_of",)
    return faults


def rank_of(probabilities: np.ndarray, class_id: int) -> int:
    """Place of a class among probabilities [K]; classes as likely as it do not push it down."""
    return 1 + int((probabilities > probabilities[class_id]).sum())


def spread(picture: np.ndarray) -> float:
    """Standard deviation over all pixels and channels from each channel's mean, 0-255 units.

    HxWx3 uint8. From each channel's own mean, so that a single colour is 0 whichever it is.
    """
    values = picture.astype(np.float64)
    deviations = values - values.mean(axis=(0, 1), keepdims=True)
    return round(math.sqrt(float((deviations**2).mean())), _DECIMALS)


def thumbnail(picture: np.ndarray) -> np.ndarray:
    """Square HxHx3 uint8 -> grey [32, 32] uint8, antialiased."""
    grey = Image.fromarray(picture).convert("L")
    return np.array(grey.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BICUBIC))


def source_thumbnail(photo: np.ndarray, size: int) -> np.ndarray:
    """The thumbnail of a photo of any shape, as it stands in a square of side `size`."""
    return thumbnail(fit_square(photo, size))


def source_correlation(picture: np.ndarray, photo: np.ndarray) -> float:
    """Pearson correlation of two thumbnails; the larger one of the photo as it is and mirrored."""
    views = (photo, photo[:, ::-1])
    return round(max(_correlation(picture, view) for view in views), _DECIMALS)


def _alone(picture: Measured, rules: Filter) -> tuple[PictureFault, ...]:
    """The reasons that lie in the picture itself."""
    wrong: dict[PictureFault, bool] = {
        "confidence": rules.confidence > 0 and _given(picture.confidence) < rules.confidence,
        "top_k": rules.top_k is not None and _given(picture.rank) > rules.top_k,
        "duplicate": rules.duplicate is not None and picture.duplicate >= rules.duplicate,
        "constant": picture.std < rules.constant,
    }
    return tuple(reason for reason in PICTURE_FAULTS if wrong.get(reason))


def _given(measure: N | None) -> N:
    if measure is None:
        raise ValueError("a rule asks for the guide, whose answer was not measured")
    return measure


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's r; 0 where either is constant, for then it has no direction to agree in."""
    a, b = (x.astype(np.float64) - x.mean() for x in (one, other))
    scale = math.sqrt(float((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale else 0.0
