"""The same photo twice: kept on one side of the split, and said; photos that no list names."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from higfa_cli.cli.app import app
from higfa_cli.data.copies import copies, leaked, neighbourhoods, thumbnail, told
from higfa_cli.data.layouts import CLASS_FOLDERS, layout_of
from higfa_cli.data.layouts.common import Listing, Row
from higfa_cli.errors import UserError
from higfa_cli.init.photos import Draw
from higfa_cli.init.project import init_project
from higfa_cli.recipe.data import Data, Layout
from higfa_cli.recipe.load import load_recipe
from higfa_cli.stages import pipeline
from higfa_cli.stages.context import _unlike_published, load_photos, make_context, photo_notes
from tests.support.folders import put
from tests.support.plain_project import changed, write_plain_project


def picture(seed: int, size: tuple[int, int] = (96, 72)) -> Image.Image:
    """A shape on a plain ground, as small data sets are full of."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", size, tuple(int(v) for v in rng.integers(90, 200, 3)))
    x, y, r = (float(v) for v in rng.uniform((30, 25, 12), (60, 45, 25)))
    ImageDraw.Draw(image).ellipse((x - r, y - r, x + r, y + r), fill=(220, 40, 40))
    return image


def again(
    image: Image.Image, quality: int = 95, size: tuple[int, int] | None = None
) -> Image.Image:
    """The picture after another JPEG."""
    buffer = io.BytesIO()
    (image.resize(size) if size else image).save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def rows_of(recipe: Path) -> list[Row]:
    return list(make_context(load_recipe(str(recipe)), recipe.parent / "out").listing.rows)


@pytest.mark.fault(
    "folders",
    "the same photo twice, in two splits or two classes",
    "kept in one split; said by `init`, `status`, `doctor` and the report",
)
@pytest.mark.parametrize("seed", range(5))
def test_copies_stay_on_one_side(tmp_path: Path, seed: int) -> None:
    root = put(tmp_path / "d", "wren/img_{10}.jpg", "tit/{10}.jpg")
    for n in range(10):
        shutil.copy(root / f"wren/img_{n}.jpg", root / f"wren/copy_{n}.jpg")
    shutil.copy(root / "wren/img_0.jpg", root / "tit/zzz.jpg")
    result = init_project(root, tmp_path / "r.yaml", draw=Draw(0.2, 0.2, seed))
    rows = rows_of(tmp_path / "r.yaml")
    split = {row.key: row.split for row in rows}
    assert all(split[f"wren/img_{n}.jpg"] == split[f"wren/copy_{n}.jpg"] for n in range(10))
    assert split["tit/zzz.jpg"] == split["wren/img_0.jpg"] == "train"
    assert sum(row.split == "test" and row.cls == "wren" for row in rows) == 4
    notes = "; ".join(result["notes"])
    assert "3 photos with two classes (tit/zzz.jpg = wren/img_0.jpg)" in notes
    assert "21 photos are copies of one another" in notes and "test photo" in notes
    ctx = make_context(load_recipe(str(tmp_path / "r.yaml")), tmp_path / "out")
    assert [note[:27] for note in photo_notes(ctx)] == ["3 photos with two classes ("]


@pytest.mark.fault("folders", "the same photo twice, in two splits or two classes")
def test_copies_across_the_folders_of_splits_are_said(tmp_path: Path) -> None:
    root = put(tmp_path / "d", "train/{wren,tit}/{6}.jpg", "test/{wren,tit}/{3}.jpg")
    for n in range(2):
        shutil.copy(root / f"train/wren/{n}.jpg", root / f"test/wren/again{n}.jpg")
    notes = init_project(root, tmp_path / "r.yaml")["notes"]
    assert notes[0].startswith("2 test photos are among the training or validation photos too (")
    recipe = str(tmp_path / "r.yaml")
    shown = CliRunner().invoke(app, ["status", recipe, "--json"])
    assert json.loads(shown.stdout)["notes"] == notes[:1]


