"""Typed artifacts: what is read is what was written, and nothing else is taken for it."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from higfa_cli.artifacts.artifact import read_model, read_rows, write_model, write_rows
from higfa_cli.artifacts.records import RunRecord
from higfa_cli.artifacts.results import Calibration, Results
from higfa_cli.artifacts.rows import ContourRow, PlanFile, RejectedRow, SelectionRow, TraceRow
from higfa_cli.artifacts.stage_run import JournalRow
from higfa_cli.artifacts.workspace import Workspace
from higfa_cli.errors import UserError

SELECTED: dict[str, Any] = {
    "file_name": "a/1.png",
    "id": "1",
    "class": "a",
    "source": "train/a/0.jpg",
    "replica": 0,
    "kept": False,
    "reasons": ["top_k", "duplicate"],
    "confidence": None,
    "rank": 3,
    "duplicate": 0.25,
    "std": 51.5,
}
TRANSFORM: dict[str, Any] = {
    "flip": False,
    "rotation": 3.5,
    "scale": 1.0,
    "dx": 0.0,
    "dy": 0.0,
    "corners": [[0.0, 0.0]] * 4,
    "stretch": 1.0,
    "elastic": [[0.5, 0.25]] * 16,
}
CONTOUR: dict[str, Any] = {
    "file_name": "images/a/0-0.png",
    "class": "a",
    "class_id": 0,
    "source": "train/a/0.jpg",
    "source_sha256": "00",
    "split": "train",
    "index": 0,
    "transform": TRANSFORM,
    "edge_fraction": 0.1,
    "sha256": "11",
}


def dump(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(("model", "row"), [(SelectionRow, SELECTED), (ContourRow, CONTOUR)])
def test_a_row_is_written_as_it_was_read(tmp_path: Path, model: Any, row: dict[str, Any]) -> None:
    path = dump(tmp_path / "rows.jsonl", row, row)
    rows = read_rows(path, model)
    write_rows(tmp_path / "again.jsonl", rows)
    assert (tmp_path / "again.jsonl").read_bytes() == path.read_bytes()
    assert rows[0] == rows[1] and rows[0].cls == "a"


def test_a_key_with_a_default_is_left_out(tmp_path: Path) -> None:
    row = {"id": "1", "error": "out of memory", "effective_batch": 1}
    path = dump(tmp_path / "traces.jsonl", row)
    (trace,) = read_rows(path, TraceRow)
    assert trace.u == trace.p == ()
    assert trace.plain() == row
    write_model(tmp_path / "row.json", JournalRow(file_name="a", sha256="0"))
    written = json.loads((tmp_path / "row.json").read_text())
    assert written == {"file_name": "a", "sha256": "0"}


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"replica": True}, "replica"),
        ({"replica": 1.0}, "replica"),
        ({"replica": "1"}, "replica"),
        ({"replica": -1}, "replica"),
        ({"kept": 1}, "kept"),
        ({"kept": "yes"}, "kept"),
        ({"std": float("nan")}, "std"),
        ({"std": float("inf")}, "std"),
        ({"std": "51"}, "std"),
        ({"id": 7}, "id"),
        ({"id": None}, "id"),
        ({"reasons": ["ugly"]}, "reasons.0"),
        ({"reasons": "top_k"}, "reasons"),
        ({"class": ...}, "class"),
        ({"more": 1}, "more"),
        ({"\x1b[31m\nm": 1}, "\\x1b[31m\\x0am"),
        ({"x" * 5000: 1}, "x" * 80),
    ],
)
def test_another_row_is_refused_in_one_line(
    tmp_path: Path, changes: dict[str, Any], key: str
) -> None:
    bad = {name: value for name, value in (SELECTED | changes).items() if value is not ...}
    path = dump(tmp_path / "selection.jsonl", SELECTED, bad)
    with pytest.raises(UserError) as caught:
        read_rows(path, SelectionRow)
    message = str(caught.value)
    assert message.startswith(f"{path}, row 2: `{key}`: ")
    assert message.endswith("; run `higfa filter --force`")
    assert message.isprintable() and len(message) < 400


@pytest.mark.parametrize(
    "changes",
    [{"scale": "big"}, {"dx": float("nan")}, {"corners": [[0, 0]]}, {"extra": 1}, {"flip": 0}],
)
def test_broken_transforms_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = dump(tmp_path / "manifest.jsonl", CONTOUR | {"transform": TRANSFORM | changes})
    with pytest.raises(UserError, match=r"row 1: `transform\..*run `higfa contours --force`"):
        read_rows(path, ContourRow)


@pytest.mark.parametrize("model", [RunRecord, Calibration, Results, PlanFile])
@pytest.mark.parametrize("text", ["[]", "7", '"done"', "{", "[" * 100_000, '{"arms": 7}', "NaN"])
def test_another_file_is_refused_in_one_line(tmp_path: Path, model: Any, text: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_model(path, model)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_pipe_does_not_block_and_an_absent_file_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="no ordinary file"):
        read_rows(tmp_path / "pipe", SelectionRow)
    with pytest.raises(UserError, match="does not exist"):
        read_model(tmp_path / "absent", Results)


def test_names_that_are_no_text_survive(tmp_path: Path) -> None:
    """A file's name may be any bytes; half a surrogate pair stands for one."""
    row = {"key": "train/a/\udc80.jpg", "path": "train/a/\\udc80.jpg", "class": "a"}
    row |= {"split": "train", "reason": "odd-name", "detail": "rename it", "state": "00"}
    (read,) = read_rows(dump(tmp_path / "rejected.jsonl", row), RejectedRow)
    assert read.key == row["key"] and str(read) == "train/a/\\udc80.jpg (odd-name)"


