"""The laboratory's figures, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tools.pocket.lab import figures


def at(*degrees: float) -> Tensor:
    """Unit vectors in the plane: the cosine distance of two grows with the angle between them."""
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def test_share_and_its_interval() -> None:
    hits = torch.arange(400) % 2 == 0
    value, low, high = figures.share(hits)
    assert value == 0.5
    # The normal approximation: 1.96 sqrt(p (1 - p) / n) = 0.049.
    assert low == pytest.approx(0.451, abs=0.004) and high == pytest.approx(0.549, abs=0.004)
    assert figures.share(torch.ones(5, dtype=torch.bool)) == (1, 1, 1)
    with pytest.raises(ValueError, match="no items"):
        figures.share(torch.zeros(0, dtype=torch.bool))


def test_paired_knows_that_the_items_are_the_same() -> None:
    first = torch.arange(100) % 2 == 0
    assert figures.paired(first, first) == (0, 0, 0)
    shifted = first.double() + 0.25
    assert figures.paired(first, shifted) == pytest.approx((0.25, 0.25, 0.25))
    second = first.clone()
    second[1] = True
    noise = torch.randn(30, generator=torch.Generator().manual_seed(0))
    one, again, other = (figures.paired(noise, 2 * noise, seed=seed) for seed in (0, 0, 1))
    assert one == again != other and other == pytest.approx(one, abs=0.03)
    value, low, high = figures.paired(first, second)
    assert value == pytest.approx(0.01) and low == 0 and high == pytest.approx(0.03, abs=0.011)
    assert figures.paired(second, first).value == pytest.approx(-0.01)
    with pytest.raises(ValueError, match="99 items"):
        figures.paired(first, second[:99])


def test_ratio_of_means_over_the_same_items() -> None:
    ones = torch.ones(200)
    half = (torch.arange(200) % 2 == 0).double()
    assert figures.ratio(half, half) == (1, 1, 1)
    value, low, high = figures.ratio(ones, half)
    assert value == 0.5 and 0.4 < low < 0.47 and 0.53 < high < 0.6
    assert figures.ratio(half, ones).value == 2
    for bad in (torch.zeros(200), torch.ones(199)):
        with pytest.raises(ValueError, match="no ratio"):
            figures.ratio(bad, ones)


def test_agreement_and_log_p() -> None:
    p = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    labels = torch.tensor([0, 1])
    assert figures.agreement(p.log(), labels).tolist() == [True, False]
    expected = (math.log(0.7) + math.log(0.3)) / 2
    assert figures.mean_log_p(p.log(), labels) == pytest.approx(expected)


def test_intra_class_distance_by_hand() -> None:
    features = torch.cat([at(0, 90, 180), at(30, 30)])
    labels = torch.tensor([0, 0, 0, 1, 1])
    # 90 and 90 degrees are a distance of 1 each, 180 degrees are 2: mean 4/3. The other class: 0.
    assert figures.intra_class_distance(features, labels) == pytest.approx(2 / 3)
    order = torch.tensor([3, 0, 4, 1, 2])
    mixed = figures.intra_class_distance(features[order], labels[order])
    assert mixed == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match=r"\[1\]"):
        figures.intra_class_distance(features[:4], labels[:4])


def test_diversity_difference() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    first, second = at(0, 90, 5, 95, 10, 100), at(0, 180, 5, 185, 10, 190)
    assert figures.diversity_interval(first, second, labels) == pytest.approx((1, 1, 1))
    assert figures.diversity_interval(second, first, labels) == pytest.approx((-0.5, -0.5, -0.5))
    assert figures.diversity_interval(first, first, labels) == (0, 0, 0)
    many = torch.zeros(40, dtype=torch.long)
    noise = torch.Generator().manual_seed(2)
    angles, others = 60 * torch.rand(2, 40, generator=noise, dtype=torch.float64)
    narrow = figures.diversity_interval(at(*angles), at(*(1.1 * angles)), many)
    # For small angles the distance grows with their square: 1.1 squared is 21 % more.
    assert narrow.value == pytest.approx(0.21, abs=0.02) and narrow.low > 0.18
    wide = figures.diversity_interval(at(*angles), at(*others), many)
    # Other angles of the same distribution, so the difference is chance.
    assert wide.low < 0 < wide.high and wide.high - wide.low > 10 * (narrow.high - narrow.low)
    with pytest.raises(ValueError, match="all alike"):
        figures.diversity_interval(at(1, 1), at(0, 9), torch.tensor([0, 0]))


REAL, DRAWN = (0, 10, 20, 90, 95), (5, 12, 60, 62)


def test_recall_by_hand() -> None:
    # Drawn balls at k = 1: 5 and 12 reach 7 degrees, 60 and 62 reach 2. In them: 0 and 10.
    real, drawn = at(*REAL), at(*DRAWN)
    found = figures.recall(real, torch.zeros(5), drawn, torch.zeros(4), k=1)
    assert found == (pytest.approx(0.4), {0: pytest.approx(0.4)})
    # k = 2: 5 reaches 55, 12 and 60 reach 48 at least: all but none is in.
    assert figures.recall(real, torch.zeros(5), drawn, torch.zeros(4), k=2).mean == 1


def test_coverage_by_hand() -> None:
    # Real balls at k = 1: 0, 10 and 20 reach 10 degrees and hold a drawn one, 90 and 95 reach 5.
    real, drawn = at(*REAL), at(*DRAWN)
    found = figures.coverage(real, torch.zeros(5), drawn, torch.zeros(4), k=1)
    assert found.mean == pytest.approx(0.6)
    # k = 2: 90's ball reaches to 20, so it holds 60 and 62; 95's reaches to 20 too.
    assert figures.coverage(real, torch.zeros(5), drawn, torch.zeros(4), k=2).mean == 1


@pytest.mark.parametrize("figure", [figures.recall, figures.coverage])
def test_classes_are_kept_apart(figure: object) -> None:
    real = torch.cat([at(0, 1, 2, 3), at(90, 91, 92, 93)])
    labels = torch.tensor([0] * 4 + [1] * 4)
    same = figure(real, labels, real, labels)  # type: ignore[operator]
    assert same == (1, {0: 1, 1: 1})
    swapped = figure(real, labels, real, 1 - labels)  # type: ignore[operator]
    assert swapped == (0, {0: 0, 1: 0})
    with pytest.raises(ValueError, match="only one set"):
        figure(real, labels, real[:4], labels[:4])  # type: ignore[operator]
    with pytest.raises(ValueError, match="3 pictures, more than 3"):
        few = torch.tensor([0, 1, 2, 4, 5, 6])
        figure(real[few], labels[few], real[few], labels[few])  # type: ignore[operator]


def test_nearest_and_copies() -> None:
    pool = at(0, 100)
    found = figures.nearest(at(30, 100, 190), pool)
    expected = [1 - math.cos(math.radians(d)) for d in (30, 0, 90)]
    assert found.tolist() == pytest.approx(expected)
    # Test photos at 20 degrees from the pool and more; the nearest one sets the threshold.
    photos = at(*(20 + step for step in range(30)))
    share, threshold = figures.copies(at(0, 2, 10, 100, 60, 150), photos, pool)
    assert share == pytest.approx(4 / 6)
    near, next_one = (1 - math.cos(math.radians(d)) for d in (20, 21))
    assert threshold == pytest.approx(near + 0.29 * (next_one - near))
    assert figures.copies(photos, photos, pool).share == pytest.approx(1 / 30)
