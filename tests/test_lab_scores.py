"""Scores, strips and verdicts of the laboratory, worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from higfa_cli.artifacts.rows import TraceRow
from higfa_cli.errors import UserError
from tests.support.lab_project import CLASSES, write_judges
from tools.pocket.lab.draw import Pictures
from tools.pocket.lab.judges import jury_log_probabilities, jury_of, load_judges, votes
from tools.pocket.lab.scores import Score
from tools.pocket.lab.strips import guided_steps, strip, worst_items
from tools.pocket.lab.text import percent
from tools.pocket.lab.thresholds import blame, distance_at, diversity, matched


def score(
    p: Sequence[Sequence[float]], labels: Sequence[int], guide_p: Sequence[float], failed: int = -1
) -> Score:
    """A score of grey pictures with these probabilities; `failed` is a position."""
    count, log_p = len(labels), torch.tensor(p).log()
    lost = torch.arange(count) == failed
    drawings = Pictures(
        pictures=torch.full((count, 3, 4, 4), 128, dtype=torch.uint8),
        labels=torch.tensor(labels),
        contours=torch.zeros(count, 4, 4, dtype=torch.uint8),
        guide_p=torch.tensor(guide_p).masked_fill(lost, torch.nan),
        failed=lost,
        seconds=2.0 * count,
    )
    return Score(drawings, log_p[None], torch.eye(count))


def test_a_score_by_hand() -> None:
    one = score([[0.75, 0.25], [0.5, 0.5], [0.25, 0.75], [0.875, 0.125]], [0, 0, 1, 1], [1.0] * 4)
    # Right are the first three (a tie goes to the first class): the guide is sure of all four.
    row = one.row()
    assert row["agreement"][0] == 0.75
    assert row["gap"] == 0.25
    assert row["guide_p"] == 1.0
    assert row["mean_log_p"] == pytest.approx(math.log(0.75 * 0.5 * 0.75 * 0.125) / 4, abs=1e-4)
    assert row["seconds_per_picture"] == 2.0
    # The features are at right angles.
    assert row["distance"] == 1.0


def test_a_picture_that_failed_is_no_hit_and_leaves_no_gap() -> None:
    p = [[0.1, 0.9], [0.8, 0.2], [0.8, 0.2], [0.8, 0.2], [0.8, 0.2]]
    one = score(p, [1, 0, 0, 1, 1], [0.5] * 5, failed=0)
    assert one.hits.tolist() == [False, True, True, False, False]
    assert one.gaps.tolist() == pytest.approx([0, -0.5, -0.5, 0.5, 0.5])
    assert one.row()["failed"] == 1
    assert one.row()["agreement"][0] == 0.4
    # Of the four that were drawn; the failed one's would be log 0.9.
    assert one.row()["mean_log_p"] == pytest.approx((math.log(0.8) + math.log(0.2)) / 2, abs=1e-4)
    assert one.guide_p == pytest.approx(0.5)


def test_without_a_guide_the_table_has_no_gap() -> None:
    one = score([[0.9, 0.1]] * 4, [0, 0, 1, 1], [math.nan] * 4)
    assert one.row()["gap"] is None
    assert one.row()["guide_p"] is None


def test_the_jury_answers_in_the_order_of_the_data(tmp_path: Path) -> None:
    judges = load_judges(write_judges(tmp_path, classes=CLASSES[::-1]))
    pictures = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    own = jury_log_probabilities(judges, pictures)
    assert torch.equal(jury_of(votes(judges, pictures, CLASSES)), own.flip(1))
    with pytest.raises(UserError, match="classes"):
        votes(judges, pictures, ("blue disc", "green disc"))
    with pytest.raises(UserError, match="32 px"):
        votes(judges, pictures[..., :16, :16], CLASSES)


def test_percent() -> None:
    assert (
        percent((0.6125, 0.5, 0.7)) == "61.3 [50.0, 70.0]"
        or percent((0.6125, 0.5, 0.7)) == "61.2 [50.0, 70.0]"
    )


def test_a_strip_has_every_picture_in_its_place() -> None:
    red = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    red[1, 0] = 255
    contours = torch.full((2, 4, 4), 255, dtype=torch.uint8)
    sheet = np.asarray(strip([("c", contours), ("r", red)], ["one", "two"], scale=2))
    # 8 px cells and gaps of 2 px; the left column is 6 px a letter and two gaps, the head 12 px.
    assert sheet.shape == (12 + 2 * 10, 10 + 2 * 10, 3)
    assert sheet[12:20, 10:18].min() == 255
    assert sheet[22:30, 10:18].max() == 0
    assert (sheet[22:30, 20:28] == (255, 0, 0)).all()
    with pytest.raises(ValueError, match="row r"):
        strip([("c", contours), ("r", red[:1])], ["one", "two"])


def test_distance_is_read_off_where_a_curve_first_meets_the_agreement() -> None:
    curve = [(0.5, 0.40), (0.7, 0.30), (0.6, 0.20)]
    assert distance_at(curve, 0.6) == pytest.approx(0.35)
    assert distance_at(curve, 0.7) == pytest.approx(0.30)
    assert distance_at(curve, 0.71) is None
    assert distance_at([(0.5, 0.4), (0.5, 0.3)], 0.5) == pytest.approx(0.4)


def test_matched_agreement_by_hand() -> None:
    points: list[dict[str, Any]] = [
        {"scale": s, "agreement": [a, a, a], "distance": d}
        for s, a, d in ((0.0, 0.5, 0.4), (30.0, 0.7, 0.3))
    ]
    # 0.35 at the agreement of 0.6.
    assert diversity("none", matched(points, 0.6, 0.35 * 0.981)).word == "reached"
    worse = diversity("none", matched(points, 0.6, 0.35 * 0.979))
    assert worse.word == "MISSED"
    assert worse.measured.startswith("-2.1 %")
    beyond = diversity("rms", matched(points, 0.8, 0.3))
    assert beyond.word == "reached"
    assert "out of its reach; at its best, S_K 30 with 70.0 %" in beyond.measured
    below = diversity("rms", matched(points, 0.4, 0.3))
    assert below.word == "not comparable"


def test_the_worst_come_first_and_failures_are_left_out() -> None:
    one = score([[0.9, 0.1], [0.2, 0.8], [0.1, 0.9], [0.6, 0.4]], [0, 0, 0, 0], [1.0] * 4, failed=2)
    assert worst_items(one, 2) == [1, 3]
    assert worst_items(one) == [1, 3, 0]
    assert blame(True, 0.5) == "right without the guide; the guide is content"
    assert "wrong already" in blame(False, 0.49)
    trace = TraceRow(
        id="a",
        error=None,
        effective_batch=1,
        p=(None, 0.12345),
        s_text=(3.0, 2.0),
        s_contour=(2.0, 1.0),
        s_classifier=(0.0, 40.0),
    )
    assert guided_steps(trace) == {
        "p": [0.123],
        "s_text": [2.0],
        "s_contour": [1.0],
        "s_classifier": [40.0],
    }