def names_of_files() -> set[str]:
    """Of all artifacts, as the workspace spells them."""
    listed = {name for folder in Workspace(Path()).stages.values() for name in folder.writes}
    others = {"failed.jsonl", "fit.json", ".outputs.jsonl"}
    return {PurePosixPath(name).name for name in listed if "<" not in name} | others


def test_no_other_module_spells_a_path_of_an_artifact() -> None:
    """In messages and docstrings a name may stand; as a path of its own it may not."""
    package = Path(__file__).resolve().parent.parent / "higfa_cli"
    names = names_of_files()
    assert {"manifest.jsonl", "guide.safetensors", "results.json", "run.json"} <= names
    # A classifier's file in a hub's cache is no artifact.
    foreign = {"backbones.py", "model_files.py"}
    found = [
        f"{path.relative_to(package)}: {node.value}"
        for path in package.rglob("*.py")
        if path.name not in ("workspace.py", "stage_run.py", *foreign)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if " " not in node.value and PurePosixPath(node.value).name in names
    ]
    assert found == []


def test_what_a_stage_writes_lies_in_its_folder() -> None:
    ws = Workspace(Path("/w"))
    assert list(ws.stages) == [
        "contours",
        "finetune-guide",
        "synthesize",
        "filter",
        "train-downstream",
        "report",
    ]
    assert ws.contours.writes == (
        "run.json",
        "recipe.resolved.yaml",
        "images/<class>/<photo>-<k>.png",
        "manifest.jsonl",
        "rejected.jsonl",
        "sheet.png",
    )
    assert all(len(folder.writes) > 2 for folder in ws.stages.values())
    assert ws.name(ws.arm("higfa").synthesize.metadata) == "synthesize/higfa/images/metadata.jsonl"
    assert ws.downstream.training("real", 0).model == Path(
        "/w/train-downstream/arms/real/seed-0/model.safetensors"
    )
    arm = ws.arm("text").synthesize
    assert arm.name(arm.trace(3)) == "traces/batch-00003.jsonl"
