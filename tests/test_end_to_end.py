"""All six stages on tiny real components, as a user runs them: commands in, files out."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from typer.testing import CliRunner

from higfa_cli.artifacts.atomic import read_jsonl
from higfa_cli.cli.app import app
from tests.support.photo_project import CLASSES, higfa

STAGES = ("contours", "finetune-guide", "synthesize", "filter", "train-downstream", "report")
FOLDERS = (
    *("contours", "finetune-guide", "synthesize/higfa", "synthesize/gallery", "filter/higfa"),
    *("train-downstream", "report"),
)


def digests(folder: Path) -> dict[str, str]:
    """Contents of a stage's files, records of time and place aside."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "run.json"
    }


def test_every_stage_leaves_its_record(workspace: Path) -> None:
    for stage in FOLDERS:
        record = json.loads((workspace / stage / "run.json").read_text())
        assert record["status"] == "done"
        assert record["outputs"]
        assert (workspace / stage / "recipe.resolved.yaml").is_file()


def test_pictures_load_as_an_image_folder(workspace: Path) -> None:
    folder = ImageFolder(str(workspace / "synthesize" / "higfa" / "images"))
    assert folder.classes == sorted(["disc", "ring", "box%25odd"])
    assert len(folder) == 12
    assert folder[0][0].size == (32, 32)