@pytest.mark.fault("folders", "the same photo twice, in two splits or two classes")
def test_nearly_equal_photos_count_as_one() -> None:
    originals = [picture(seed) for seed in range(60)]
    changed = [
        again(originals[0], 50),
        again(originals[1], 95, (192, 144)),
        again(originals[2], 80, (48, 36)),
        again(again(originals[3], 50), 80),
    ]
    images = [np.asarray(image.convert("RGB")) for image in (*originals, *changed)]
    rows = [Row(f"{n}.jpg", "a", "test" if n >= 60 else "train") for n in range(len(images))]
    states = [str(n) for n in range(len(images))]
    groups = copies(rows, states, [thumbnail(image) for image in images])
    assert [[row.key for row in group] for group in groups] == [
        [f"{n}.jpg", f"{60 + n}.jpg"] for n in range(4)
    ]
    assert leaked(groups) == groups and told(groups)[0].startswith("4 test photos are among")


@pytest.mark.fault("folders", "the same photo twice, in two splits or two classes")
def test_dark_photos_are_not_all_one() -> None:
    rng = np.random.default_rng(0)
    dark = [rng.normal(4, 3, (64, 64, 3)).clip(0, 9).astype(np.uint8) for _ in range(20)]
    for number, image in enumerate(dark):
        image[number : number + 30, 10:40] += 8
    rows = [Row(f"{n}.jpg", "a", "train") for n in range(20)]
    assert copies(rows, [str(n) for n in range(20)], [thumbnail(image) for image in dark]) == []


def many_thumbnails(count: int) -> np.ndarray:
    """As of photos: smooth shades, a tint, some detail. [count, 192]."""
    rng, wave = np.random.default_rng(0), np.arange(8)
    cosines = np.cos(np.pi * (wave[:, None] + 0.5) * wave / 8)
    amplitude = 60 / (1 + np.hypot(wave[:, None], wave[None])) ** 1.5
    shades = rng.normal(size=(count, 8, 8)) * amplitude
    grey = 128 + np.einsum("nij,xi,yj->nxy", shades, cosines, cosines, optimize=True)
    tint, detail = rng.normal(0, 25, (count, 1, 1, 3)), rng.normal(0, 6, (count, 8, 8, 3))
    return (grey[..., None] + tint + detail).clip(0, 255).reshape(count, -1).astype(np.float32)


def grouped(thumbnails: np.ndarray) -> list[list[int]]:
    rows = [Row(str(n), "a", "train") for n in range(len(thumbnails))]
    groups = copies(rows, [row.key for row in rows], list(thumbnails))
    return [[int(row.key) for row in group] for group in groups]


