"""Artifacts where things go wrong, inside one process: errors by name, rows, plans."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path

import pytest

from higfa_cli.artifacts.artifact import read_rows
from higfa_cli.artifacts.atomic import (
    append_line,
    check_writable,
    read_json,
    read_jsonl,
    remove_temporary_files,
    write_bytes,
    write_text,
)
from higfa_cli.artifacts.class_folders import class_dir, class_dirs, class_name
from higfa_cli.artifacts.plan import batches, in_batches, make_plan
from higfa_cli.artifacts.rows import ContourRow
from higfa_cli.artifacts.safe_paths import contained
from higfa_cli.artifacts.stage_run import JournalRow
from higfa_cli.artifacts.stage_state import StageInputs
from higfa_cli.errors import UserError, remedy_for
from higfa_cli.text import inert
from tests.support.fault_project import no_file_longer_than
from tests.support.shapes import contour_row
from tests.support.stage_folder import names

# Writing


def test_no_room_names_the_file_and_its_size(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")
    with no_file_longer_than(10), pytest.raises(OSError) as caught:
        write_bytes(tmp_path / "a", bytes(12345))
    with no_file_longer_than(10), pytest.raises(OSError) as appended:
        append_line(tmp_path / "a", "x" * 20)
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == str(tmp_path / "a")
    assert caught.value.strerror == "File too large (12,345 bytes to write)"
    assert appended.value.filename == str(tmp_path / "a")
    assert "free some space" in str(remedy_for(caught.value))
    assert names(tmp_path) == ["a"]


def test_folders_that_cannot_be_written_name_themselves(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as caught:
        check_writable(tmp_path / "file")
    assert caught.value.filename == str(tmp_path / "file")
    with pytest.raises(FileExistsError) as caught_too:
        write_text(tmp_path / "file" / "below", "x")
    assert caught_too.value.filename == str(tmp_path / "file")
    with pytest.raises(FileNotFoundError) as gone:
        append_line(tmp_path / "none" / "x", "x")
    assert gone.value.filename == str(tmp_path / "none" / "x")
    check_writable(tmp_path)
    assert names(tmp_path) == ["file"]


def test_what_is_no_ordinary_file_is_neither_replaced_nor_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(FileExistsError, match="no ordinary file"):
            write_text(tmp_path / name, "x")
        with pytest.raises(UserError, match="no ordinary file"):
            read_json(tmp_path / name)
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / ".higfa-tmp-folder").mkdir()
    (tmp_path / ".higfa-tmp-file").touch()
    remove_temporary_files(tmp_path)
    assert (tmp_path / ".higfa-tmp-folder").is_dir() and names(tmp_path) == []


def test_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path / "a", "x")
    assert names(tmp_path) == []


def test_folders_that_cannot_be_synced_are_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def refusing(path: Path, flags: int, *more: int) -> int:
        if flags == os.O_RDONLY:
            raise PermissionError(errno.EACCES, "no")
        return real(path, flags, *more)

    monkeypatch.setattr(os, "open", refusing)
    write_text(tmp_path / "a", "x")
    assert (tmp_path / "a").read_text() == "x"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b"\xff", "not UTF-8"),
        (b"[" * 100_000, "run the command that wrote it again"),
        (b'{"a": ' + b"9" * 5000 + b"}", "run the command that wrote it again"),
    ],
)
def test_files_that_json_cannot_read(tmp_path: Path, text: bytes, match: str) -> None:
    (tmp_path / "a").write_bytes(text)
    for read in (read_json, read_jsonl):
        with pytest.raises(UserError, match=match):
            read(tmp_path / "a")


def test_a_file_that_is_forbidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    (tmp_path / "a").touch()
    monkeypatch.setattr(Path, "read_text", forbidden)
    with pytest.raises(UserError, match="a cannot be read: Permission denied"):
        read_json(tmp_path / "a")


def test_remedies() -> None:
    assert "free some space" in str(remedy_for(OSError(errno.ENOSPC, "x")))
    assert "permissions" in str(remedy_for(OSError(errno.EROFS, "x")))
    assert "move away" in str(remedy_for(OSError(errno.ENOTDIR, "x")))
    assert remedy_for(OSError(errno.EIO, "x")) is None


# Names and rows


def test_names_that_are_shared_or_odd() -> None:
    both = class_dirs(["Bae", "BAE", "x"])
    assert both["x"] == "x" and len({folder.lower() for folder in both.values()}) == 3
    assert all(class_name(folder) == name for name, folder in both.items())
    assert inert("a\x1b[1m\nb\u202e") == "a\\x1b[1m\\x0ab\\u202e"


def test_rows_and_paths_of_others(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"file_name": "a", "sha256": "0"}\n')
    assert len(read_rows(tmp_path / "a.jsonl", JournalRow)) == 1
    (tmp_path / "a.jsonl").write_text('{"file_name": "a", "sha256": "0"}\n{"file_name": true}\n')
    with pytest.raises(UserError, match="row 2: `file_name`: input should be text"):
        read_rows(tmp_path / "a.jsonl", JournalRow)
    assert contained(tmp_path, "a.jsonl", "x") == tmp_path / "a.jsonl"
    for name in (
        3,
        "",
        "a\0",
        "../a",
        "/a",
        "C:\\a",
        "C:a",
        "\\a",
        "a/../b",
        "x" * 300,
        "a/" * 2000,
    ):
        with pytest.raises(UserError, match="origin names a file in"):
            contained(tmp_path, name, "origin")
    (tmp_path / "link").symlink_to("/")
    with pytest.raises(UserError, match="through a link"):
        contained(tmp_path, "link/x", "origin")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match="names a file in"):
        contained(tmp_path, "loop/x", "origin")


@pytest.mark.fault(
    "words", "a validator's own words about a row or a recipe", "put into words of people"
)
@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("class", ..., "`class`: is missing"),
        ("class_id", "0", "`class_id`: input should be a whole number"),
        ("class_id", -1, "`class_id`: input should be greater than or equal to 0"),
        ("transform", 3, "`transform`: input should be a section with keys of its own"),
        ("transform", {"flip": 1}, "`transform.flip`: input should be true or false"),
        ("edge_fraction", "much", "`edge_fraction`: input should be a number"),
        ("split", "dev", "`split`: input should be 'train', 'val' or 'test'"),
        ("more", 1, "`more`: is not known"),
    ],
)
def test_a_row_is_refused_in_plain_words(
    tmp_path: Path, key: str, value: object, words: str
) -> None:
    row = contour_row().plain() | {key: value}
    (tmp_path / "rows.jsonl").write_text(json.dumps({k: v for k, v in row.items() if v != ...}))
    with pytest.raises(UserError) as caught:
        read_rows(tmp_path / "rows.jsonl", ContourRow)
    assert f"row 1: {words}" in str(caught.value)
    assert not re.search(r"Input|Field|dictionary|instance|Record|Value error", str(caught.value))


# Plans


def test_plan_by_hand() -> None:
    contours = [
        contour_row(cls="b", class_id=1, source="s", index=0),
        contour_row(cls="a/c", class_id=0, source="t", index=1),
    ]
    plan = make_plan(contours, {"a/c": ["p", "q"], "b": ["r"]}, "n", {"a/c": 2, "b": 2}, seed=5)
    assert [(item.cls, item.replica, item.batch) for item in plan] == [
        ("a/c", 2, 0),
        ("a/c", 3, 0),
        ("b", 0, 0),
        ("b", 1, 0),
    ]
    assert {item.prompt for item in plan[:2]} <= {"p", "q"} and plan[2].prompt == "r"
    assert plan[0].id == f"{plan[0].seed:016x}" and len({item.seed for item in plan}) == 4
    assert plan[0].file_name.endswith(f"/{plan[0].id}.png") and "a/c" not in plan[0].file_name
    assert plan[2].plain()["class"] == "b" and "cls" not in plan[2].plain()
    assert [len(group) for group in batches(in_batches(plan, 3))] == [3, 1]


def test_names_that_a_command_line_would_misread_are_encoded() -> None:
    """`rm -rf`, `cd ~root`: a folder name must not look like a flag or a home folder."""
    assert class_dir("-rf") == "%2Drf" and class_name("%2Drf") == "-rf"
    assert class_dir("~root") == "%7Eroot" and class_name("%7Eroot") == "~root"
    assert class_dir("a-b~c") == "a-b~c"


def test_ordinary_names_stay_as_they_are() -> None:
    assert class_dirs(["BAE 146-200", "DC-10", "747"]) == {
        name: name for name in ("BAE 146-200", "DC-10", "747")
    }
    assert class_dirs(["Ab", "aB", "C"]) == {"Ab": "%41b", "aB": "a%42", "C": "C"}


def test_key_and_prompts_depend_on_everything() -> None:
    """Other files are other inputs; every prompt of a class is drawn by some picture."""
    keys = {StageInputs({"a": 1}, {"f": "x"}).key, StageInputs({"a": 1}, {"f": "y"}).key}
    assert len(keys | {StageInputs({"a": 2}, {"f": "x"}).key}) == 3
    rows = [contour_row(cls="A", source=f"{i}.png") for i in range(20)]
    assert {item.prompt for item in make_plan(rows, {"A": ["p", "q"]}, "", {"A": 20}, 0)} == {
        "p",
        "q",
    }
