"""What is no better than chance says so, in every place that shows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from higfa_cli.artifacts.artifact import write_model
from higfa_cli.artifacts.results import Assessment, Calibration, at_chance
from higfa_cli.stages import report
from higfa_cli.stages.worth import worthless
from tests.support.report_project import context as report_context
from tests.support.report_project import write_downstream, write_upstream


def calibration(accuracy: float, photos: int, classes: int) -> Calibration:
    clean = Assessment(count=photos, accuracy=accuracy, ece_before=0.1, ece_after=0.1)
    many = clean.model_copy(update={"count": photos * 20})
    return Calibration(
        source="val",
        temperature=1.0,
        levels=(),
        overall=many,
        reconstructed=clean,
        clean=clean,
        classes=classes,
    )


@pytest.mark.parametrize(
    ("accuracy", "count", "classes", "guess"),
    [
        (0.075, 40, 20, True),  # 7.5 % where chance is 5 %
        (0.5, 40, 20, False),
        (0.0, 40, 20, True),
        (1.0, 2, 2, True),  # two of two right is what one in four guesses
        (1.0, 6, 2, False),
        (0.02, 10_000, 100, False),
        (0.0101, 10_000, 100, True),
        (1.0, 0, 5, False),
        (1.0, 9, 1, False),
    ],
)
def test_the_exact_interval(accuracy: float, count: int, classes: int, guess: bool) -> None:
    assert at_chance(accuracy, count, classes) == guess


@pytest.mark.fault(
    "numbers",
    "a guide or a classifier no better than chance",
    "a warning at the end of the stage, before pictures are steered by it, in `status`, `doctor` "
    "and the report; no difference between guesses",
)
def test_a_guide_at_chance_says_so(tmp_path: Path) -> None:
    ctx = report_context(tmp_path)
    write_model(ctx.ws.guide.calibration, calibration(0.075, 40, 20))
    warning = worthless(ctx, "finetune-guide")
    assert warning and "7.5% of 40" in warning and "chance (5.0%)" in warning
    write_model(ctx.ws.guide.calibration, calibration(0.6, 40, 20))
    assert worthless(ctx, "finetune-guide") is None
    assert worthless(ctx, "train-downstream") is None and worthless(ctx, "report") is None


@pytest.mark.fault("numbers", "a guide or a classifier no better than chance")
def test_arms_at_chance_have_no_difference(tmp_path: Path) -> None:
    """150 of 200 wrong where chance is 1 in 4."""
    guesses = [set(range(start, start + 150)) for start in (0, 20, 40)]
    fewer = [set(range(start, start + 148)) for start in (0, 20, 40)]
    write_downstream(tmp_path, {"real": guesses, "real+higfa": fewer}, 200, True)
    write_upstream(tmp_path)
    ctx = report_context(tmp_path)
    warning = worthless(ctx, "train-downstream")
    assert warning and "No arm is better than chance (25.0%) on 200 test photos" in warning
    told = report.run(ctx)
    assert told["verdict"] == "No result" and warning in str(told["sentence"])
    text = ctx.ws.report.markdown.read_text()
    assert "points [" not in text.split("## How")[0].replace("points [95 %]", "")
    assert "no better" not in text.split("## How")[0]


@pytest.mark.fault("numbers", "a guide or a classifier no better than chance")
def test_two_guessing_arms_beside_a_good_one(tmp_path: Path) -> None:
    guesses = [set(range(start, start + 150)) for start in (0, 20, 40)]
    good = [set(range(20))] * 3
    arms = {"real": guesses, "real+higfa": guesses, "real+other": good}
    write_downstream(tmp_path, arms, 200, True)
    write_upstream(tmp_path)
    ctx = report_context(tmp_path)
    assert worthless(ctx, "train-downstream") is None
    told = report.run(ctx)
    assert told["verdict"] == "No result"
    assert "Neither real nor real+higfa is better than chance" in str(told["sentence"])
    assert "real+other" in ctx.ws.report.markdown.read_text()
