"""`higfa init` on folders as users have them."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from higfa_cli.data.dataset import load_dataset
from higfa_cli.errors import UserError
from higfa_cli.init.photos import Draw
from higfa_cli.init.project import init_project
from higfa_cli.recipe.load import load_recipe


def photo(path: Path, seed: object = 0, size: tuple[int, int] = (12, 9)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(list(repr(seed).encode())).integers(
        0, 256, (size[1], size[0], 3), dtype=np.uint8
    )
    image = Image.fromarray(pixels)
    (image.convert("CMYK") if path.suffix == ".tif" else image).save(path)


def flat(root: Path, counts: dict[str, int]) -> Path:
    """Class folders with pictures of mixed sizes, aspects and formats."""
    for cls, count in counts.items():
        for index in range(count):
            suffix = ("jpg", "png", "tif", "webp")[index % 4]
            photo(root / cls / f"p{index}.{suffix}", f"{cls}{index}", (8 + index, 20 - index % 13))
    return root


def rows(path: Path) -> dict[str, tuple[str, str]]:
    with path.open(encoding="utf-8", newline="") as handle:
        return {row["path"]: (row["class"], row["split"]) for row in csv.DictReader(handle)}


def test_a_single_test_photo_is_one_photo(tmp_path: Path) -> None:
    root = flat(tmp_path / "photos", {"tit": 5, "wren": 2})
    result = init_project(root, tmp_path / "mine.yaml")
    assert result["counts"]["test"] == 1
    assert any(
        note.startswith("1 test photo: one photo is 100.0 points") for note in result["notes"]
    )


def test_a_flat_folder_becomes_a_recipe_that_loads(tmp_path: Path) -> None:
    root = flat(tmp_path / "my: photos", {"colts-foot": 20, "737-800": 20, "one": 1, "two": 3})
    photo(root / "stray.png")
    (root / "one" / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    result = init_project(root, tmp_path / "mine.yaml")
    assert result["classes"] == ["737-800", "colts-foot", "one", "two"]
    assert result["counts"] == {"train": 30, "val": 7, "test": 7}
    assert result["skipped"] == [
        {"file": "stray.png", "reason": "not in a class folder"},
        {"file": "one/broken.jpg", "reason": "damaged"},
    ]
    assert result["next"] == f"higfa doctor {tmp_path / 'mine.yaml'}"
    # What needs neither a GPU nor the model's weights comes first.
    order = [text.split()[1] for text in result["then"]]
    assert order == ["contours", "train-downstream", "finetune-guide", "run"]
    assert "weights" not in "".join(result["then"][:2]) and "weights" in result["then"][2]
    assert any("points of accuracy" in note for note in result["notes"])
    assert "without a test photo: one" in result["notes"]
    loaded = load_recipe(result["recipe"])
    assert loaded.recipe.name == "mine"
    assert loaded.recipe.size == loaded.recipe.size == 512
    data = load_dataset(loaded.recipe.data, loaded.base, loaded.recipe.seed)
    per_class = Counter((s.cls, s.split) for s in data.samples)
    assert [per_class["colts-foot", s] for s in ("train", "val", "test")] == [14, 3, 3]
    assert [per_class["two", s] for s in ("train", "val", "test")] == [1, 1, 1]
    assert [per_class["one", s] for s in ("train", "val", "test")] == [1, 0, 0]
    assert data.words["colts-foot"] == "colts foot" and data.words["737-800"] == "737-800"
    assert "untuned" in Path(result["recipe"]).read_text()


def test_the_split_depends_on_seed_class_and_path_alone(tmp_path: Path) -> None:
    root = flat(tmp_path / "d", {"a": 12, "b": 12})
    init_project(root, tmp_path / "one.yaml")
    first = (tmp_path / "one.split.csv").read_bytes()
    copy = tmp_path / "elsewhere"
    for path in sorted(root.rglob("*.*"), reverse=True):
        (copy / path.relative_to(root)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy / path.relative_to(root))
    init_project(copy, tmp_path / "two.yaml")
    assert (tmp_path / "two.split.csv").read_bytes() == first
    init_project(root, tmp_path / "three.yaml", draw=Draw(seed=1))
    assert (tmp_path / "three.split.csv").read_bytes() != first
    flat(copy, {"c": 5})
    init_project(copy, tmp_path / "four.yaml")
    before, after = rows(tmp_path / "one.split.csv"), rows(tmp_path / "four.split.csv")
    assert {key: after[key] for key in before} == before


def test_an_existing_split_is_kept(tmp_path: Path) -> None:
    root = flat(tmp_path / "d", {"train/a": 4, "train/b": 4, "valid/a": 2, "test/b": 1})
    result = init_project(root, tmp_path / "r.yaml", draw=Draw(0.5, 0.4))
    assert result["classes"] == ["a", "b"]
    assert result["counts"] == {"train": 8, "val": 2, "test": 1}
    assert rows(tmp_path / "r.split.csv")["valid/a/p0.jpg"] == ("a", "val")
    loaded = load_recipe(result["recipe"])
    assert load_dataset(loaded.recipe.data, loaded.base, 0).splits == ("train", "val", "test")


def test_no_val_and_no_test_when_not_wanted(tmp_path: Path) -> None:
    root = flat(tmp_path / "d", {"a": 4, "b": 5})
    result = init_project(root, tmp_path / "r.yaml", draw=Draw(0, 0))
    assert result["counts"] == {"train": 9, "val": 0, "test": 0}
    of_split = [note for note in result["notes"] if "GPU" not in note]
    assert [note.split(":")[0] for note in of_split] == [
        "no validation photos",
        "no test photos",
    ]


def test_recipe_yaml_is_named_after_the_photos(tmp_path: Path) -> None:
    root = flat(tmp_path / "my: photos", {"a": 3, "b": 3})
    result = init_project(root, tmp_path / "recipe.yaml")
    assert load_recipe(result["recipe"]).recipe.name == "my: photos"


def test_large_fractions_leave_every_class_something_to_train_on(tmp_path: Path) -> None:
    root = flat(tmp_path / "d", {"a": 2, "b": 4})
    init_project(root, tmp_path / "r.yaml", draw=Draw(0.5, 0.49))
    placed = Counter(rows(tmp_path / "r.split.csv").values())
    assert placed["a", "train"] == 1 and placed["b", "train"] == 1


def test_nothing_is_overwritten_without_force(tmp_path: Path) -> None:
    root = flat(tmp_path / "d", {"a": 3, "b": 3})
    for name in ("r.yaml", "r.classes.yaml", "r.split.csv"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(UserError, match=name):
            init_project(root, tmp_path / "r.yaml")
        assert [p.read_text() for p in tmp_path.glob("r.*")] == ["mine"]
        result = init_project(root, tmp_path / "r.yaml", force=True)
        assert load_recipe(result["recipe"]).recipe.name == "r"
        for written in tmp_path.glob("r.*"):
            written.unlink()


@pytest.mark.parametrize(
    ("counts", "keys", "match"),
    [
        ({}, {}, "does not exist"),
        ({"a": 3}, {}, "one class, `a`"),
        ({"a": 3, "b": 0}, {}, "d/b has no images"),
        ({"a": 3, "b": -1}, {}, "`b`.*no readable image"),
        ({"test/a": 3, "val/a": 1}, {}, "no train/"),
        ({"train/a": 3, "train/b": 1, "test/c": 1}, {}, "`c`"),
        ({"a": 3, "b": 3}, {"draw": Draw(0.5, 0.5)}, "--val"),
        ({"a": 3, "b": 3}, {"out": "recipe"}, r"\.yaml"),
    ],
)
def test_bad_folders_write_nothing(
    tmp_path: Path, counts: dict[str, int], keys: dict, match: str
) -> None:
    for cls, count in counts.items():
        (tmp_path / "d" / cls).mkdir(parents=True)
        if count < 0:
            (tmp_path / "d" / cls / "bad.png").write_bytes(b"")
    flat(tmp_path / "d", counts)
    out = tmp_path / keys.pop("out", "r.yaml")
    with pytest.raises(UserError, match=match):
        init_project(tmp_path / "d", out, **keys)
    assert [path.name for path in tmp_path.iterdir()] in ([], ["d"])
