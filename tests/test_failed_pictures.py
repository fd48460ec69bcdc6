"""Pictures that fail: kept as failed, told of by exit code 3, drawn again when asked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from higfa_cli.artifacts.atomic import read_json, read_jsonl
from higfa_cli.artifacts.rows import PlanItem
from higfa_cli.cli.app import app
from higfa_cli.stages import drawing
from tests.support.fault_project import tree
from tests.support.kill_rounds import write_project

Draw = Callable[..., Any]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recipe; beside it `ready` (contours and guide) and `whole` (also pictures)."""
    recipe = write_project(tmp_path_factory.mktemp("failed"))
    ready, whole = recipe.parent / "ready", recipe.parent / "whole"
    run("run", recipe, ready, "--until", "finetune-guide")
    shutil.copytree(ready, whole)
    run("synthesize", recipe, whole)
    return recipe


@pytest.fixture
def out(project: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(project.parent / "ready", tmp_path / "out"))


def run(command: str, recipe: Path, out: Path, *flags: str, code: int = 0) -> Result:
    given = [command, str(recipe), "--workspace", str(out), "--quiet", *flags]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == code, result.output
    return result


def without_room(monkeypatch: pytest.MonkeyPatch, chosen: Callable[[PlanItem], bool]) -> None:
    """The device runs out of memory whenever one of the chosen pictures is among those drawn."""
    real: Draw = drawing.draw_together

    def draw_together(*arguments: Any) -> Any:
        items: Sequence[PlanItem] = arguments[-1]
        if any(chosen(item) for item in items):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return real(*arguments)

    monkeypatch.setattr(drawing, "draw_together", draw_together)


@pytest.mark.fault("numbers", "one picture or one batch fails")
def test_one_batch_fails_and_the_others_do_not_change(
    project: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_room(monkeypatch, lambda item: item.batch == 1)
    result = run("synthesize", project, out, "--json", code=3)
    summary = json.loads(result.stdout)["summary"]["higfa"]
    assert (summary["images"], summary["failed"]) == (4, 2)
    assert summary["failures"] == {"out of memory": 2}
    assert read_json(out / "synthesize" / "higfa" / "run.json")["status"] == "done"
    failed = read_jsonl(out / "synthesize" / "higfa" / "failed.jsonl")
    assert [row["batch"] for row in failed] == [1, 1]
    pictures = {name: digest for name, digest in tree(out).items() if name.endswith(".png")}
    whole = tree(project.parent / "whole")
    drawn = {name: digest for name, digest in pictures.items() if "/images/" in name}
    assert all(whole[name] == digest for name, digest in drawn.items())
    # It is done: nothing is drawn again, and nothing is wrong.
    again = json.loads(run("synthesize", project, out, "--json").stdout)
    assert again["action"] == "skipped"
    # Once there is room, only the failed batch is drawn again, and all is as if it had been so.
    monkeypatch.undo()
    retried = json.loads(run("synthesize", project, out, "--json", "--retry-failed").stdout)
    counts = retried["summary"]["higfa"]
    assert (counts["drawn_now"], counts["failed"]) == (2, 0)
    assert tree(out) == whole


@pytest.mark.fault("numbers", "one picture or one batch fails")
def test_a_failed_picture_of_an_interrupted_run_stays_failed(
    project: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_room(monkeypatch, lambda item: item.batch == 0)
    run("synthesize", project, out, code=3)
    failed = tree(out)
    monkeypatch.undo()
    (out / "synthesize" / "higfa" / "images" / "metadata.jsonl").unlink()
    result = run("synthesize", project, out, "--json", code=3)
    assert json.loads(result.stdout)["summary"]["higfa"]["drawn_now"] == 0
    assert tree(out) == failed


@pytest.mark.fault(
    "numbers",
    "one picture or one batch fails",
    "exit 3, the others are unchanged; it stays failed when the run resumes",
)
def test_one_picture_of_a_batch_fails(
    project: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = read_jsonl(project.parent / "whole" / "synthesize" / "higfa" / "plan.jsonl")[0]["id"]
    without_room(monkeypatch, lambda item: item.id == first)
    result = run("synthesize", project, out, "--json", code=3)
    summary = json.loads(result.stdout)["summary"]["higfa"]
    assert (summary["images"], summary["failed"], summary["smallest_batch"]) == (5, 1, 1)


def test_all_pictures_fail(project: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_room(monkeypatch, lambda item: True)
    result = run("synthesize", project, out, "--json", code=3)
    assert json.loads(result.stdout)["summary"]["higfa"]["images"] == 0
    assert len(read_jsonl(out / "synthesize" / "higfa" / "failed.jsonl")) == 6
    assert not list((out / "synthesize" / "higfa").rglob("*.png"))
    for command in ("filter", "run"):
        said = run(command, project, out, code=1).stderr.strip()
        assert said.startswith("error: ") and "lists no picture: all failed to draw" in said
        assert "--retry-failed" in said
    said = run("train-downstream", project, out, code=1).stderr
    assert "error: " in said and len(said.strip().splitlines()) == 1


def test_what_is_not_finite_fails_alike(project: Path, out: Path) -> None:
    """The classifier's push overflows: every picture fails, none is written."""
    huge = ("--set", "guidance.classifier.scale=3e38", "--set", "guidance.classifier.gamma=0")
    norm = ("--set", "guidance.classifier.grad_norm=rms")
    result = run("synthesize", project, out, "--json", *huge, *norm, code=3)
    summary = json.loads(result.stdout)["summary"]["higfa"]
    assert summary["failures"] == {"not finite": 6}
    assert summary["images"] == 0


def test_run_ends_with_3_and_the_report(
    project: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_room(monkeypatch, lambda item: item.batch == 1)
    run("run", project, out, code=3)
    assert (out / "report" / "report.html").is_file()
    run("run", project, out)
