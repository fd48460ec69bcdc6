"""Photos cut to the boxes that their dataset ships: the same for all who read them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError
from typer.testing import CliRunner

from higfa_cli.artifacts.atomic import read_jsonl
from higfa_cli.cli.app import app
from higfa_cli.data.dataset import load_dataset
from higfa_cli.errors import UserError
from higfa_cli.models.classifier import load_classifier
from higfa_cli.recipe.data import Data
from higfa_cli.recipe.schema import Recipe
from higfa_cli.stages import contours, train_downstream
from higfa_cli.stages.context import Context, load_photos, photo_notes
from higfa_cli.stages.inputs import contour_inputs, downstream_inputs, edge_state
from higfa_cli.trained.predict import best_model, photo_boxes, predict
from tests.support.layouts import car_annotations, cells, dog_list, lines, mat
from tests.support.recipes import NETWORK

# Left, top, width and height of the subject of a photo of 40 x 30 pixels.
SUBJECT = (5, 4, 20, 12)


def photo(path: Path, label: int = 0) -> None:
    """A bright subject in the dark; its colour says the class, the rest another."""
    left, top, width, height = SUBJECT
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[..., 1 - label] = 90
    pixels[top : top + height, left : left + width] = (200, 30 + 200 * label, 250)
    pixels[top + 3 : top + 6, left + 3 : left + 9 + label * 6] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, "PNG")


def cub(root: Path, box: str = "5.0 4.0 20.0 12.0", each: int = 2) -> None:
    names = [(c, f"00{c + 1}.B{c}/b{n}.jpg") for c in range(2) for n in range(3 * each)]
    for label, name in names:
        photo(root / "images" / name, label)
    lines(root / "classes.txt", "1 001.B0", "2 002.B1")
    lines(root / "images.txt", *(f"{i} {name}" for i, (_, name) in enumerate(names, 1)))
    lines(root / "image_class_labels.txt", *(f"{i} {c + 1}" for i, (c, _) in enumerate(names, 1)))
    split = (f"{i} {int(i % 3 > 0)}" for i in range(1, len(names) + 1))
    lines(root / "train_test_split.txt", *split)
    lines(root / "bounding_boxes.txt", *(f"{i} {box}" for i in range(1, len(names) + 1)))


def fgvc(root: Path, box: str = "6 5 25 16") -> None:
    for name in ("001", "002"):
        photo(root / f"images/{name}.jpg")
    lines(root / "variants.txt", "A", "B")
    lines(root / "images_variant_train.txt", "001 A", "002 B")
    lines(root / "images_box.txt", f"001 {box}", f"002 {box}")


def cars(root: Path) -> None:
    for place in ("cars_train/cars_train", "cars_test"):
        photo(root / place / "00001.jpg")
    meta = root / "devkit"
    mat(meta / "cars_meta.mat", class_names=cells("Car").reshape(1, -1))
    car_annotations(meta / "cars_train_annos.mat", ("00001.jpg", 1), box=(6, 5, 25, 16))
    car_annotations(root / "cars_test_annos_withlabels.mat", ("00001.jpg", 1), box=(1, 1, 9, 9))


def dogs(root: Path) -> None:
    photo(root / "Images/n1-Pug/n1_2.jpg")
    dog_list(root / "lists/train_list.mat", ("n1-Pug/n1_2.jpg", 1.0))
    dog_list(root / "lists/test_list.mat")
    one = "<bndbox><xmin>6</xmin><ymin>5</ymin><xmax>{}</xmax><ymax>16</ymax></bndbox>"
    lines(root / "Annotation/n1-Pug/n1_2", "<annotation>", one.format(20), one.format(25))


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "cub": cub,
    "fgvc-aircraft": fgvc,
    "stanford-cars": cars,
    "stanford-dogs": dogs,
}


@pytest.mark.fault(
    "numbers",
    "photos that are cut to the boxes that a dataset ships",
    "the same part for contours and every classifier; said by `predict` where no box is known",
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_with_boxes(tmp_path: Path, layout: str) -> None:
    LAYOUTS[layout](tmp_path / "d")
    data = Data(layout=layout, root="d", boxes=True)
    sample = load_dataset(data, tmp_path, 0).of("train")[0]
    left, top, width, height = SUBJECT
    assert sample.box == (left, top, left + width, top + height)
    whole = replace(sample, box=None).read()
    assert whole.shape == (30, 40, 3)
    assert (sample.read() == whole[top : top + height, left : left + width]).all()
    assert (
        load_dataset(data.model_copy(update={"boxes": False}), tmp_path, 0).samples[0].box is None
    )


@pytest.mark.fault("numbers", "photos that are cut to the boxes that a dataset ships")
@pytest.mark.parametrize(
    ("box", "words"),
    [
        ("9 9 3 3", "empty or outside the photo"),
        ("1 2 3", "has not 5 fields"),
        ("a b c d", "a box is four numbers"),
        ("nan 1 2 3", "a box is four numbers"),
        ("-3 1 9 9", r"images_box\.txt line 1: the box of 001 is empty or outside the photo"),
    ],
)
def test_boxes_that_are_none(tmp_path: Path, box: str, words: str) -> None:
    fgvc(tmp_path, box)
    with pytest.raises(UserError, match=words):
        load_dataset(Data(layout="fgvc-aircraft", root=str(tmp_path), boxes=True), tmp_path, 0)


def test_a_photo_without_a_box_and_a_layout_without_boxes(tmp_path: Path) -> None:
    fgvc(tmp_path)
    data = Data(layout="fgvc-aircraft", root=str(tmp_path), boxes=True)
    lines(tmp_path / "images_box.txt", "001 6 5 25 16")
    with pytest.raises(UserError, match=r"no box for images/002\.jpg; .*boxes: false"):
        load_dataset(data, tmp_path, 0)
    lines(tmp_path / "images_box.txt", "001 6 5 25 16", "002 900 900 950 950")
    beyond = load_dataset(data, tmp_path, 0).samples[1]
    with pytest.raises(UserError, match="leaves nothing of it"):
        beyond.read()
    with pytest.raises(ValidationError, match="a `layout` that ships none"):
        Data(layout="dtd", root="d", boxes=True)


@pytest.fixture(scope="module")
def ctx(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """The arm `real` of boxed birds, trained for an epoch."""
    base = tmp_path_factory.mktemp("boxes")
    cub(base / "d", each=3)
    recipe = Recipe.model_validate(
        {
            "name": "boxes",
            "data": {"root": "d", "layout": "cub", "boxes": True},
            "model": {"base": "none", "controlnet": "none"},
            "run": {"device": "cpu"},
            "downstream": {**NETWORK, "epochs": 1, "batch_size": 8, "seeds": [0]},
        }
    )
    ctx = Context(recipe=recipe, base=base, workspace=base / "ws")
    train_downstream.run(ctx, arms=["real"])
    return ctx


@pytest.mark.fault("numbers", "photos that are cut to the boxes that a dataset ships")
def test_predict_gives_what_training_saw(ctx: Context) -> None:
    model, photos = best_model(ctx), sorted((ctx.base / "d/images").rglob("*.jpg"))
    assert load_classifier(model).spec.boxes
    boxed = predict(model, photos, top=1, device="cpu", boxes=photo_boxes(ctx))
    told = ctx.ws.downstream.training("real", 0).predictions.read_text().splitlines()[1:]
    assert told and not any("whole" in row for row in boxed)
    for line in told:
        key, _, name, confidence = line.split(",")
        (row,) = [row for row in boxed if row["image"].endswith(key)]
        assert row["top"][0]["class"] == name
        assert row["top"][0]["probability"] == pytest.approx(float(confidence), abs=2e-6)
    whole = predict(model, photos, top=1, device="cpu")
    assert all(row["whole"] for row in whole)
    assert [row["top"] for row in whole] != [row["top"] for row in boxed]
    shown = CliRunner().invoke(app, ["predict", "--model", str(model), str(photos[0]), "--json"])
    assert "no box is known of 1 photo here" in shown.stderr
    assert json.loads(shown.stdout)["predictions"][0]["whole"] is True


@pytest.mark.fault("numbers", "photos that are cut to the boxes that a dataset ships")
def test_other_boxes_are_other_inputs(ctx: Context) -> None:
    """What reads photos becomes stale with their boxes, and without the key nothing is recorded."""
    data = ctx.recipe.data
    whole = ctx.recipe.model_copy(update={"data": data.model_copy(update={"boxes": False})})
    plain = Context(recipe=whole, base=ctx.base, workspace=ctx.workspace)
    assert "boxes" not in data.model_copy(update={"boxes": False}).choices()
    path = ctx.base / "d/images/001.B0/b0.jpg"
    boxes = [(5, 4, 25, 16), (6, 4, 26, 16), None]
    assert len({edge_state(ctx, path, box) for box in boxes}) == 3
    fresh = Context(recipe=ctx.recipe, base=ctx.base, workspace=ctx.workspace)
    before = [contour_inputs(fresh).key, downstream_inputs(fresh, arms=["real"]).key]
    listed = ctx.base / "d/bounding_boxes.txt"
    text = listed.read_text()
    listed.write_text(text.replace("1 5.0", "1 6.0", 1))
    fresh = Context(recipe=ctx.recipe, base=ctx.base, workspace=ctx.workspace)
    after = [contour_inputs(fresh).key, downstream_inputs(fresh, arms=["real"]).key]
    listed.write_text(text)
    assert before[0] != after[0]
    assert len({*before, *after, contour_inputs(plain).key}) == 5


@pytest.mark.fault("numbers", "photos that are cut to the boxes that a dataset ships")
def test_a_negative_side_names_the_list_and_the_line(tmp_path: Path) -> None:
    cub(tmp_path)
    change_box(tmp_path, 3, "-2.0 4.0 20.0 12.0")
    words = r"bounding_boxes\.txt line 3: the box of 001\.B0/b2\.jpg .*data\.boxes: false"
    with pytest.raises(UserError, match=words):
        load_dataset(Data(layout="cub", root=str(tmp_path), boxes=True), tmp_path, 0)


def change_box(root: Path, number: int, box: str) -> None:
    path = root / "bounding_boxes.txt"
    rows = path.read_text().splitlines()
    rows[number - 1] = f"{number} {box}"
    lines(path, *rows)


def boxed(base: Path, max_bad: int) -> Context:
    recipe = {
        "name": "boxes",
        "size": 64,
        "data": {"root": "d", "layout": "cub", "boxes": True, "max_bad": max_bad},
        "model": {"base": "none", "controlnet": "none"},
        "contours": {"blur": 0, "edge_fraction": [0.01, 0.9]},
    }
    return Context(Recipe.model_validate(recipe), base, base / "ws")


@pytest.mark.fault(
    "numbers",
    "a box that lies outside its photo, or shows nothing",
    "listed before anything is drawn, left out by every stage, until its box or file changes",
)
@pytest.mark.parametrize(
    ("number", "box", "reason"),
    [
        (3, "900 900 50 50", "box-outside"),
        (2, "900 900 50 50", "box-outside"),
        (2, "30 20 8 8", "no-edges"),
    ],
)
def test_a_box_without_use_counts_until_it_is_corrected(
    tmp_path: Path, number: int, box: str, reason: str
) -> None:
    """Photo 3 is a test photo, photo 2 trains."""
    cub(tmp_path / "d", each=3)
    change_box(tmp_path / "d", number, box)
    strict, key = boxed(tmp_path, 0), f"images/001.B0/b{number - 1}.jpg"
    with pytest.raises(UserError, match=rf"b{number - 1}\.jpg \({reason}\)") as refused:
        contours.run(strict)
    (row,) = read_jsonl(strict.ws.contours.rejected)
    assert (row["key"], row["reason"]) == (key, reason)
    if reason == "box-outside":
        for text in (str(refused.value), row["detail"]):
            assert "correct the list of boxes, or set data.boxes: false" in text
        assert "40 x 30 pixels" in row["detail"] and "(900, 900, 950, 950)" in row["detail"]
    with pytest.raises(UserError, match=reason):
        contour_inputs(boxed(tmp_path, 0))
    lax = boxed(tmp_path, 1)
    assert contours.run(lax)["rejected"] == {reason: 1}
    keys = {sample.key for sample in load_photos(lax).samples}
    assert (key in keys) == (reason == "no-edges")
    said = any("1 of 6 test photos cannot be used" in note for note in photo_notes(lax))
    assert said == (number == 3)
    change_box(tmp_path / "d", number, "5.0 4.0 20.0 12.0")
    mended = boxed(tmp_path, 0)
    contour_inputs(mended)
    assert len(load_photos(mended).samples) == 18
    assert contours.run(mended)["rejected"] == {}
