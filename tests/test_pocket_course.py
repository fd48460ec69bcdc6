"""The training loop of judges and backbone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tools.pocket.train.course import Course, Pace

PACE = Pace(epochs=4, batch=5, peak=0.05, rising=0.25, fall="cos")
INPUTS = torch.randn(23, 3, generator=torch.Generator().manual_seed(0))
LABELS = (INPUTS[:, 0] > 0).long()


def course(path: Path, pace: Pace = PACE) -> Course:
    torch.manual_seed(0)
    return Course(nn.Linear(3, 2), lambda chosen: INPUTS[chosen], LABELS, pace, path)


def test_a_course_learns_and_its_rate_rises_and_falls(tmp_path: Path) -> None:
    one = course(tmp_path / "a.pt")
    rates, losses = [one.rate.get_last_lr()[0]], []
    for _ in range(4):
        losses.append(one.epoch())
        rates.append(one.rate.get_last_lr()[0])
    assert losses[-1] < losses[0]
    # four steps an epoch: three rows are left out; the peak is at a quarter of the sixteen
    assert one.steps == 4
    assert rates[0] == pytest.approx(0.05 / 25)
    assert max(rates) == rates[1] > 0.045 and rates[-1] < 1e-3


def test_a_course_that_was_stopped_ends_as_a_straight_one(tmp_path: Path) -> None:
    straight = course(tmp_path / "straight.pt")
    straight.run(lambda: 0.0, tmp_path / "straight.jsonl", "a")
    first = course(tmp_path / "cut.pt")
    first.epoch()
    second = course(tmp_path / "cut.pt")
    assert second.done == 1 and second.rate.get_last_lr() == first.rate.get_last_lr()
    second.run(lambda: 0.0, tmp_path / "cut.jsonl", "a")
    assert torch.equal(second.network.weight, straight.network.weight)
    assert len((tmp_path / "cut.jsonl").read_text(encoding="utf-8").splitlines()) == 3
