"""Artifacts: atomic files, names, hashes, seeds, locks, and a stage's record of itself."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from higfa_cli.artifacts.atomic import (
    read_json,
    read_jsonl,
    write_bytes,
    write_json,
    write_jsonl,
    write_text,
)
from higfa_cli.artifacts.class_folders import class_dir, class_name
from higfa_cli.artifacts.fingerprint import hash_bytes, hash_file, hash_json, hash_tree
from higfa_cli.artifacts.records import ReportCounts
from higfa_cli.artifacts.run_record import StageInputs, stage_run
from higfa_cli.artifacts.seeds import seed_for
from higfa_cli.artifacts.stage_state import stage_state
from higfa_cli.errors import UserError
from higfa_cli.recipe.load import load_recipe
from tests.support.stage_folder import INPUTS, RECIPE, finish, names, write_files

# Atomic files


def test_write_and_read_back(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "a.json", {"b": 1, "a": "é"})
    assert (tmp_path / "new" / "a.json").read_text("utf-8") == '{\n "a": "é",\n "b": 1\n}\n'
    rows = [{"x": 1}, {"x": "line\u2028separator\nand newline"}]
    write_jsonl(tmp_path / "a.jsonl", rows)
    assert read_jsonl(tmp_path / "a.jsonl") == rows
    assert read_json(tmp_path / "new" / "a.json") == {"a": "é", "b": 1}


def test_failed_write_leaves_target_and_no_temporary_file(tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    (blocked / "inside").mkdir(parents=True)
    with pytest.raises(OSError):
        write_bytes(blocked, b"new")
    assert names(tmp_path) == []
    write_text(tmp_path / "file", "old")
    with pytest.raises(OSError):
        write_text(tmp_path / "file" / "below", "x")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "file", {"a": float("nan")})
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_broken_files_name_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(UserError, match=r"a\.jsonl, line 2: not valid JSON"):
        read_jsonl(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").write_text("[1]\n")
    with pytest.raises(UserError, match="line 1: expected a JSON object"):
        read_jsonl(tmp_path / "a.jsonl")
    (tmp_path / "a.json").write_text("{\n\n!")
    with pytest.raises(UserError, match=r"a\.json, line 3: not valid JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(UserError, match=r"b\.json does not exist"):
        read_json(tmp_path / "b.json")


# Names


@pytest.mark.parametrize("name", ["737-800", "A320", "BAE 146-200", "MD-11", "Fokker 100", "no"])
def test_ordinary_names_stay(name: str) -> None:
    assert class_dir(name) == name


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("F/A-18", "F%2FA-18"),
        (".hidden", "%2Ehidden"),
        ("..", "%2E%2E"),
        (".", "%2E"),
        ("end.", "end%2E"),
        (" ", "%20"),
        ("50%", "50%25"),
        ("%2F", "%252F"),
        ("a:b*c", "a%3Ab%2Ac"),
        ("con", "%63on"),
        ("NUL.txt", "%4EUL.txt"),
        ("tab\there", "tab%09here"),
        ("é", "%C3%A9"),
    ],
)
def test_nasty_names(name: str, folder: str) -> None:
    assert class_dir(name) == folder
    assert class_name(folder) == name


@given(st.text(min_size=1, max_size=24) | st.text("%./\\ \0\n:CONcon2F", min_size=1, max_size=30))
def test_names_round_trip_and_are_safe(name: str) -> None:
    folder = class_dir(name)
    assert class_name(folder) == name
    assert folder.isascii() and folder.isprintable()
    assert not set(folder) & set('/\\:*?"<>|')
    assert folder[0] not in ". " and folder[-1] not in ". "


def test_names_that_have_no_folder() -> None:
    with pytest.raises(UserError, match="empty name"):
        class_dir("")
    # Too long for a folder: cut, and told apart by a hash.
    assert len(class_dir("x" * 300)) <= 240
    assert class_dir("x" * 300) != class_dir("x" * 301)
    assert class_name("100%wool") == "100%wool"
    assert class_name("%FF") == "%FF"


# Hashes and seeds


def test_hashes(tmp_path: Path) -> None:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert hash_bytes(b"") == empty
    assert hash_json({"b": (1, 2), "a": None}) == hash_bytes(b'{"a":null,"b":[1,2]}')
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").touch()
    assert hash_file(tmp_path / "a" / "x") == hash_tree(tmp_path / "a" / "x") == empty
    before = hash_tree(tmp_path)
    assert before == hash_json([["a/x", empty]])
    (tmp_path / "a" / ".higfa-tmp-1-aa").write_text("half")
    assert hash_tree(tmp_path) == before
    (tmp_path / "a" / "x").rename(tmp_path / "a" / "y")
    assert hash_tree(tmp_path) != before
    with pytest.raises(UserError, match="gone cannot be read"):
        hash_tree(tmp_path / "gone")


def test_seeds_depend_on_parts_only() -> None:
    # The leading 8 bytes of sha256('[0,"a"]'), shifted right by one bit.
    assert seed_for(0, "a") == int(hash_bytes(b'[0,"a"]')[:16], 16) // 2
    assert seed_for(0, "a") != seed_for("a", 0) != seed_for("a0")
    assert seed_for("ab", "c") != seed_for("a", "bc")
    assert all(0 <= seed_for(i) < 2**63 for i in range(50))


# A stage's record


@contextmanager
def failing() -> Iterator[None]:
    with pytest.raises(RuntimeError, match="boom"):
        yield


def test_states_missing_fresh_stale_partial(tmp_path: Path) -> None:
    stage = tmp_path / "synthesize"
    assert stage_state(stage, INPUTS).kind == "missing"
    finish(stage, a="1", b="2")
    assert stage_state(stage, INPUTS).kind == "fresh"

    other = StageInputs({"version": 1, "sampling": {"steps": 20}}, {"data/train": "aa"})
    state = stage_state(stage, other)
    assert (state.kind, state.reasons) == ("stale", ("sampling.steps: 25 -> 20",))
    state = stage_state(stage, StageInputs(INPUTS.parameters, {"data/train": "bb"}))
    assert (state.kind, state.reasons) == ("stale", ("data/train has other content",))

    (stage / "images" / "a").touch()
    assert stage_state(stage, INPUTS).kind == "fresh", "a new time is not a change"
    (stage / "images" / "a").write_text("tampered")
    state = stage_state(stage, INPUTS)
    assert (state.kind, state.reasons) == ("stale", ("images/a was changed",))
    (stage / "images" / "b").unlink()
    state = stage_state(stage, INPUTS)
    assert (state.kind, state.reasons) == ("partial", ("images/b is gone",))


def test_tuples_and_lists_are_the_same_parameters(tmp_path: Path) -> None:
    finish(tmp_path / "s", StageInputs({"scale": (1, 2)}, {}))
    assert stage_state(tmp_path / "s", StageInputs({"scale": [1, 2]}, {})).kind == "fresh"


def test_record_and_resolved_recipe(tmp_path: Path) -> None:
    with stage_run(tmp_path / "s", INPUTS, RECIPE) as run:
        during = read_json(tmp_path / "s" / "run.json")
        run.counts = ReportCounts(arms=1, gallery=0)
        run.device = "cpu"
        write_files(run, {"a": "1"})
    record = read_json(tmp_path / "s" / "run.json")
    assert during["status"] == "running"
    assert record["status"] == "done"
    assert record["outputs"] == {"images/a": hash_bytes(b"1")}
    assert record["counts"] == {"arms": 1, "gallery": 0}
    assert record["device"] == "cpu"
    assert record["inputs"]["key"] == INPUTS.key
    assert record["libraries"]["pydantic"]
    assert record["started"] <= record["ended"]
    assert load_recipe(str(tmp_path / "s" / "recipe.resolved.yaml")).recipe == RECIPE
    assert names(tmp_path / "s") == ["images/a", "recipe.resolved.yaml", "run.json"]


def test_failed_run_is_partial_and_resumable(tmp_path: Path) -> None:
    stage = tmp_path / "s"
    with failing(), stage_run(stage, INPUTS, RECIPE) as run:
        write_files(run, {"a": "1", "b": "2"})
        raise RuntimeError("boom\nmore")
    state = stage_state(stage, INPUTS)
    assert (state.kind, state.reasons) == ("partial", ("failed: RuntimeError: boom more",))
    (stage / "images" / "b").write_text("tampered")
    with stage_run(stage, INPUTS, RECIPE, resume=True) as run:
        assert run.kept == {"images/a": hash_bytes(b"1")}
        assert not (stage / "images" / "b").exists()
        run.output(stage / "images" / "a")
        write_files(run, {"b": "2"})
    assert stage_state(stage, INPUTS).kind == "fresh"


def test_killed_run_is_partial_and_resumable(tmp_path: Path) -> None:
    stage = tmp_path / "s"
    script = f"""
