"""The figures of the laboratory: shares with intervals, diversity, recall, coverage, copies.

Features are float [N, D] of unit length, labels integer [N]. Distances are cosine distances,
1 - cos, in [0, 2]. Intervals are those of the report (`higfa_cli.report.stats`); every function
that draws takes a seed, and the same seed gives the same interval.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from higfa_cli.report.stats import (
    RESAMPLES,
    Interval,
    central,
    difference_interval,
    resampled_means,
)
from tools.pocket.train.contours import canny

COPY_QUANTILE = 0.01
# Rows of a distance matrix that are held at a time.
_CHUNK = 1000


class ByClass(NamedTuple):
    """A figure's mean over the classes, and each class's own."""

    mean: float
    classes: dict[int, float]


class Copies(NamedTuple):
    """Share of pictures nearer to the pool than `threshold`, a cosine distance."""

    share: float
    threshold: float


def share(hits: Tensor, seed: int = 0) -> Interval:
    """The share of True in bool [N]. Raises ValueError for N = 0."""
    return difference_interval(hits.double().numpy()[None], seed)


def paired(first: Tensor, second: Tensor, seed: int = 0) -> Interval:
    """Mean of second - first over the same items, [N], or over trainings and items, [S, N].

    Raises ValueError when the two are of different shapes, or empty.
    """
    if first.shape != second.shape:
        raise ValueError(f"paired figures of {first.shape[-1]} and {second.shape[-1]} items")
    gains = (second.double() - first.double()).numpy()
    return difference_interval(gains if gains.ndim == 2 else gains[None], seed)


def ratio(first: Tensor, second: Tensor, seed: int = 0) -> Interval:
    """mean(second) / mean(first), both [N] over the same items, resampled by item.

    Resamples in which `first` has a mean of 0 are left out of the interval. Raises ValueError
    when the two are of different lengths or empty, or the mean of `first` is 0.
    """
    if first.shape != second.shape or len(first) == 0 or not first.double().mean():
        raise ValueError(f"no ratio of {len(second)} items to {len(first)} with a mean above 0")
    both = torch.stack([first.double(), second.double()], dim=1).numpy()
    below, above = resampled_means(both, np.random.default_rng(seed)).T
    value = (second.double().mean() / first.double().mean()).item()
    return Interval(value, *central(above[below != 0] / below[below != 0]))


def agreement(log_p: Tensor, labels: Tensor) -> Tensor:
    """Whether the jury's first choice is the label: log p [N, K] -> bool [N]."""
    return log_p.argmax(dim=1) == labels


def mean_log_p(log_p: Tensor, labels: Tensor) -> float:
    """Mean log probability (natural) of the labels, from log p [N, K]."""
    return log_p.double().gather(1, labels[:, None].long()).mean().item()


def intra_class_distance(features: Tensor, labels: Tensor) -> float:
    """Mean over classes of the mean cosine distance between two different pictures of a class.

    Raises ValueError for a class of one picture.
    """
    means = []
    for rows in _rows_of_classes(labels).values():
        between = _distances_within(features[rows])
        means.append(between.sum().item() / (len(rows) * (len(rows) - 1)))
    return float(np.mean(means))


def diversity_interval(first: Tensor, second: Tensor, labels: Tensor, seed: int = 0) -> Interval:
    """Relative difference (second - first) / first of two sets' intra-class distances.

    Both sets [N, D] are drawn from the same items, and those are resampled within their class. A
    pair of one item with itself, which only resampling makes, is left out: its distance of 0
    would speak of the bootstrap, not of the pictures. Raises ValueError for a class of one item,
    or when the first set's pictures are all alike.
    """
    rng = np.random.default_rng(seed)
    sums = np.zeros((2, RESAMPLES))
    for rows in _rows_of_classes(labels).values():
        n = len(rows)
        counts = torch.from_numpy(rng.multinomial(n, np.full(n, 1 / n), RESAMPLES)).double()
        pairs = (n * n - counts.square().sum(dim=1)).clamp(min=1)
        for number, features in enumerate((first, second)):
            between = _distances_within(features[rows])
            sums[number] += (((counts @ between) * counts).sum(dim=1) / pairs).numpy()
    before = intra_class_distance(first, labels)
    if before == 0:
        raise ValueError("the first set's pictures are all alike: nothing to compare with")
    value = (intra_class_distance(second, labels) - before) / before
    whole = sums[0] > 0
    return Interval(value, *central(sums[1][whole] / sums[0][whole] - 1))


def recall(
    real: Tensor, real_labels: Tensor, drawn: Tensor, drawn_labels: Tensor, k: int = 3
) -> ByClass:
    """Share of real pictures inside the k-nearest-neighbour ball of a drawn one of their class.

    Kynkaanniemi et al. 2019, arXiv 1904.06991: a drawn picture's ball reaches to its k-th
    nearest drawn neighbour. Raises ValueError for a class with k or fewer drawn pictures.
    """
    found = {}
    for label, (own, others) in _both(real, real_labels, drawn, drawn_labels).items():
        radius = _radii(others, k, label)
        found[label] = (_distances(own, others) <= radius[None]).any(dim=1).double().mean().item()
    return ByClass(float(np.mean(list(found.values()))), found)


