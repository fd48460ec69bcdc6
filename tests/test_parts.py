"""Participants of one folder: who may open, join, and is refused; what their journals say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from higfa_cli.artifacts.atomic import read_json, write_text
from higfa_cli.artifacts.lock import folder_lock, gate, living_parts, part_lock
from higfa_cli.artifacts.run_record import (
    StageInputs,
    StageRun,
    closing_run,
    opening_run,
    part_run,
    stage_run,
    tidy,
)
from higfa_cli.artifacts.stage_run import journal, read_journal
from higfa_cli.artifacts.stage_state import recorded_outputs, stage_state
from higfa_cli.errors import UserError
from tests.support.stage_folder import INPUTS, RECIPE

OTHER = StageInputs({"version": 2}, {})


def write(run: StageRun, name: str, text: str = "x", seconds: float | None = None) -> None:
    write_text(run.directory / name, text)
    run.output(run.directory / name, seconds)


def open_plan(run: StageRun) -> None:
    if "plan" in run.kept:
        run.keep("plan")
    else:
        write(run, "plan")


def test_two_parts_join_and_a_closer_takes_over(tmp_path: Path) -> None:
    stage = tmp_path / "s"
    with part_run(stage, INPUTS, RECIPE, "a", open_plan) as a:
        write(a, "1", seconds=2.0)
        with part_run(stage, INPUTS, RECIPE, "b", open_plan) as b:
            assert b.kept.keys() == {"plan", "1"}
            write(b, "2")
            with gate(stage):
                assert living_parts(stage) == ["a", "b"]
        assert read_journal(journal(stage, "b")).keys() == {"2"}
        assert read_json(stage / "run.json")["status"] == "running"
    with gate(stage):
        assert living_parts(stage) == []
    with folder_lock(stage), closing_run(stage, INPUTS, RECIPE) as run:
        assert run.kept.keys() == {"plan", "1", "2"}
        for name in run.kept:
            run.keep(name)
        assert run.seconds == {"1": 2.0}
    assert stage_state(stage, INPUTS).kind == "fresh"
    assert sorted(path.name for path in stage.iterdir()) == [
        "1",
        "2",
        "plan",
        "recipe.resolved.yaml",
        "run.json",
    ]


def test_who_is_refused(tmp_path: Path) -> None:
    stage = tmp_path / "s"
    with part_run(stage, INPUTS, RECIPE, "a", open_plan):
        for attempt in (
            lambda: part_run(stage, INPUTS, RECIPE, "a", open_plan),
            lambda: part_run(stage, OTHER, RECIPE, "b", open_plan),
            lambda: stage_run(stage, INPUTS, RECIPE),
        ):
            with pytest.raises(UserError) as caught, attempt():
                raise AssertionError("let in")
            assert caught.value.exit_code == 75
        (stage / "run.json").write_text("{")
        with (
            pytest.raises(UserError, match="still at work"),
            part_run(stage, INPUTS, RECIPE, "b", open_plan),
        ):
            raise AssertionError("let in")
    with stage_run(stage, INPUTS, RECIPE):
        with pytest.raises(UserError) as caught, part_run(stage, INPUTS, RECIPE, "a", open_plan):
            raise AssertionError("let in")
        assert caught.value.exit_code == 75


def test_parts_of_other_inputs_that_have_ended_are_cleared(tmp_path: Path) -> None:
    stage = tmp_path / "s"
    with part_run(stage, INPUTS, RECIPE, "a", open_plan) as run:
        write(run, "1")
    with part_run(stage, OTHER, RECIPE, "a", open_plan) as run:
        assert run.kept == {}
        assert not (stage / "1").exists()
    assert recorded_outputs(stage).keys() == {"plan"}


def test_a_part_begun_again_mends_its_journal_and_knows_its_files(tmp_path: Path) -> None:
    stage = tmp_path / "s"
    with part_run(stage, INPUTS, RECIPE, "b", open_plan):
        with part_run(stage, INPUTS, RECIPE, "a", open_plan) as run:
            write(run, "1")
            write(run, "2")
        with journal(stage, "a").open("a") as handle:
            handle.write('{"file_name": "3", "sha')
        (stage / "2").write_text("changed")
        with part_run(stage, INPUTS, RECIPE, "a", open_plan) as run:
            assert run.kept.keys() == {"plan", "1"}
            write(run, "3")
        assert read_journal(journal(stage, "a")).keys() == {"1", "3"}


def test_who_opens_the_folder_leaves_it_to_the_parts(tmp_path: Path) -> None:
    stage = tmp_path / "s"
    with opening_run(stage, INPUTS, RECIPE) as run:
        open_plan(run)
        with (
            pytest.raises(UserError) as busy,
            part_run(stage, INPUTS, RECIPE, "w", open_plan),
        ):
            pass
        assert busy.value.exit_code == 75
    assert read_json(stage / "run.json")["status"] == "running"
    with part_run(stage, INPUTS, RECIPE, "w", lambda run: run.keep("plan")) as part:
        write(part, "1", seconds=1.5)
        write(part, "2")
        (stage / "2").write_text("changed")
        with pytest.raises(UserError, match="w still at work"), opening_run(stage, INPUTS, RECIPE):
            pass
    with stage_run(stage, INPUTS, RECIPE, resume=True) as run:
        assert run.kept.keys() == {"plan", "1"}
        run.keep("plan")
        run.keep("1")
        assert run.digest("1") == run.kept["1"]
    record = read_json(stage / "run.json")
    assert record["output_seconds"] == {"1": 1.5}
    assert not list(stage.glob(".outputs*"))
    # A later repair still knows what the first run took.
    (stage / "run.json").write_text(json.dumps(record | {"status": "failed"}))
    with stage_run(stage, INPUTS, RECIPE, resume=True) as again:
        first = again.finished["1"]
        assert (first.sha256, first.seconds) == (record["outputs"]["1"], 1.5)


def test_opening_again_resumes_or_sets_aside(tmp_path: Path) -> None:
    stage = tmp_path / "s"
    with opening_run(stage, INPUTS, RECIPE) as run:
        open_plan(run)
    with opening_run(stage, INPUTS, RECIPE) as run:
        assert run.kept.keys() == {"plan"}
    with opening_run(stage, INPUTS, RECIPE, anew=True) as run:
        assert not run.kept and not (stage / "plan").exists()
    assert [path.name for path in tmp_path.glob(".earlier/*/plan")] == ["plan"]


def test_what_an_unfinished_run_of_other_inputs_left_goes(tmp_path: Path) -> None:
    stage, half = tmp_path / "s", tmp_path / "s/images/a.png"
    with pytest.raises(RuntimeError), stage_run(stage, INPUTS, RECIPE):
        write_text(half, "of no record yet")
        raise RuntimeError
    with stage_run(stage, OTHER, RECIPE, resume=True):
        assert not half.exists()


def test_journal_names_stay_inside(tmp_path: Path) -> None:
    path = tmp_path / ".outputs.jsonl"
    names = ["ok/a", "../b", "/c"]
    path.write_text("".join(json.dumps({"file_name": n, "sha256": "0"}) + "\n" for n in names))
    assert read_journal(path).keys() == {"ok/a"}
    assert read_journal(tmp_path / "none") == {}


def test_scratch_goes_when_the_stage_is_done(tmp_path: Path) -> None:
    stage = tmp_path / "s"
    with pytest.raises(RuntimeError), stage_run(stage, INPUTS, RECIPE) as run:
        write_text(run.scratch("a.pt"), "half")
        raise RuntimeError
    with stage_run(stage, INPUTS, RECIPE, resume=True) as run:
        assert run.scratch("a.pt").read_text() == "half"
    assert not run.scratch("a.pt").parent.exists()
    with pytest.raises(RuntimeError), stage_run(stage, INPUTS, RECIPE) as run:
        write_text(run.scratch("a.pt"), "half")
        raise RuntimeError
    with stage_run(stage, OTHER, RECIPE, resume=True) as run:
        assert not run.scratch("a.pt").exists()


def test_tidy_leaves_a_busy_folder_alone(tmp_path: Path) -> None:
    stage = tmp_path / "s"
    with stage_run(stage, INPUTS, RECIPE) as run:
        write(run, "1")
        tidy(stage)
        assert journal(stage).is_file()
    write_text(journal(stage), "")
    tidy(stage)
    assert not journal(stage).exists()
    tidy(stage)


def test_a_lock_that_cannot_be_made_is_an_error_of_its_own(tmp_path: Path) -> None:
    (tmp_path / ".s.part-x.lock").mkdir()
    with pytest.raises(UserError, match="cannot be locked") as caught:
        living_parts(tmp_path / "s")
    assert caught.value.exit_code == 1
    with pytest.raises(UserError, match="cannot be locked"), part_lock(tmp_path / "s", "x"):
        raise AssertionError("let in")