@pytest.mark.fault("folders", "the same photo twice, in two splits or two classes")
def test_many_photos_are_compared_as_each_with_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies, flat and dark photos among 2,000 give the same groups without any parting."""
    thumbnails = many_thumbnails(2000)
    noise = np.random.default_rng(1).normal(0, 2, (300, 192)).astype(np.float32)
    thumbnails[1000:1300] = thumbnails[:300] + noise
    thumbnails[1300:1400] = 40 + noise[:100] * np.linspace(0.1, 3, 100)[:, None]
    parted = grouped(thumbnails)
    assert [[n, 1000 + n] in parted for n in range(300)].count(True) > 250
    monkeypatch.setattr("higfa_cli.data.copies._FEW", 10_000)
    assert grouped(thumbnails) == parted


def test_a_hundred_thousand_photos_are_not_compared_each_with_each() -> None:
    def comparisons(count: int) -> int:
        points = many_thumbnails(count)
        points -= points.mean(axis=1, keepdims=True)
        points /= np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 55)
        sets = list(neighbourhoods(points))
        assert len(np.unique(np.concatenate(sets))) == count
        return sum(len(rows) ** 2 for rows in sets)

    fewer, many = comparisons(25_000), comparisons(100_000)
    assert many < 8 * fewer and many < 100_000**2 / 50


@pytest.mark.fault(
    "folders", "photos added after `init`", "counted by `status` and `doctor`, with the command"
)
def test_photos_in_no_row_are_counted(tmp_path: Path) -> None:
    root = put(tmp_path / "d", "{wren,tit}/{10}.jpg")
    (root / "wren/broken.jpg").write_bytes(b"\xff\xd8\xff")
    put(root, "stray.jpg")
    init_project(root, tmp_path / "r.yaml")
    ctx = make_context(load_recipe(str(tmp_path / "r.yaml")), tmp_path / "out")
    assert photo_notes(ctx) == []
    put(root, "{wren,tit}/later{30}.jpg", "robin/{10}.jfif", "@eaDir/{3}.jpg")
    ctx = make_context(load_recipe(str(tmp_path / "r.yaml")), tmp_path / "out")
    (note,) = photo_notes(ctx)
    assert note.startswith("70 photos lie below data.root and in no row of the split file (robin/0")
    assert "higfa init --force" in note
    init_project(root, tmp_path / "r.yaml", force=True)
    assert photo_notes(make_context(load_recipe(str(tmp_path / "r.yaml")), tmp_path / "out")) == []


def test_stages_do_not_look_for_what_no_row_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only those who tell of it go through all folders; a folder that stays closed is told too."""
    root = put(tmp_path / "d", "{wren,tit}/{5}.jpg")
    init_project(root, tmp_path / "r.yaml")

    def closed(folder: Path) -> list[Path]:
        raise UserError(f"{folder} cannot be listed; change its permissions")

    monkeypatch.setattr("higfa_cli.data.layouts.imagefolder.image_files", closed)
    ctx = make_context(load_recipe(str(tmp_path / "r.yaml")), tmp_path / "out")
    assert len(load_photos(ctx).samples) == 10
    assert photo_notes(ctx) == [f"{root} cannot be listed; change its permissions"]


@pytest.mark.fault(
    "folders",
    "photos that no arm is tested on; a public set of another size than published",
    "named by `status`, `doctor` and the report, with both counts",
)
def test_test_photos_that_are_left_out_are_named(tmp_path: Path) -> None:
    ctx = changed(write_plain_project(tmp_path), data__max_bad=3)
    for cls in ("A320", "A321"):
        shutil.copytree(tmp_path / f"photos/train/{cls}", tmp_path / f"photos/test/{cls}")
    good, bad = (tmp_path / "photos/test/A320" / name for name in ("0.png", "bad.png"))
    bad.write_bytes(good.read_bytes()[:40])

    def said() -> list[str]:
        return [note for note in photo_notes(replace(ctx)) if "take no part" in note]

    list(pipeline.iter_stages(ctx, last="contours"))
    (note,) = said()
    assert note.startswith("1 of 5 test photos cannot be used") and "bad.png" in note
    # One that was mended is not left out, nor one that went.
    broken = bad.read_bytes()
    bad.write_bytes(good.read_bytes())
    assert said() == []
    bad.write_bytes(broken)
    assert said() == [note]
    bad.unlink()
    assert said() == []


@pytest.mark.fault(
    "folders", "photos that no arm is tested on; a public set of another size than published"
)
@pytest.mark.parametrize("name", [name for name in get_args(Layout) if name != CLASS_FOLDERS])
def test_a_public_set_of_another_size_says_so(name: str) -> None:
    layout = layout_of(name)
    assert layout is not None
    rows = tuple(Row(f"{s}{n}", "a", s) for s, count in layout.sizes.items() for n in range(count))
    data = Data.model_validate({"layout": name, "root": "d"})
    assert not [*_unlike_published(data, Listing(Path(), rows))]
    (note,) = _unlike_published(data, Listing(Path(), rows[1:]))
    size = layout.sizes["train"]
    assert layout.title in note and f"{size:,} train" in note and f"{size - 1:,} train" in note
    pocket = data.model_copy(update={"root": "pocket:photos"})
    assert not [*_unlike_published(pocket, Listing(Path(), rows[1:]))]