def coverage(
    real: Tensor, real_labels: Tensor, drawn: Tensor, drawn_labels: Tensor, k: int = 3
) -> ByClass:
    """Share of real pictures whose k-nearest-neighbour ball holds a drawn one of their class.

    Naeem et al. 2020, arXiv 2002.09797: a real picture's ball reaches to its k-th nearest real
    neighbour. Raises ValueError for a class with k or fewer real pictures.
    """
    found = {}
    for label, (own, others) in _both(real, real_labels, drawn, drawn_labels).items():
        radius = _radii(own, k, label)
        inside = _distances(own, others) <= radius[:, None]
        found[label] = inside.any(dim=1).double().mean().item()
    return ByClass(float(np.mean(list(found.values()))), found)


def nearest(features: Tensor, pool: Tensor) -> Tensor:
    """Smallest cosine distance of each picture [N, D] to a pool [M, D], [N]."""
    # In single precision: a pool has tens of thousands of rows.
    most_alike = [(part @ pool.T).max(dim=1).values for part in features.split(_CHUNK)]
    return (1 - torch.cat(most_alike)).clamp(min=0)


def copies(drawn: Tensor, real_test: Tensor, pool: Tensor) -> Copies:
    """Share of drawn pictures that lie nearer to the pool than real, unseen pictures do.

    `pool` is what the generator learnt from, mirrored too. The threshold is the 1 % quantile of
    the test photos' own distances to the pool, so a set of new photos scores 0.01.
    """
    threshold = float(np.quantile(nearest(real_test, pool).numpy(), COPY_QUANTILE))
    near = nearest(drawn, pool).numpy() < threshold
    return Copies(float(near.mean()), threshold)


def _rows_of_classes(labels: Tensor) -> dict[int, Tensor]:
    """Row numbers of every class. Raises ValueError for a class of one."""
    rows = {int(label): (labels == label).nonzero()[:, 0] for label in labels.unique()}
    alone = [label for label, found in rows.items() if len(found) < 2]
    if alone or not rows:
        raise ValueError(f"classes with fewer than two pictures: {alone or 'all'}")
    return rows


def _both(
    real: Tensor, real_labels: Tensor, drawn: Tensor, drawn_labels: Tensor
) -> dict[int, tuple[Tensor, Tensor]]:
    """Per class the real and the drawn features. Raises ValueError unless both hold it."""
    wanted, made = set(real_labels.unique().tolist()), set(drawn_labels.unique().tolist())
    if wanted != made or not wanted:
        raise ValueError(f"classes that only one set holds: {sorted(wanted ^ made) or 'all'}")
    return {
        label: (real[real_labels == label], drawn[drawn_labels == label])
        for label in sorted(wanted)
    }


def _distances(first: Tensor, second: Tensor) -> Tensor:
    """Cosine distances [N, M] of unit vectors, never below 0 by rounding."""
    return (1 - first.double() @ second.double().T).clamp(min=0)


def _distances_within(features: Tensor) -> Tensor:
    """Cosine distances [N, N] with an exact 0 on the diagonal."""
    between = _distances(features, features)
    between.fill_diagonal_(0)
    return between


def _radii(features: Tensor, k: int, label: int) -> Tensor:
    """Distance of each picture to its k-th nearest other one, [N]."""
    if len(features) <= k:
        raise ValueError(f"class {label}: {len(features)} pictures, more than {k} are needed")
    # The nearest of all is the picture itself, at the diagonal's exact 0.
    return _distances_within(features).kthvalue(k + 1, dim=1).values


def edge_overlap(drawn: np.ndarray, contour: np.ndarray) -> tuple[float, float]:
    """(overlap, F1) of a uint8 RGB drawing [S, S, 3] and a uint8 contour [S, S].

    Edges: Canny with the contour stage's default settings, at the drawing's size. An edge pixel is
    matched if the other map has one in its 3 x 3 neighbourhood. With precision P (matched share of
    the drawing's edge pixels) and recall R (matched share of the contour's), F1 = 2PR / (P + R),
    and overlap = F1 / (2 - F1) is the Jaccard index with a tolerance of one pixel.
    """
    edges, wanted = canny(drawn) > 0, contour > 0
    square = np.ones((3, 3), np.uint8)
    near_wanted = cv2.dilate(wanted.astype(np.uint8), square) > 0
    near_edges = cv2.dilate(edges.astype(np.uint8), square) > 0
    precision = (edges & near_wanted).sum() / max(edges.sum(), 1)
    recall = (wanted & near_edges).sum() / max(wanted.sum(), 1)
    f1 = 2 * precision * recall / max(precision + recall, 1e-9)
    return float(f1 / (2 - f1)), float(f1)


def mean_edge_overlap(pictures: Tensor, contours: Tensor) -> float:
    """Mean Jaccard index, one pixel tolerance, of pictures' edges with the asked contours.

    uint8 [N, 3, S, S] and [N, S, S]. Raises ValueError without pictures.
    """
    if not len(pictures):
        raise ValueError("no pictures")
    pairs = zip(pictures.permute(0, 2, 3, 1).numpy(), contours.numpy(), strict=True)
    return float(np.mean([edge_overlap(picture, contour)[0] for picture, contour in pairs]))
