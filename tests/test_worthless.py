"""What is no better than chance says so, in every place that shows it."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from higfa_cli.artifacts.artifact import write_model
from higfa_cli.artifacts.atomic import read_json, write_json, write_text
from higfa_cli.artifacts.results import Assessment, Calibration, at_chance
from higfa_cli.artifacts.run_record import StageInputs, stage_run
from higfa_cli.errors import UserError
from higfa_cli.stages import pipeline, report
from higfa_cli.stages.context import Context
from higfa_cli.stages.inputs import synthesize_inputs
from higfa_cli.stages.table import stage_of
from higfa_cli.stages.worth import consented, unguided, worthless
from tests.support.plain_project import changed, write_plain_project
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
def test_a_guide_as_unsure_of_its_own_photos_as_of_any_others(tmp_path: Path) -> None:
    ctx, sure = report_context(tmp_path), calibration(0.6, 40, 20)
    for low, guess in ((0.049, True), (0.051, False)):
        write_model(
            ctx.ws.guide.calibration, sure.model_copy(update={"own_confidence": (0.06, low)})
        )
        warning = worthless(ctx, "finetune-guide")
        assert (warning is not None) == guess
        assert not guess or "6.0% in their class, no more than in any other" in str(warning)


def guided_project(root: Path, accuracy: float) -> Context:
    """Contours are there, and a guide that is right on so many of 40 photos of 20 classes."""
    ctx = changed(write_plain_project(root), guidance__classifier__switch=0.5)
    list(pipeline.iter_stages(ctx, last="contours"))
    files = ctx.ws.guide
    with stage_run(files.directory, stage_of("finetune-guide").inputs(ctx), ctx.recipe) as run:
        write_text(files.checkpoint, f"guide {accuracy}")
        write_model(files.calibration, calibration(accuracy, 40, 20))
        run.output(files.checkpoint)
        run.output(files.calibration)
    return ctx


@pytest.mark.fault(
    "numbers",
    "pictures would be steered by a guide no better than chance",
    "refused before anything is drawn, unless `--force`; what was begun so goes on without, and "
    "nothing drawn is removed",
)
def test_pictures_are_not_steered_by_noise_unasked(tmp_path: Path) -> None:
    ctx = guided_project(tmp_path, 0.075)
    with pytest.raises(UserError, match=r"7.5% of 40 .* higfa synthesize --force") as refusal:
        pipeline.step(ctx, "synthesize")
    assert len(str(refusal.value)) <= 2 * 120
    part = ctx.ws.arm("higfa").synthesize
    assert not part.directory.exists()
    # Another guide's pictures are no consent to this one's.
    these = synthesize_inputs(ctx.arm("higfa"))
    forced, asked = replace(ctx, force=True), {part.directory: these}
    for inputs in (StageInputs({}, {}), these):
        with pytest.raises(UserError, match="--force"):
            consented(ctx, asked)
        assert consented(forced, asked).force
        with pytest.raises(ZeroDivisionError), stage_run(part.directory, inputs, ctx.recipe) as run:
            write_text(part.images / "a.png", "drawn for a day")
            run.output(part.images / "a.png")
            raise ZeroDivisionError
    # The command that began them goes on, with --force and without, and does not begin again.
    assert not consented(ctx, asked).force and not consented(forced, asked).force
    with stage_run(part.directory, these, ctx.recipe, resume=True) as run:
        run.keep("images/a.png")
    assert consented(forced, asked).force
    good = guided_project(tmp_path / "good", 0.6)
    consented(good, {tmp_path: these})
    # So few photos tell nothing: a word, no refusal.
    write_model(ctx.ws.guide.calibration, calibration(0.0, 19, 20))
    assert worthless(ctx, "finetune-guide")
    consented(ctx, {tmp_path: these})


@pytest.mark.fault("numbers", "pictures would be steered by a guide no better than chance")
def test_an_arm_that_no_guide_steers_asks_nothing(tmp_path: Path) -> None:
    ctx = changed(guided_project(tmp_path, 0.075), guidance__classifier__switch=1.0)
    try:
        pipeline.step(ctx, "synthesize")
    except UserError as error:
        assert "--force" not in str(error)


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
    assert "Neither real nor real+higfa is better than chance, so they are not compared" in text
    assert "share no training seed" not in text
    assert "difference" not in " ".join(told).lower()
    with ctx.ws.report.csv.open(newline="") as handle:
        for row in csv.DictReader(handle):
            assert not row["difference_points"] and not row["verdict"]


@pytest.mark.fault("numbers", "a guide or a classifier no better than chance")
@pytest.mark.parametrize("wrong", [20, 150])
def test_what_the_guide_alone_is_worth_is_no_difference_of_guesses(
    wrong: int, tmp_path: Path
) -> None:
    some = [set(range(start, start + wrong)) for start in (0, 20, 40)]
    arms = {"real": [set(range(20))] * 3, "real+text+contour": some, "real+higfa": some}
    write_downstream(tmp_path, arms, 200, True)
    write_upstream(tmp_path)
    ctx = report_context(tmp_path)
    report.run(ctx)
    sentence = "real+higfa minus real+text+contour, from the same contours and seeds: "
    assert (sentence in ctx.ws.report.markdown.read_text()) == (wrong == 20)


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


@pytest.mark.fault("numbers", "temperature from a few validation photos")
def test_the_report_says_what_the_temperature_rests_on(tmp_path: Path) -> None:
    write_downstream(tmp_path, {"real": [set(range(20))] * 3}, 200, True)
    write_upstream(tmp_path)
    ctx = report_context(tmp_path)
    report.run(ctx)
    assert "Temperature rests on" not in ctx.ws.report.markdown.read_text()
    results = read_json(ctx.ws.downstream.results)
    results["arms"][0]["runs"][0]["temperature_photos"] = 12
    write_json(ctx.ws.downstream.results, results)
    report.run(ctx)
    text = ctx.ws.report.markdown.read_text()
    assert "12 photos" in text[text.index("Temperature rests on") :].splitlines()[0]


@pytest.mark.fault("numbers", "so few steps that the guide steers none", "said before the drawing")
@pytest.mark.parametrize(
    ("steps", "switch", "said"),
    [
        (3, 0.7, True),
        (3, 0.66, False),
        (20, 0.96, True),
        (20, 0.95, False),
        (1, 0.5, True),
        (3, 1.0, False),
    ],
)
def test_a_guide_that_no_step_asks_is_said(
    steps: int, switch: float, said: bool, tmp_path: Path
) -> None:
    ctx = changed(
        guided_project(tmp_path, 0.6), guidance__classifier__switch=switch, sampling__steps=steps
    )
    assert (unguided(ctx.recipe) is not None) == said
