"""Rules and measures of the filter by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from higfa_cli.artifacts.records import FilterCounts
from higfa_cli.artifacts.rows import PICTURE_FAULTS
from higfa_cli.data.filter_rules import (
    Measured,
    decide,
    rank_of,
    source_correlation,
    source_thumbnail,
    spread,
    thumbnail,
)
from higfa_cli.data.images import fit_square
from higfa_cli.recipe.classifiers import Filter
from higfa_cli.report import wording
from higfa_cli.stages.inputs import (
    guide_keys,
)


def picture(**values: Any) -> Measured:
    """A picture that no rule of this file rejects, but for `values`."""
    good = {"source": "a", "replica": 0, "confidence": 0.9, "rank": 1, "duplicate": 0.2, "std": 40}
    return Measured(**{**good, **values})


@pytest.mark.parametrize(
    ("rules", "values", "reasons"),
    [
        ({}, {"confidence": 0.0, "rank": 9, "duplicate": 1.0}, ()),
        ({"confidence": 0.5}, {"confidence": 0.5}, ()),
        ({"confidence": 0.5}, {"confidence": 0.49}, ("confidence",)),
        ({"top_k": 2}, {"rank": 2}, ()),
        ({"top_k": 2}, {"rank": 3}, ("top_k",)),
        ({"duplicate": 0.9}, {"duplicate": 0.89}, ()),
        ({"duplicate": 0.9}, {"duplicate": 0.9}, ("duplicate",)),
        ({"constant": 2.0}, {"std": 2.0}, ()),
        ({"constant": 2.0}, {"std": 1.99}, ("constant",)),
        ({"constant": 0.0}, {"std": 0.0}, ()),
        (
            {"confidence": 0.5, "top_k": 1, "duplicate": 0.9, "best_of": 3},
            {"confidence": 0.1, "rank": 4, "duplicate": 0.95, "std": 0.5},
            ("confidence", "top_k", "duplicate", "constant"),
        ),
    ],
)
def test_a_rule_alone(
    rules: dict[str, Any], values: dict[str, Any], reasons: tuple[str, ...]
) -> None:
    assert decide([picture(**values)], Filter(**rules)) == [reasons]


def test_best_of_goes_by_replica_and_by_photo() -> None:
    pictures = [
        picture(source="b", replica=1, confidence=0.3),
        picture(source="a", replica=3, confidence=0.8),
        picture(source="a", replica=0, confidence=0.6),
        picture(source="a", replica=1, confidence=0.7),
        picture(source="a", replica=2, confidence=0.8),
        picture(source="a", replica=4, confidence=0.1),
    ]
    # Of a: 0 and 1, then 2 and 3 (equally sure: the first), then 4 alone. Of b: 1 alone.
    lost = decide(pictures, Filter(best_of=2))
    assert lost == [(), ("best_of",), ("best_of",), (), (), ()]
    # Of a: 0, 1, 2, then 3 and 4.
    lost = decide(pictures, Filter(best_of=3))
    assert lost == [(), (), ("best_of",), ("best_of",), (), ("best_of",)]


def test_best_of_chooses_among_those_that_pass_the_other_rules() -> None:
    pictures = [
        picture(replica=0, confidence=0.99, duplicate=0.97),
        picture(replica=1, confidence=0.6),
        picture(replica=2, confidence=0.7),
        picture(replica=3, confidence=0.2),
    ]
    found = decide(pictures, Filter(best_of=4, duplicate=0.9, confidence=0.5))
    assert found == [("duplicate",), ("best_of",), (), ("confidence",)]


def test_rules_that_need_the_guide() -> None:
    assert guide_keys(Filter(duplicate=0.9, constant=9)) == ()
    everything = Filter(confidence=0.1, top_k=3, best_of=2)
    assert guide_keys(everything) == ("filter.confidence", "filter.top_k", "filter.best_of")
    blind = [picture(confidence=None, rank=None, replica=i) for i in range(2)]
    assert decide(blind, Filter()) == [(), ()]
    for rules in ({"confidence": 0.1}, {"top_k": 3}, {"best_of": 2}):
        with pytest.raises(ValueError, match="not measured"):
            decide(blind, Filter(**rules))


def test_rank_by_hand() -> None:
    probabilities = np.array([0.1, 0.4, 0.4, 0.1])
    assert [rank_of(probabilities, index) for index in range(4)] == [3, 1, 1, 3]


def test_spread_by_hand() -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[..., 0] = 255
    assert spread(picture) == 0.0  # one colour, whichever it is
    picture[:2, :, 0] = 245  # 5 either way in one channel of three: sqrt(25 / 3)
    assert spread(picture) == pytest.approx(5 / 3**0.5, abs=1e-6)
    grey = np.repeat(np.array([[0, 20]], np.uint8)[..., None], 3, axis=2)
    assert spread(grey) == 10.0


def test_correlation_by_hand() -> None:
    one, other = np.array([[1, 2, 3]], np.uint8), np.array([[1, 3, 2]], np.uint8)
    assert source_correlation(one, other) == 0.5  # deviations -1 0 1 and -1 1 0: 1 / sqrt(2 * 2)
    assert source_correlation(one, one) == 1.0
    assert source_correlation(one, np.array([[3, 2, 1]], np.uint8)) == 1.0  # mirrored
    dip, hill = np.array([[3, 1, 3]], np.uint8), np.array([[1, 3, 1]], np.uint8)
    assert source_correlation(dip, hill) == -1.0
    flat = np.full((1, 3), 7, np.uint8)
    assert source_correlation(flat, one) == source_correlation(one, flat) == 0.0
    assert source_correlation(flat, flat) == 0.0


def test_thumbnails_are_grey_antialiased_and_keep_the_aspect() -> None:
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[::2] = 255
    found = thumbnail(stripes)
    assert found.shape == (32, 32) and found.dtype == np.uint8
    assert np.abs(found[2:-2].astype(int) - 127).max() <= 2  # no moiré
    green = np.zeros((64, 64, 3), np.uint8)
    green[..., 1] = 100
    assert (thumbnail(green) == 59).all()  # Rec. 601 luma: 0.587
    photo = np.random.default_rng(0).integers(0, 255, (50, 80, 3)).astype(np.uint8)
    assert (source_thumbnail(photo, 64) == thumbnail(fit_square(photo, 64))).all()


def test_sentences_by_hand() -> None:
    none = dict.fromkeys(PICTURE_FAULTS, 0)
    counts = FilterCounts(pictures=2400, kept=2400, rejected=none, kept_by_class={})
    assert wording.sentences("filter", counts=counts) == [
        "The filter kept all 2,400 drawn pictures."
    ]
    rejected = none | {"confidence": 3, "top_k": 1}
    counts = FilterCounts(pictures=9, kept=6, rejected=rejected, kept_by_class={})
    assert wording.sentences("filter", counts=counts) == [
        "The filter kept 6 of 9 drawn pictures and left 3 out of training (some for more than one "
        "reason): 3 below the guide's confidence, 1 not among the guide's first choices."
    ]
    assert set(wording.REJECTED) == set(PICTURE_FAULTS)
    assert wording.filter_rules(Filter(constant=0)) == "none"
    assert wording.filter_rules(Filter(best_of=4, top_k=2)) == (
        "among the guide's first 2, best of 4, standard deviation ≥ 2"
    )