import os
from tests.support.stage_folder import INPUTS, RECIPE, stage_run, write_files
from pathlib import Path
with stage_run(Path({str(stage)!r}), INPUTS, RECIPE) as run:
    write_files(run, {{"a": "1"}})
    (run.directory / "images" / ".higfa-tmp-1-ab").write_text("half")
    os.kill(os.getpid(), 9)
"""
    root = Path(__file__).parent.parent
    assert subprocess.run([sys.executable, "-c", script], cwd=root).returncode == -9
    state = stage_state(stage, INPUTS)
    assert (state.kind, state.reasons) == ("partial", ("not finished: still running, or killed",))
    with stage_run(stage, INPUTS, RECIPE, resume=True) as run:
        assert list(run.kept) == ["images/a"]
        assert not list(stage.rglob(".higfa-tmp-*"))
        run.output(stage / "images" / "a")
    assert stage_state(stage, INPUTS).kind == "fresh"


def test_runs_of_other_inputs_never_mix(tmp_path: Path) -> None:
    stage = tmp_path / "s"
    other = StageInputs({"version": 2}, {})
    finish(stage, a="1", b="2")
    (stage / "notes.txt").write_text("the user's")
    with stage_run(stage, other, RECIPE, resume=True) as run:
        assert run.kept == {}
        assert not (stage / "images").exists()
        assert (stage / "notes.txt").exists()
        write_files(run, {"c": "3"})
    assert stage_state(stage, other).kind == "fresh"
    assert sorted(p.name for p in (stage / "images").iterdir()) == ["c"]


def test_unregistered_files_of_a_failed_run_go_too(tmp_path: Path) -> None:
    stage = tmp_path / "s"
    with failing(), stage_run(stage, INPUTS, RECIPE) as run:
        write_text(run.directory / "images" / "A320" / "orphan.png", "written, never registered")
        raise RuntimeError("boom")
    finish(stage, a="1")
    assert names(stage / "images") == ["a"]


def test_tampered_record_cannot_reach_outside(tmp_path: Path) -> None:
    stage = tmp_path / "s"
    (tmp_path / "precious").write_text("x")
    finish(stage, a="1")
    record = read_json(stage / "run.json")
    record["outputs"] |= {"../precious": "0", str(tmp_path / "precious"): "0"}
    write_json(stage / "run.json", record)
    finish(stage, b="2")
    assert (tmp_path / "precious").read_text() == "x"


@pytest.mark.fault("files", "folder that higfa did not make", "refused")
def test_folder_that_is_not_ours_or_not_writable(tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="higfa did not make it"):
        finish(tmp_path / "report", a="1")
    assert names(tmp_path / "report") == ["thesis.tex"]
    with pytest.raises(UserError, match=r"cannot be written.*--workspace"):
        finish(tmp_path / "report" / "thesis.tex" / "s", a="1")


def test_broken_record(tmp_path: Path) -> None:
    stage = tmp_path / "s"
    finish(stage, a="1")
    for broken in ("{", "[]", '{"status": "done"}'):
        (stage / "run.json").write_text(broken)
        assert stage_state(stage, INPUTS).kind == "partial"
    finish(stage, b="2")
    assert stage_state(stage, INPUTS).kind == "fresh"
    assert names(stage / "images") == ["b"]


def test_output_must_lie_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with (
        pytest.raises(ValueError, match="not in the subpath"),
        stage_run(tmp_path / "s", INPUTS, RECIPE) as run,
    ):
        run.output(tmp_path / "x")


def test_busy_folder_names_the_holder(tmp_path: Path) -> None:
    stage = tmp_path / "s"
    script = f"""
import sys
from pathlib import Path
from higfa_cli.artifacts.lock import folder_lock
with folder_lock(Path({str(stage)!r})):
    print("held", flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", script]
    root = Path(__file__).parent.parent
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root
    ) as holder:
        assert holder.stdout and holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=f"in use by process {holder.pid} on ") as caught:
            finish(stage, a="1")
        assert caught.value.exit_code == 75
        assert names(stage) == []
        holder.communicate()
    finish(stage, a="1")
    assert stage_state(stage, INPUTS).kind == "fresh"
    assert not (tmp_path / ".s.lock.json").exists()


def test_journal_with_a_cut_last_line(tmp_path: Path) -> None:
    stage = tmp_path / "s"
    with failing(), stage_run(stage, INPUTS, RECIPE) as run:
        write_files(run, {"a": "1"})
        raise RuntimeError("boom")
    with (stage / ".outputs.jsonl").open("a") as journal:
        journal.write(json.dumps({"file_name": "images/b"})[:-4])
    with stage_run(stage, INPUTS, RECIPE, resume=True) as run:
        assert list(run.kept) == ["images/a"]
