"""What a stage made is never lost because a key changed: it is set aside, and comes back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from higfa_cli.artifacts.atomic import write_text
from higfa_cli.artifacts.lock import folder_lock
from higfa_cli.artifacts.records import FilterCounts, SynthesisCounts
from higfa_cli.artifacts.run_record import StageInputs, stage_run, take_back
from higfa_cli.artifacts.stage_state import stage_state
from higfa_cli.data.sheet import CAPTION, TILE
from higfa_cli.errors import UserError
from higfa_cli.recipe.keys import recipe_keys
from higfa_cli.recipe.load import override_recipe
from higfa_cli.recipe.schema import Recipe
from higfa_cli.stages import pipeline
from higfa_cli.stages.context import Context, Silent
from higfa_cli.stages.preview import write_sheet
from higfa_cli.stages.table import stage_of
from tests.support.plain_project import changed, write_plain_project
from tests.support.stage_folder import INPUTS, RECIPE, finish, names, write_files

COUNTS = {
    "synthesize": SynthesisCounts(
        images=1,
        failed=0,
        failures={},
        smallest_batch=1,
        drawn_now=1,
        seconds=1.0,
        seconds_per_image=1.0,
        denoiser_evaluations_per_image=1,
        guide_evaluations_per_image=0,
        batch_size=1,
        dtype="float32",
        peak_device_memory=None,
    ),
    "filter": FilterCounts(pictures=1, kept=1, rejected={}, kept_by_class={}),
}


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    return write_plain_project(tmp_path)


def pretend_all(ctx: Context) -> dict[str, dict[str, bytes]]:
    """Every stage finished with its real inputs; by part, the files that it made."""
    shown = {
        "contours": {},
        "finetune-guide": {"guide.safetensors": "g", "calibration.json": "{}"},
        "synthesize": {"images/metadata.jsonl": "", "images/A320/a.png": "drawn for a day"},
        "filter": {"selection.jsonl": ""},
        "train-downstream": {"results.json": "{}", "arms/real/seed-0/model.safetensors": "m"},
        "report": {"report.html": "page"},
    }
    list(pipeline.iter_stages(ctx, last="contours"))
    for stage, files in shown.items():
        for part, its in pipeline._parts(ctx, stage).items() if files else ():
            with stage_run(ctx.workspace / part, stage_of(stage).inputs(its), ctx.recipe) as run:
                run.counts = COUNTS.get(stage)
                for name, text in files.items():
                    write_text(run.directory / name, text)
                    run.output(run.directory / name)
    return {part: below(ctx.workspace / part) for s in shown for part in pipeline._parts(ctx, s)}


def below(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def variants(ctx: Context) -> Iterator[tuple[str, Context]]:
    """The recipe with one key changed, for every key whose value is a number, a switch or a list
    of numbers.
    """
    for key in recipe_keys():
        value = read_key(ctx.recipe, key)
        for other in {bool: [not value], int: [1, 2, 3, 64, 0.5], float: [0.5, 1.5, 0.25, 7]}.get(
            type(value), []
        ):
            with contextlib.suppress(UserError):
                if other != value:
                    yield key, replace(ctx, recipe=override_recipe(ctx.recipe, {key: other}))
                    break


def read_key(recipe: Recipe, key: str) -> object:
    value: object = recipe
    for name in key.split("."):
        value = getattr(value, name, None)
    return value


@pytest.mark.fault(
    "files",
    "a key changed after something was made",
    "set aside whole under `.earlier`, said; comes back at once with the key",
)
def test_no_key_makes_any_stage_lose_what_it_made(ctx: Context) -> None:
    ctx = changed(ctx, guidance__classifier__switch=0.5)
    made = pretend_all(ctx)
    keys: dict[str, list[str]] = {stage: [] for stage in pipeline.NAMES}
    for key, other in variants(ctx):
        for part in made:
            stage, directory = part.partition("/")[0], ctx.workspace / part
            try:
                inputs = pipeline._inputs(other, part, {})
            except UserError:
                continue
            if stage_state(directory, inputs).kind != "stale":
                continue
            keys[stage].append(key)
            with contextlib.suppress(ZeroDivisionError), stage_run(directory, inputs, other.recipe):
                raise ZeroDivisionError
            assert made[part] in [below(p) for p in (directory.parent / ".earlier").iterdir()], key
            before = pipeline._inputs(ctx, part, {})
            assert take_back(directory, before)
            assert below(directory) == made[part], (key, part)
    for stage, key in (
        ("contours", "contours.per_image"),
        ("finetune-guide", "guide.epochs"),
        ("synthesize", "guidance.classifier.scale"),
        ("synthesize", "sampling.steps"),
        ("filter", "filter.confidence"),
        ("train-downstream", "downstream.epochs"),
        ("report", "guidance.classifier.scale"),
    ):
        assert key in keys[stage], (stage, sorted(keys[stage]))


@pytest.mark.fault("files", "a key changed after something was made")
def test_what_was_made_comes_back_with_its_key(ctx: Context) -> None:
    list(pipeline.iter_stages(ctx, last="contours"))
    whole, notes = below(ctx.stage_dir("contours")), Notes()
    more = replace(changed(ctx, contours__per_image=2), progress=notes)
    assert pipeline.step(more, "contours")["action"] == "ran"
    (said,) = notes.said
    assert "contours.per_image: 1 -> 2" in said and ".earlier" in said
    assert pipeline.step(ctx, "contours")["action"] == "skipped"
    assert below(ctx.stage_dir("contours")) == whole
    assert pipeline.step(more, "contours")["action"] == "skipped"
    forced = replace(ctx, force=True)
    assert pipeline.step(forced, "contours")["action"] == "ran"
    assert below(ctx.stage_dir("contours")).keys() == whole.keys()


@pytest.mark.fault("files", "a key changed after something was made")
def test_only_what_was_moved_is_said_to_be_kept(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = pretend_all(ctx)
    assert made["finetune-guide"]
    guide, notes = ctx.stage_dir("finetune-guide"), Notes()
    more = replace(changed(ctx, guide__epochs=3), progress=notes)
    with folder_lock(guide), pytest.raises(UserError):
        pipeline.step(more, "finetune-guide")
    assert notes.said == [] and not (ctx.workspace / ".earlier").exists()

    def fails(of: Context) -> None:
        inputs = stage_of("finetune-guide").inputs(of)
        with stage_run(guide, inputs, of.recipe, resume=True, anew=of.force):
            raise ZeroDivisionError

    monkeypatch.setattr("higfa_cli.stages.finetune_guide.run", fails)
    with pytest.raises(ZeroDivisionError):
        pipeline.step(more, "finetune-guide")
    (aside,) = (ctx.workspace / ".earlier").iterdir()
    assert len(notes.said) == 1 and f"is kept in {aside}" in notes.said[0]
    forced = replace(ctx, force=True, progress=notes)
    with pytest.raises(ZeroDivisionError):
        pipeline.step(forced, "finetune-guide")
    assert len(notes.said) == 2 and "-1" in notes.said[1]


@pytest.mark.fault("files", "a key changed after something was made")
def test_contours_that_did_not_finish_are_not_said_to_be_kept(ctx: Context) -> None:
    inputs, notes = stage_of("contours").inputs(ctx), Notes()
    with pytest.raises(ZeroDivisionError), stage_run(ctx.stage_dir("contours"), inputs, ctx.recipe):
        raise ZeroDivisionError
    with (
        pytest.raises(ZeroDivisionError),
        stage_run(ctx.stage_dir("contours"), inputs, ctx.recipe) as run,
    ):
        write_files(run, {"a": "1"})
        raise ZeroDivisionError
    more = replace(changed(ctx, contours__per_image=2), progress=notes)
    assert pipeline.step(more, "contours")["action"] == "ran"
    assert (ctx.workspace / ".earlier").exists() and notes.said == []


@pytest.mark.fault(
    "files",
    "`--force` over pictures, guides or trainings, finished or half done",
    "set aside as well; a later run takes its own back, not those",
)
def test_what_is_forced_away_is_set_aside(tmp_path: Path) -> None:
    stage, earlier = tmp_path / "s", tmp_path / ".earlier"
    failed(stage, INPUTS)
    for number, text in enumerate(("first", "second"), start=1):
        with stage_run(stage, INPUTS, RECIPE, resume=True, anew=True) as run:
            assert not run.kept and not run.scratch("half.pt").exists()
            write_files(run, {"a": text})
        assert len(list(earlier.iterdir())) == number
    kept = sorted(earlier.iterdir())
    assert (kept[0] / ".scratch/half.pt").read_text() == "hours of training"
    assert (kept[1] / "images/a").read_text() == "first"
    # Other inputs come and go, anew or not: the last of each is what comes back.
    finish(stage, OTHER, a="other")
    with stage_run(stage, INPUTS, RECIPE, resume=True, anew=True) as run:
        write_files(run, {"a": "third"})
    assert (sorted(earlier.iterdir())[-2] / "images/a").read_text() == "second"
    finish(stage, OTHER, a="other again")
    assert take_back(stage, INPUTS) and (stage / "images/a").read_text() == "third"


class Notes(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, message: str) -> None:
        self.said.append(message)


OTHER = StageInputs({"version": 9}, {})


def failed(stage: Path, inputs: StageInputs) -> None:
    with pytest.raises(RuntimeError), stage_run(stage, inputs, RECIPE, resume=True) as run:
        write_files(run, {"a": "1"})
        write_text(run.scratch("half.pt"), "hours of training")
        raise RuntimeError


@pytest.mark.fault(
    "files", "half-done work, a broken record, when a key changed", "set aside, and gone on with"
)
def test_half_done_work_is_set_aside_and_gone_on_with(tmp_path: Path) -> None:
    stage = tmp_path / "s"
    failed(stage, INPUTS)
    finish(stage, OTHER, b="2")
    assert names(stage / "images") == ["b"]
    with stage_run(stage, INPUTS, RECIPE, resume=True) as run:
        assert list(run.kept) == ["images/a"]
        assert run.scratch("half.pt").read_text() == "hours of training"
        run.keep("images/a")
    assert take_back(stage, OTHER) and names(stage / "images") == ["b"]
    assert not take_back(stage, OTHER)


@pytest.mark.fault("files", "half-done work, a broken record, when a key changed")
def test_what_a_broken_record_made_is_kept(tmp_path: Path) -> None:
    stage = tmp_path / "s"
    failed(stage, INPUTS)
    (stage / "run.json").write_text("{")
    finish(stage, INPUTS, b="2")
    (aside,) = (tmp_path / ".earlier").iterdir()
    assert names(stage / "images") == ["b"] and (aside / "images" / "a").read_text() == "1"


@pytest.mark.fault("files", "half-done work, a broken record, when a key changed")
def test_a_run_that_made_nothing_leaves_nothing(tmp_path: Path) -> None:
    stage = tmp_path / "s"
    with pytest.raises(RuntimeError), stage_run(stage, INPUTS, RECIPE):
        raise RuntimeError
    finish(stage, OTHER, b="2")
    assert not (tmp_path / ".earlier").exists()


@pytest.mark.fault("hostile", "a link where earlier results go", "error; nothing is moved")
def test_a_link_in_the_place_of_what_was_set_aside(tmp_path: Path) -> None:
    stage, elsewhere = tmp_path / "s", tmp_path / "elsewhere"
    finish(stage, a="1")
    elsewhere.mkdir()
    (tmp_path / ".earlier").symlink_to(elsewhere)
    with pytest.raises(UserError, match="is a link to a folder"):
        finish(stage, OTHER, b="2")
    assert names(stage / "images") == ["a"] and names(elsewhere) == []


@pytest.mark.fault("processes", "a folder in use whose earlier results would come back", "stays")
def test_a_busy_folder_takes_nothing_back(tmp_path: Path) -> None:
    stage = tmp_path / "s"
    finish(stage, a="1")
    finish(stage, OTHER, b="2")
    with folder_lock(stage):
        assert not take_back(stage, INPUTS)
    assert names(stage / "images") == ["b"]


@pytest.mark.fault("files", "a key changed after something was made")
def test_sheets_of_other_keys_stay(tmp_path: Path) -> None:
    path, notes = tmp_path / "sweep-sampling.steps.png", tmp_path / "sweep-sampling.steps.json"
    sheets = [[[Image.new("RGB", (TILE, TILE + CAPTION), colour)]] for colour in ("red", "blue")]
    drawn = []
    for number, rows in enumerate((*sheets, sheets[1])):
        write_sheet(path, rows)
        drawn.append(path.read_bytes())
        notes.write_text(str(number))
    kept = set(tmp_path.glob("*.png")) - {path}
    assert [old.read_bytes() for old in kept] == [drawn[0]] and path.read_bytes() == drawn[1]
    assert [old.with_suffix(".json").read_text() for old in kept] == ["0"]
