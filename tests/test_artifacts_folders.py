"""Locks, parts and states of artifact folders where things go wrong, inside one process."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from higfa_cli.artifacts import lock as lock_module
from higfa_cli.artifacts.atomic import (
    read_json,
    write_json,
    write_text,
)
from higfa_cli.artifacts.lock import folder_lock, living_parts
from higfa_cli.artifacts.run_record import (
    StageInputs,
    StageRun,
    closing_run,
    part_run,
    stage_run,
    tidy,
)
from higfa_cli.artifacts.stage_run import JournalRow, journal, read_journal
from higfa_cli.artifacts.stage_state import recorded_outputs, stage_state
from higfa_cli.errors import UserError
from tests.support.fault_project import ROOT, no_file_longer_than
from tests.support.stage_folder import INPUTS, RECIPE, finish, names, write_files

# Locks


def test_lock_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note = tmp_path / ".s.lock.json"
    here = {"pid": 1, "host": socket.gethostname()}
    for text in ("", "[]", "{}", json.dumps(here), json.dumps(here | {"boot": "before"})):
        note.write_text(text)
        with folder_lock(tmp_path / "s"):
            assert read_json(note)["pid"] == os.getpid()
        assert not note.exists()
    boot = lock_module._boot()
    note.write_text(json.dumps({"pid": 1, "host": "container-1", "boot": boot}))
    if boot:
        with folder_lock(tmp_path / "s"):
            pass
    monkeypatch.setattr(lock_module, "_BOOT", tmp_path / "nowhere")
    note.write_text(json.dumps({"pid": 1, "host": "container-1", "boot": ""}))
    with (
        pytest.raises(UserError, match=r"process 1 on container-1; if it has died, delete") as no,
        folder_lock(tmp_path / "s"),
    ):
        pass
    assert no.value.exit_code == 75 and note.exists()


def test_a_holder_without_a_note_is_another_process(tmp_path: Path) -> None:
    with folder_lock(tmp_path / "s"):
        (tmp_path / ".s.lock.json").unlink()
        with (
            pytest.raises(UserError, match="in use by another process; wait"),
            folder_lock(tmp_path / "s"),
        ):
            pass


@pytest.mark.fault("processes", "a file system without locks, a link in the lock's place", "error")
def test_what_cannot_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def attempt() -> str:
        with pytest.raises(UserError) as caught, folder_lock(tmp_path / "s"):
            raise AssertionError("taken")
        return str(caught.value)

    (tmp_path / ".s.lock").mkdir()
    assert "cannot be locked" in attempt()
    (tmp_path / ".s.lock").rmdir()
    (tmp_path / ".s.lock").symlink_to(tmp_path / "elsewhere")
    assert "is a link" in attempt() and not (tmp_path / "elsewhere").exists()
    (tmp_path / ".s.lock").unlink()
    with no_file_longer_than(3):
        assert "File too large" in attempt()

    def no_locks(*_: object, **__: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(lock_module.FileLock, "acquire", no_locks)
    assert "this file system has no locks; choose another --workspace" in attempt()


# Parts of a stage


def nothing(run: StageRun) -> None:
    """Opens no plan."""


def test_parts_beside_each_other_then_closed(tmp_path: Path) -> None:
    stage = tmp_path / "s"
    other = StageInputs({"version": 9}, {})
    with part_run(stage, INPUTS, RECIPE, "0-of-2", nothing) as one:
        write_files(one, {"a": "1"})
        assert one.digest("images/a") == one.outputs["images/a"]
        with part_run(stage, INPUTS, RECIPE, "1-of-2", nothing) as two:
            assert list(two.kept) == ["images/a"]
            two.keep("images/a")
            path = two.directory / "images" / "b"
            write_text(path, "2")
            two.output(path, seconds=1.5)
            assert two.seconds == {"images/b": 1.5}
            assert living_parts(stage) == ["0-of-2", "1-of-2"]
            assert two.scratch("x").parent.parent == stage
        with (
            pytest.raises(UserError, match="0-of-2 still at work with another recipe") as busy,
            part_run(stage, other, RECIPE, "1-of-2", nothing),
        ):
            pass
        assert busy.value.exit_code == 75
        with (
            pytest.raises(UserError, match="in use") as busy,
            part_run(stage, INPUTS, RECIPE, "0-of-2", nothing),
        ):
            pass
        assert busy.value.exit_code == 75
        with pytest.raises(UserError, match="0-of-2 still at work; wait"):
            finish(stage, c="3")
        whole = (stage / "run.json").read_bytes()
        (stage / "run.json").write_text("{")
        with (
            pytest.raises(UserError, match="another recipe"),
            part_run(stage, INPUTS, RECIPE, "1-of-2", nothing),
        ):
            pass
        (stage / "run.json").write_bytes(whole)
    assert stage_state(stage, INPUTS).kind == "partial"
    assert set(recorded_outputs(stage)) == {"images/a", "images/b"}
    with folder_lock(stage), closing_run(stage, INPUTS, RECIPE) as run:
        assert run.finished["images/b"].seconds == 1.5
        for name in run.kept:
            run.keep(name)
        write_files(run, {"c": "3"})
    assert stage_state(stage, INPUTS).kind == "fresh"
    assert set(recorded_outputs(stage)) == {"images/a", "images/b", "images/c"}
    assert names(stage) == ["images/a", "images/b", "images/c", "recipe.resolved.yaml", "run.json"]
    assert read_json(stage / "run.json")["output_seconds"] == {"images/b": 1.5}


def test_leftovers_of_the_last_step_are_tidied(tmp_path: Path) -> None:
    stage = tmp_path / "s"
    finish(stage, a="1")
    tidy(stage)
    write_text(journal(stage), "")
    (stage / ".scratch").mkdir()
    with folder_lock(stage):
        tidy(stage)
        assert journal(stage).exists(), "somebody is at work"
    (tmp_path / ".s.lock").unlink(missing_ok=True)
    (tmp_path / ".s.lock").mkdir()
    with pytest.raises(UserError, match="cannot be locked"):
        tidy(stage)
    (tmp_path / ".s.lock").rmdir()
    tidy(stage)
    assert names(stage) == ["images/a", "recipe.resolved.yaml", "run.json"]
    assert stage_state(stage, INPUTS).kind == "fresh"


def test_journal_lines_that_are_none(tmp_path: Path) -> None:
    lines = ["[]", '"x"', '{"file_name": "a"}', '{"file_name": "../b", "sha256": "1"}', "{"]
    good = JournalRow(file_name="c", sha256="2", seconds=3.0)
    (tmp_path / ".outputs.jsonl").write_text("\n".join([*lines, good.line]) + "\n")
    assert read_journal(tmp_path / ".outputs.jsonl") == {"c": good}
    assert read_journal(tmp_path / "none") == {}


# States


def test_every_reason_of_a_difference(tmp_path: Path) -> None:
    stage = tmp_path / "s"
    before = StageInputs({"a": 1, "b": {}, **{f"k{i}": i for i in range(6)}}, {"x": "1", "y": "1"})
    finish(stage, before, one="1")
    after = StageInputs({"a": 1, "b": {}, "k0": 0}, {"y": "1", "z": "1"})
    assert stage_state(stage, after).reasons == (
        "k1: 1 -> (absent)",
        "k2: 2 -> (absent)",
        "k3: 3 -> (absent)",
        "k4: 4 -> (absent)",
        "and 3 more",
    )
    files = StageInputs(before.parameters, {"y": "1", "z": "1"})
    assert stage_state(stage, files).reasons == ("x is no longer an input", "z is a new input")


def test_records_that_name_something_else(tmp_path: Path) -> None:
    stage = tmp_path / "s"
    finish(stage, a="1")
    record = read_json(stage / "run.json")
    for outputs in (None, [], {"images/a": 1}):
        write_json(stage / "run.json", record | {"outputs": outputs})
        assert stage_state(stage, INPUTS).reasons == ("run.json is broken",)
    write_json(stage / "run.json", record | {"outputs": {"../a": "1"}})
    assert stage_state(stage, INPUTS).reasons == ("../a is gone",)
    write_json(stage / "run.json", record | {"output_seconds": 7})
    assert stage_state(stage, INPUTS).reasons == ("run.json is broken",)


def test_a_record_that_cannot_be_closed_does_not_hide_the_error(tmp_path: Path) -> None:
    with (
        no_file_longer_than(10**9),
        pytest.raises(RuntimeError, match="boom"),
        stage_run(tmp_path / "s", INPUTS, RECIPE),
    ):
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
        raise RuntimeError("boom")
    assert read_json(tmp_path / "s" / "run.json")["status"] == "running"


def test_a_link_to_a_folder_stops_the_stage(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "s").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is a link to a folder"):
        finish(tmp_path / "s", a="1")
    assert names(tmp_path / "elsewhere") == []


def test_the_process_is_killed_at_the_step_that_is_asked_for(tmp_path: Path) -> None:
    script = "\n".join(
        (
            "import sys",
            "from higfa_cli.artifacts.atomic import *",
            "from tests.support.steps import stop_before",
            "stop_before(int(sys.argv[2]))",
            "write_text(Path(sys.argv[1]), 'x')",
        )
    )
    # The folder, the temporary file, its sync, the rename, the folder's sync.
    for step, left in (("1", 0), ("2", 0), ("3", 1), ("4", 1), ("5", 1), ("99", 1)):
        folder = tmp_path / step
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", script, str(folder / "a"), step],
            cwd=ROOT,
        )
        assert done.returncode == (0 if step == "99" else -signal.SIGKILL)
        assert len(list(folder.iterdir())) == left
        assert (folder / "a").exists() == (step in ("5", "99"))