def test_metadata_has_one_true_row_per_picture(workspace: Path) -> None:
    images = workspace / "synthesize" / "higfa" / "images"
    rows = read_jsonl(images / "metadata.jsonl")
    assert len(rows) == 12
    assert len({row["seed"] for row in rows}) == 12
    for row in rows:
        data = (images / row["file_name"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == row["sha256"]
        assert row["class"] in CLASSES
        assert row["class"] in row["prompt"]
        assert row["source"].startswith("train/")
        assert 0 <= row["confidence"] <= 1
        assert row["file_name"].endswith(f"{row['seed']:016x}.png")


def test_traces_follow_the_recipe(workspace: Path) -> None:
    rows = [
        row
        for path in sorted((workspace / "synthesize" / "higfa" / "traces").glob("*.jsonl"))
        for row in read_jsonl(path)
    ]
    assert len(rows) == 12
    for row in rows:
        assert row["u"] == [0, 0.25, 0.5, 0.75]
        assert row["p"][:2] == [None, None]
        assert row["s_text"][:2] == [4.0, 4.0]
        for p, s_text, s_k in zip(
            row["p"][2:], row["s_text"][2:], row["s_classifier"][2:], strict=True
        ):
            assert s_text == pytest.approx(1 + 3 * p, abs=1e-5)
            assert s_k == pytest.approx(1 - p, abs=1e-5)
        assert row["s_classifier"][:2] == [0, 0]
        assert all(g > 0 for g in row["grad_norm"][2:])


def test_second_run_skips_everything(recipe: Path, workspace: Path) -> None:
    before = {stage: digests(workspace / stage) for stage in STAGES}
    higfa("run", str(recipe), "--workspace", str(workspace), "--quiet")
    assert {stage: digests(workspace / stage) for stage in STAGES} == before
    status = json.loads(
        higfa("status", str(recipe), "--workspace", str(workspace), "--json").stdout
    )
    assert {row["state"] for row in status["stages"]} == {"fresh"}


def test_status_names_the_changed_key(recipe: Path, workspace: Path) -> None:
    change = ("--set", "sampling.steps=5")
    status = json.loads(
        higfa("status", str(recipe), "--workspace", str(workspace), *change, "--json").stdout
    )
    by_stage = {row["stage"]: row for row in status["stages"]}
    assert by_stage["contours"]["state"] == "fresh"
    assert by_stage["synthesize"]["state"] == "stale"
    assert any("sampling.steps: 4 -> 5" in reason for reason in by_stage["synthesize"]["reasons"])
    assert by_stage["report"]["state"] == "stale"


def test_a_lost_picture_is_drawn_again_and_nothing_else(
    recipe: Path, workspace: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(workspace, copy)
    whole = digests(copy / "synthesize" / "higfa")
    lost = next((copy / "synthesize" / "higfa" / "images").rglob("*.png"))
    lost.unlink()
    flags = (str(recipe), "--workspace", str(copy), "--json", "--quiet")
    summary = json.loads(higfa("synthesize", *flags).stdout)["summary"]["higfa"]
    assert summary["drawn_now"] in (2, 5)  # the one batch that it belonged to
    assert digests(copy / "synthesize" / "higfa") == whole


def test_seeds_do_not_depend_on_the_rest_of_the_plan(recipe: Path, workspace: Path) -> None:
    flags = (str(recipe), "--workspace", str(workspace), "--json")
    more = ("--set", "pictures.per_contour=2")
    plan = json.loads(higfa("synthesize", *flags, *more, "--dry-run").stdout)
    assert plan["images"] == 24
    assert plan["denoiser_evaluations"] == 24 * 4 * 3
    assert plan["guide_evaluations"] == 24 * 2
    old = {row["seed"] for row in read_jsonl(workspace / "synthesize" / "higfa" / "plan.jsonl")}
    assert {row["seed"] for row in plan["first"] if row["replica"] == 0} <= old


def test_preview_and_sweep_draw_sheets(recipe: Path, workspace: Path) -> None:
    flags = (str(recipe), "--workspace", str(workspace), "--json", "--quiet")
    sheet = json.loads(higfa("synthesize", *flags, "--preview", "3").stdout)["sheet"]
    assert Image.open(sheet).size == ((1 + 3) * 128, 128 + 14)
    strong = ("--set", "guidance.classifier.grad_norm=rms")
    values = "guidance.classifier.scale=0,0,2"
    result = json.loads(higfa("synthesize", *flags, *strong, "--sweep", values).stdout)
    assert [row["value"] for row in result["rows"]] == [0, 0, 2]
    strip = np.asarray(Image.open(result["sheet"]))
    assert strip.shape == (4 * (128 + 14), 9 * 128, 3)
    off, again, on = (strip[k * 142 : k * 142 + 128, 128:] for k in (1, 2, 3))
    assert (off == again).all()  # the same seeds
    assert (off != on).any()


def test_predict_and_export_give_the_classifier(
    recipe: Path, workspace: Path, tmp_path: Path
) -> None:
    photo = next((recipe.parent / "photos" / "test" / "disc").iterdir())
    flags = ("--workspace", str(workspace))
    answer = json.loads(higfa("predict", str(recipe), str(photo), *flags, "--json").stdout)
    text = json.dumps(answer)
    assert all(json.dumps(name) in text for name in CLASSES)
    higfa(
        "export", str(recipe), *flags, "--format", "safetensors", "--out", str(tmp_path / "model")
    )
    assert list((tmp_path / "model").glob("*.safetensors"))


def test_report_is_self_contained(workspace: Path) -> None:
    html = (workspace / "report" / "report.html").read_text(encoding="utf-8")
    assert "No result" in html
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert html.count("data:image/png") >= 8
    rows = list(csv.DictReader((workspace / "report" / "results.csv").open(encoding="utf-8")))
    assert len(rows) == 2


@pytest.mark.parametrize(
    ("stage", "change", "message"),
    [
        ("contours", "data.root=nowhere", "nowhere does not exist"),
        ("synthesize", "model.base=./gone", "./gone does not exist"),
        ("finetune-guide", "prompts.templates=[a photo]", "has no {words}"),
        ("train-downstream", "downstream.backbone=resnet17", "resnet17"),
    ],
)
def test_bad_input_is_one_line_and_nothing_half_written(
    recipe: Path, workspace: Path, tmp_path: Path, stage: str, change: str, message: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(workspace, copy)
    before = {name: digests(copy / name) for name in STAGES}
    flags = (str(recipe), "--workspace", str(copy), "--quiet")
    result = CliRunner().invoke(app, [stage, *flags, "--set", change])
    assert result.exit_code in (1, 2)
    lines = result.stderr.strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert message in lines[-1]
    assert {name: digests(copy / name) for name in STAGES} == before


def test_guide_of_other_classes_is_refused(recipe: Path, workspace: Path, tmp_path: Path) -> None:
    shutil.copytree(recipe.parent / "photos", tmp_path / "photos")
    for split in ("train", "val", "test"):
        (tmp_path / "photos" / split / "ring").rename(tmp_path / "photos" / split / "wheel")
    copy = tmp_path / "copy"
    shutil.copytree(workspace, copy)
    change = ("--set", f"data.root={tmp_path / 'photos'}", "--workspace", str(copy), "--quiet")
    higfa("contours", str(recipe), *change)
    result = higfa("synthesize", str(recipe), *change, exit_code=1)
    assert "finetune-guide" in result.stderr


def test_same_plan_gives_the_same_bytes(recipe: Path, workspace: Path, tmp_path: Path) -> None:
    torch.manual_seed(123)  # the global state must not matter
    copy = tmp_path / "copy"
    shutil.copytree(workspace, copy)
    whole = digests(copy / "synthesize" / "higfa")
    flags = (str(recipe), "--workspace", str(copy), "--force", "--quiet")
    higfa("synthesize", *flags)
    assert digests(copy / "synthesize" / "higfa") == whole
