"""Two drawn arms and a folder of the user's through every stage, as a user runs them."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from higfa_cli.artifacts.atomic import read_jsonl
from higfa_cli.recipe.arms import default_arms
from higfa_cli.recipe.strict_yaml import dump_yaml, parse_yaml
from tests.support import tiny
from tests.support.fault_project import tree
from tests.support.photo_project import CLASSES, draw_photo, higfa, write_photos
from tests.support.recipes import write_recipe

DRAWN = ("text+contour", "higfa")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default arms, with tiny models and three classes of two photos."""
    root = tmp_path_factory.mktemp("arms")
    write_photos(root / "photos", 2, 2, 3)
    training = {"epochs": 1, "batch_size": 8}
    return write_recipe(
        root / "two.yaml",
        tiny.make_model(root / "model"),
        arms=default_arms(),
        guide=training | {"noised_per_image": 1},
        guidance={"classifier": {"switch": 0.5}},
        sampling={"steps": 2},
        pictures={"gallery": 1},
        run={"batch_size": 3},
        downstream=training | {"seeds": [0]},
    )


@pytest.fixture(scope="module")
def workspace(recipe: Path) -> Path:
    """All stages, with the folder `found` as one more arm; what the last `run` did, beside it."""
    out, found = recipe.parent / "out", recipe.parent / "found"
    for kind in CLASSES:
        (found / kind).mkdir(parents=True)
        draw_photo(kind, np.random.default_rng(9)).save(found / kind / "0.png")
    flags = (str(recipe), "--workspace", str(out), "--quiet")
    higfa("run", *flags, "--until", "filter")
    higfa("train-downstream", *flags, "--synthetic", str(found))
    last = higfa("run", *flags, "--json").stdout
    (recipe.parent / "last.json").write_text(last, encoding="utf-8")
    return out


def pictures(workspace: Path, arm: str) -> list[dict[str, Any]]:
    return read_jsonl(workspace / "synthesize" / arm / "images" / "metadata.jsonl")


def with_arms(recipe: Path, **arms: dict[str, Any]) -> str:
    """A recipe that differs in some keys of some arms."""
    keys = parse_yaml(recipe.read_text(encoding="utf-8"), recipe.name)
    changed = {name: own | arms.get(name, {}) for name, own in keys["arms"].items()}
    path = recipe.with_name("changed.yaml")
    path.write_text(dump_yaml(keys | {"arms": changed}), encoding="utf-8")
    return str(path)


def test_both_arms_are_drawn_and_filtered_and_all_are_trained(workspace: Path) -> None:
    for stage in ("synthesize", "filter"):
        for arm in DRAWN:
            record = json.loads((workspace / stage / arm / "run.json").read_text())
            assert record["status"] == "done"
        assert len(pictures(workspace, arm)) == 6
    results = json.loads((workspace / "train-downstream/results.json").read_text())
    trained = {arm["name"]: arm for arm in results["arms"]}
    assert list(trained) == ["real", "real+text+contour", "real+higfa", "real+found"]
    assert trained["real+found"]["synthetic"] == str(workspace.parent / "found")
    kept = {
        arm: sum(row["kept"] for row in read_jsonl(workspace / f"filter/{arm}/selection.jsonl"))
        for arm in DRAWN
    }
    assert {name: arm["synthetic_images"] for name, arm in trained.items()} == {
        "real": 0,
        **{f"real+{arm}": count for arm, count in kept.items()},
        "real+found": 3,
    }
    steps = {run["steps"] for arm in trained.values() for run in arm["runs"]}
    assert len(steps) == 1


def test_the_arms_have_the_same_contours_and_seeds_and_differ_by_the_guide(
    workspace: Path,
) -> None:
    plain, guided = (pictures(workspace, arm) for arm in DRAWN)
    same = (
        "id",
        "class",
        "source",
        "contour",
        "transform",
        "replica",
        "seed",
        "prompt",
        "negative",
    )
    assert [[row[key] for key in same] for row in plain] == [
        [row[key] for key in same] for row in guided
    ]
    assert {row["confidence"] for row in plain} == {None}
    assert all(row["confidence"] > 0 for row in guided)
    assert all(a["sha256"] != b["sha256"] for a, b in zip(plain, guided, strict=True))


def test_the_report_has_all_arms_and_the_control(workspace: Path) -> None:
    last = json.loads((workspace.parent / "last.json").read_text())
    assert [row["action"] for row in last["stages"]] == ["skipped"] * 5 + ["ran"]
    rows = csv.DictReader((workspace / "report/results.csv").open(encoding="utf-8"))
    assert [row["arm"] for row in rows] == ["real", "real+text+contour", "real+higfa", "real+found"]
    page = (workspace / "report/report.html").read_text(encoding="utf-8")
    assert "real+found" in page
    # Three photos a class teach nothing, and between guesses lies no difference.
    assert "No arm is better than chance" in page


@pytest.mark.parametrize("arm", DRAWN)
def test_a_key_of_one_arm_makes_that_arm_alone_stale(
    recipe: Path, workspace: Path, arm: str
) -> None:
    changed = with_arms(recipe, **{arm: {"guidance.text.scale": 5.0}})
    status = higfa("status", changed, "--workspace", str(workspace), "--json").stdout
    rows = {row["stage"]: row for row in json.loads(status)["stages"]}
    expected = {name: "stale" if name == arm else "fresh" for name in DRAWN}
    assert rows["synthesize"]["arms"] == expected | {"gallery": "fresh"}
    assert rows["filter"]["arms"] == expected
    assert rows["finetune-guide"]["state"] == "fresh"
    assert f"{arm}: guidance.text.scale: 4.0 -> 5.0" in rows["synthesize"]["reasons"]


def test_only_the_changed_arm_is_drawn_again(recipe: Path, workspace: Path, tmp_path: Path) -> None:
    copy = tmp_path / "out"
    shutil.copytree(workspace, copy)
    before = tree(copy / "synthesize")
    changed = with_arms(recipe, higfa={"guidance.text.scale": 5.0})
    flags = (changed, "--workspace", str(copy), "--json", "--quiet")
    summary = json.loads(higfa("synthesize", *flags).stdout)["summary"]
    assert {name: counts["drawn_now"] for name, counts in summary.items()} == {"higfa": 6}
    after = tree(copy / "synthesize")
    earlier = {name: after.pop(name) for name in list(after) if name.startswith(".earlier/")}
    assert earlier
    for name, content in earlier.items():
        assert before["higfa/" + name.split("/", 2)[2]] == content
    differing = {name for name, content in after.items() if before[name] != content}
    assert {name.split("/")[0] for name in differing} == {"higfa"}
