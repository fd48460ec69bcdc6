"""Runs that go on without the bad photos, and how many may be bad."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from higfa_cli.artifacts.atomic import read_json, read_jsonl
from higfa_cli.cli.app import app
from higfa_cli.data.dataset import load_dataset
from higfa_cli.data.rejected import allowed, file_state, read_rejected
from higfa_cli.recipe.data import Data
from higfa_cli.recipe.load import load_recipe
from higfa_cli.stages import drawing, filter, finetune_guide, train_downstream
from higfa_cli.stages.context import load_photos, make_context
from higfa_cli.stages.inputs import downstream_inputs
from tests.support.image_bytes import encoded, scene
from tests.support.photo_folders import photo, project


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Two classes of good photos with val and test, and three bad ones among them."""
    root = tmp_path / "photos"
    counts = {"train": 5, "val": 2, "test": 2}
    for number, (split, count) in enumerate(counts.items()):
        for index in range(count):
            for cls in ("a", "b"):
                photo(root / split / cls / f"{index}.png", 10 * number + index + ord(cls))
    whole = encoded(scene(), "JPEG")
    (root / "train/a/cut.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "val/b/page.jpg").write_text("<html>")
    (root / "test/a/dangling.jpg").symlink_to("nowhere")
    return project(tmp_path, root, max_bad=3)


BAD = {
    "train/a/cut.jpg": "truncated",
    "val/b/page.jpg": "not-an-image",
    "test/a/dangling.jpg": "missing",
}


def higfa(*arguments: str, exit_code: int = 0) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == exit_code, result.output
    return result


def train(recipe: Path, exit_code: int = 0) -> Result:
    return higfa("train-downstream", str(recipe), "--arm", "real", exit_code=exit_code)


def error_of(result: Result) -> str:
    """The one line that says what is wrong."""
    lines = result.stderr.strip().splitlines()
    assert sum(line.startswith("error: ") for line in lines) == 1
    assert lines[-1].startswith("error: ")
    return lines[-1]


def listed(recipe: Path) -> dict[str, str]:
    rows = read_jsonl(recipe.parent / "out/contours/rejected.jsonl")
    return {row["key"]: row["reason"] for row in rows}


def states(recipe: Path) -> dict[str, str]:
    rows = json.loads(higfa("status", str(recipe), "--json").stdout)["stages"]
    return {row["stage"]: row["state"] for row in rows}


def test_a_run_goes_on_without_the_bad_photos(recipe: Path) -> None:
    result = higfa("contours", str(recipe))
    warning = result.stderr.strip().splitlines()[-1]
    assert warning.startswith("warning: 3 of 21 photos were left out")
    assert all(key in warning for key in BAD) and "rejected.jsonl" in warning
    assert listed(recipe) == BAD
    train(recipe)
    out = recipe.parent / "out/train-downstream"
    counts = read_json(out / "results.json")["counts"]
    assert counts == {"train": 10, "val": 4, "test": 4}
    text = next(out.rglob("predictions.csv")).read_text(encoding="utf-8")
    assert text.count("\n") == 5 and "dangling" not in text
    assert states(recipe)["contours"] == "fresh"
    fresh = json.loads(
        higfa("train-downstream", str(recipe), "--arm", "real", "--json", "--quiet").stdout
    )
    assert fresh["action"] == "skipped"


def test_one_more_bad_photo_trains_nothing_anew_but_a_mended_one_does(recipe: Path) -> None:
    flags = ("train-downstream", str(recipe), "--arm", "real", "--json", "--quiet")
    higfa("contours", str(recipe))
    train(recipe)
    (recipe.parent / "photos/train/b/pipe.jpg").write_bytes(b"")
    assert states(recipe)["contours"] == "stale"
    higfa("contours", str(recipe), "--max-bad", "4")
    assert len(listed(recipe)) == 4
    more = ("--set", "data.max_bad=4")
    assert json.loads(higfa(*flags, *more).stdout)["action"] == "skipped"
    photo(recipe.parent / "photos/train/a/cut.jpg", 99)
    assert states(recipe)["contours"] == "stale"
    # The list still names it, but it is another file now, and is read.
    assert json.loads(higfa(*flags, *more).stdout)["summary"]["counts"]["train"] == 11
    higfa("contours", str(recipe))
    assert "train/a/cut.jpg" not in listed(recipe)
    assert json.loads(higfa(*flags).stdout)["action"] == "skipped"


def test_without_contours_a_bad_photo_is_one_line(recipe: Path) -> None:
    message = error_of(train(recipe, exit_code=1))
    assert "dangling.jpg" in message and "missing" in message and "`higfa contours`" in message
    assert not (recipe.parent / "out/train-downstream").exists()


@pytest.mark.fault("images", "a file that turns bad between stages", "one line")
@pytest.mark.parametrize("where", ["train", "test"])
@pytest.mark.parametrize("how", ["cut", "empty", "pipe", "gone-link"])
def test_a_file_that_turns_bad_between_stages(recipe: Path, where: str, how: str) -> None:
    """Named before anything is trained, without a crash or a hang; then `contours` mends it."""
    higfa("contours", str(recipe))
    path = recipe.parent / f"photos/{where}/b/0.png"
    data = path.read_bytes()
    path.unlink()
    match how:
        case "cut":
            path.write_bytes(data[: len(data) // 2])
        case "empty":
            path.write_bytes(b"")
        case "pipe":
            os.mkfifo(path)
        case "gone-link":
            path.symlink_to("nowhere")
    message = error_of(train(recipe, exit_code=1))
    assert f"{where}/b/0.png" in message and "`higfa contours`" in message
    assert not list((recipe.parent / "out").rglob("model.safetensors"))
    assert states(recipe)["contours"] == "stale"
    more = ("--set", "data.max_bad=20%")
    higfa("contours", str(recipe), *more)
    assert f"{where}/b/0.png" in listed(recipe)
    higfa("train-downstream", str(recipe), "--arm", "real", *more)
    counts = read_json(recipe.parent / "out/train-downstream/results.json")["counts"]
    assert counts == {"train": 10, "val": 4, "test": 4} | {where: 9 if where == "train" else 3}


def test_a_bad_picture_of_another_arm_is_named_before_anything_is_trained(recipe: Path) -> None:
    higfa("contours", str(recipe))
    other = recipe.parent / "other"
    photo(other / "a/0.png", 0)
    (other / "b").mkdir()
    (other / "b/0.png").write_bytes(b"")
    result = higfa("train-downstream", str(recipe), "--synthetic", str(other), exit_code=1)
    assert "other/b/0.png: empty" in error_of(result)
    assert not (recipe.parent / "out/train-downstream").exists()


@pytest.mark.fault("images", "some photos are bad", "left out by every stage alike")
def test_every_stage_leaves_out_the_same_photos(recipe: Path) -> None:
    higfa("contours", str(recipe))
    ctx = make_context(load_recipe(str(recipe)))
    want = load_photos(ctx)
    assert len(want.samples) == 18 and not BAD.keys() & {one.key for one in want.samples}
    for stage in (drawing, finetune_guide, filter, train_downstream):
        assert stage.load_photos is load_photos
    assert want == drawing.load_photos(ctx) == finetune_guide.load_photos(ctx)
    files = downstream_inputs(ctx, arms=["real"]).files
    assert files["data/train"] == want.fingerprint("train")
    everything = load_dataset(ctx.recipe.data, ctx.base, 0)
    assert everything.fingerprint("train") != want.fingerprint("train")


@pytest.mark.fault("images", "`--strict`, `--max-bad`", "list and fail")
def test_strict_lists_what_is_bad_and_fails(recipe: Path) -> None:
    for _ in range(2):  # the second time from the list
        message = error_of(higfa("contours", str(recipe), "--strict", exit_code=1))
        assert all(f"{key} ({reason})" in message for key, reason in BAD.items())
    assert listed(recipe) == BAD
    assert not (recipe.parent / "out/contours/manifest.jsonl").exists()
    assert states(recipe)["contours"] == "partial"
    higfa("contours", str(recipe))
    before = (recipe.parent / "out/contours/manifest.jsonl").read_bytes()
    # What a lenient run has made is not undone by asking strictly.
    error_of(higfa("contours", str(recipe), "--strict", exit_code=1))
    assert (recipe.parent / "out/contours/manifest.jsonl").read_bytes() == before
    assert states(recipe)["contours"] == "fresh"
    for key in BAD:
        (recipe.parent / "photos" / key).unlink()
    higfa("contours", str(recipe), "--strict")
    assert listed(recipe) == {}


@pytest.mark.fault("images", "`--strict`, `--max-bad`")
@pytest.mark.parametrize(
    ("limit", "code"),
    [("0", 1), ("2", 1), ("3", 0), ("14%", 1), ("14.3%", 0), ("100%", 0)],
)
def test_max_bad_is_a_number_or_a_part(recipe: Path, limit: str, code: int) -> None:
    """3 of 21 are 14.29 %."""
    result = higfa("contours", str(recipe), "--max-bad", limit, exit_code=code)
    if code:
        assert f"data.max_bad is {limit}" in error_of(result)
        assert "3 of 21" in error_of(result)


@pytest.mark.parametrize("limit", ["-1", "ten", "101%", "5 %", "1.5", ""])
def test_max_bad_must_be_one_of_them(recipe: Path, limit: str) -> None:
    assert "max_bad" in error_of(higfa("contours", str(recipe), f"--max-bad={limit}", exit_code=2))


def test_strict_and_max_bad_exclude_each_other(recipe: Path) -> None:
    higfa("contours", str(recipe), "--strict", "--max-bad", "3", exit_code=2)


@pytest.mark.parametrize(
    ("limit", "found", "many"),
    [("10%", 9, 0), ("10%", 10, 1), ("10%", 19, 1), ("29%", 100, 29), ("0%", 9, 0), (7, 3, 7)],
)
def test_how_many_may_be_bad(limit: int | str, found: int, many: int) -> None:
    assert allowed(limit, found) == many
    assert Data(root="x", max_bad=limit).max_bad == limit


def test_no_stage_trains_on_what_is_left_of_too_many(recipe: Path) -> None:
    higfa("contours", str(recipe), "--strict", exit_code=1)
    message = error_of(
        higfa("train-downstream", str(recipe), "--arm", "real", "--set", "data.max_bad=0",
              exit_code=1)
    )  # fmt: skip
    assert "3 of 21 photos cannot be used" in message


def test_force_looks_again(recipe: Path) -> None:
    """A list that is wrong (an error of the disk, an older version) must not bind for ever."""
    higfa("contours", str(recipe))
    path = recipe.parent / "out/contours/rejected.jsonl"
    root = recipe.parent / "photos"
    good = {"key": "train/a/0.png", "path": "train/a/0.png", "class": "a", "split": "train"}
    good |= {"reason": "empty", "detail": "-", "state": file_state(root / "train/a/0.png")}
    path.write_text(path.read_text() + json.dumps(good) + "\n")
    assert "4 of 21" in error_of(higfa("contours", str(recipe), exit_code=1))
    higfa("contours", str(recipe), "--force")
    assert listed(recipe) == BAD


@pytest.mark.parametrize("line", ["[]", "{", '{"key": "x"}', '{"key": 1, "reason": "empty"}'])
def test_a_broken_list_is_named(recipe: Path, line: str) -> None:
    higfa("contours", str(recipe))
    (recipe.parent / "out/contours/rejected.jsonl").write_text(line + "\n")
    assert "rejected.jsonl" in error_of(train(recipe, exit_code=1))


@pytest.mark.fault("images", "a class of which nothing is left", "error")
@pytest.mark.parametrize(("split", "said"), [("train", "class `a`"), ("val", "split val")])
def test_a_class_or_a_split_of_which_nothing_is_left(recipe: Path, split: str, said: str) -> None:
    folders = [recipe.parent / f"photos/{split}/a"]
    if split != "train":
        folders.append(recipe.parent / f"photos/{split}/b")
    for path in [path for folder in folders for path in folder.iterdir()]:
        path.write_bytes(b"")
    for _ in range(2):
        message = error_of(higfa("contours", str(recipe), "--max-bad", "100%", exit_code=1))
        assert said in message and f"{split}/a/0.png (empty)" in message
    assert len(listed(recipe)) >= 5


def test_a_photo_that_is_all_banner_depends_on_the_crop(recipe: Path) -> None:
    low = recipe.parent / "photos/train/b/low.png"
    low.write_bytes(encoded(scene()[:8], "PNG"))
    crop = ("--max-bad", "4", "--set", "data.crop_bottom=8")
    higfa("contours", str(recipe), *crop)
    assert listed(recipe)["train/b/low.png"] == "too-small"
    rejected = read_rejected(recipe.parent / "out/contours/rejected.jsonl")
    root = str(recipe.parent / "photos")
    for rows, there in ((8, False), (7, True), (0, True)):
        data = Data(root=root, crop_bottom=rows, max_bad=4)
        keys = {sample.key for sample in load_dataset(data, recipe.parent, 0, rejected).samples}
        assert ("train/b/low.png" in keys) == there
    higfa("contours", str(recipe), "--max-bad", "4")
    assert listed(recipe) == BAD | {"train/b/low.png": "no-edges"}


def test_shots_are_drawn_from_the_photos_that_can_be_used(recipe: Path) -> None:
    root = recipe.parent / "photos"
    higfa("contours", str(recipe))
    data = Data(root=str(root), shots=3, max_bad=5)
    path = recipe.parent / "out/contours/rejected.jsonl"

    def chosen() -> list[str]:
        found = load_dataset(data, recipe.parent, 0, read_rejected(path))
        return [sample.key for sample in found.of("train") if sample.cls == "b"]

    before = chosen()
    (root / before[0]).write_bytes(b"")
    higfa("contours", str(recipe), "--max-bad", "4")
    after = chosen()
    assert len(after) == 3 and before[0] not in after and set(before[1:]) < set(after)
