"""Whoever reads photos with a trained classifier sees what its training saw."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from typer.testing import CliRunner

from higfa_cli.artifacts.artifact import read_rows, write_rows
from higfa_cli.artifacts.atomic import read_json, write_bytes
from higfa_cli.artifacts.rows import SelectionRow
from higfa_cli.cli.app import app
from higfa_cli.data.images import encode_png, fit_square
from higfa_cli.models.backbones import build_network
from higfa_cli.models.classifier import ClassifierSpec, load_classifier, save_classifier
from higfa_cli.recipe.schema import Recipe
from higfa_cli.stages import filter as filter_stage
from higfa_cli.stages import train_downstream
from higfa_cli.stages.context import Context
from higfa_cli.trained.export import Probabilities, export
from higfa_cli.trained.predict import best_model, predict
from higfa_cli.training.calibration import ece_interval, fit_temperature, supported
from tests.support.recipes import NETWORK
from tests.support.shapes import picture_row

CLASSES, BANNER = ("heron", "egret", "stork"), 12
# A normalisation that no backbone has.
OWN = ((0.1, 0.3, 0.6), (0.2, 0.5, 0.9))
WAYS = ("plain", "turned", "grey", "palette", "clear")


def write_photo(path: Path, label: int, number: int, way: str) -> None:
    """A block on a plain ground over a banner that gives the class away."""
    rng = np.random.default_rng([label, number])
    pixels = np.full((48 + BANNER, 44, 3), rng.integers(60, 200), np.uint8)
    x, y = rng.integers(4, 24, 2)
    pixels[y : y + 14 + 4 * label, x : x + 18 - 4 * label] = rng.integers(0, 255, 3)
    pixels[48:] = 0
    pixels[48:, :, (label + 1) % 3] = 255
    image, exif = Image.fromarray(pixels), Image.Exif()
    if way == "turned":
        image, exif[274] = image.transpose(Image.Transpose.ROTATE_90), 6
    if way in ("grey", "palette", "clear"):
        image = image.convert({"grey": "L", "palette": "P", "clear": "RGBA"}[way])
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, exif=exif)


def write_photos(root: Path) -> None:
    for split, count in (("train", 4), ("val", 2), ("test", 5)):
        for label, name in enumerate(CLASSES):
            for number in range(count):
                path = root / split / name / f"{number}.png"
                write_photo(path, label, number + 10 * len(split), WAYS[number % len(WAYS)])


def trained(
    base: Path, workspace: str, crop: int = 0, size: int = 64, seed: int = 0, **training: Any
) -> Context:
    """The arm `real`, trained for an epoch; nothing draws by the arm `higfa`."""
    of_all = {**NETWORK, "epochs": 1, "batch_size": 8, "seeds": [0]}
    recipe = Recipe.model_validate(
        {
            "name": "agree",
            "seed": seed,
            "size": size,
            "data": {"root": "photos", "crop_bottom": crop},
            "model": {"base": "none", "controlnet": "none"},
            "guidance": {"classifier": {"switch": 1.0}},
            "filter": {"best_of": 2},
            "pictures": {"gallery": 0},
            "arms": {"higfa": {}},
            "run": {"device": "cpu"},
            "downstream": of_all | training,
        }
    )
    ctx = Context(recipe=recipe, base=base, workspace=base / workspace)
    train_downstream.run(ctx, arms=["real"])
    return ctx


def draw_pictures(ctx: Context, guide: Path) -> Path:
    """Pictures of the recipe's size, filtered by a checkpoint as the guide; their folder."""
    files, rng = ctx.ws.arm("higfa").synthesize, np.random.default_rng(ctx.recipe.seed)
    ctx.ws.guide.directory.mkdir(parents=True)
    shutil.copy(guide, ctx.ws.guide.checkpoint)
    rows = []
    for label, cls in enumerate(sorted(CLASSES)):
        image = rng.integers(0, 255, (ctx.recipe.size, ctx.recipe.size, 3)).astype(np.uint8)
        write_bytes(files.images / f"{cls}.png", encode_png(image))
        source = f"train/{cls}/0.png"
        row = {"file_name": f"{cls}.png", "id": cls, "cls": cls, "class_id": label}
        rows.append(picture_row(**row, source=source))
    write_rows(files.metadata, rows)
    filter_stage.run(ctx, ["higfa"])
    return files.images


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("agree")
    write_photos(folder / "photos")
    return folder


def recorded(ctx: Context) -> dict[str, tuple[str, float]]:
    """Photo -> what predictions.csv says."""
    path = ctx.ws.downstream.training("real", 0).predictions
    with path.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    return {row["key"]: (row["predicted"], float(row["confidence"])) for row in rows}


def by_the_exported_files(
    folder: Path,
    photo: Path,
    onnx: Callable[[np.ndarray], np.ndarray] | None = None,
    crop: int | None = None,
    label: str = "",
) -> tuple[str, float]:
    """What a stranger gets who follows preprocessing.json, and has never seen the recipe.

    `onnx`: what runs that file; `label`: not the surest class, but this one's confidence.
    """
    how, names = read_json(folder / "preprocessing.json"), read_json(folder / "labels.json")
    upright = ImageOps.exif_transpose(Image.open(photo)).convert("RGB")
    rows = upright.height - (how["crop_bottom"] if crop is None else crop)
    pixels = fit_square(np.asarray(upright)[:rows], how["image_size"]).astype(np.float64) / 255
    if onnx is None:
        pixels = (pixels - how["mean"]) / how["std"]
        ready = torch.tensor(pixels, dtype=torch.float32).permute(2, 0, 1)[None]
        network = load_classifier(folder / "model.safetensors").network
        found = (network(ready)[0] / how["temperature"]).softmax(0).numpy()
    else:
        images = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32)
        (found,) = onnx(images)
    index = names.index(label) if label else int(found.argmax())
    return names[index], float(found[index])


@pytest.mark.fault(
    "numbers",
    "a banner that is cut off, turned, grey, palette and transparent photos, any size, backbone "
    "and normalisation: `predict`, predictions.csv, `filter` and both exported models",
    "one answer: what changes pixels stands in the checkpoint",
)
@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    crop=st.sampled_from([0, 1, BANNER, 40]),
    side=st.sampled_from([32, 48]),
    size=st.sampled_from([32, 64]),
    backbone=st.sampled_from(["test_resnet", "test_vit", "test_byobnet"]),
    own_weights=st.booleans(),
    seed=st.integers(0, 9),
)
def test_all_readers_give_one_answer(
    base: Path, crop: int, side: int, size: int, backbone: str, own_weights: bool, seed: int
) -> None:
    """`own_weights`: those of a checkpoint whose normalisation is no backbone's."""
    name = f"w{crop}-{side}-{size}-{backbone}-{own_weights}-{seed}"
    keys: dict[str, Any] = {"image_size": side, "backbone": backbone}
    if own_weights:
        network = build_network(backbone, 3, side)
        spec = ClassifierSpec(backbone, CLASSES, side, *OWN)
        save_classifier(base / f"{name}.safetensors", network, spec)
        keys["weights"] = f"{name}.safetensors"
    ctx = trained(base, name, crop, size, seed, **keys)
    model, out = best_model(ctx), base / f"{name}-out"
    assert load_classifier(model).spec.crop_bottom == crop
    assert (load_classifier(model).spec.mean == OWN[0]) == own_weights
    export(model, out)
    written = Probabilities(load_classifier(model))
    told = recorded(ctx)
    photos = base / "photos"
    for row in predict(model, [photos / "test"], top=1, device="cpu"):
        key = Path(row["image"]).relative_to(photos).as_posix()
        label, confidence = told.pop(key)
        assert row["top"][0]["class"] == label
        assert row["top"][0]["probability"] == pytest.approx(confidence, abs=2e-6)
        near = (label, pytest.approx(confidence, abs=1e-5))
        assert by_the_exported_files(out, photos / key) == near
        # What the ONNX file is written of; the file itself is tried below.
        assert by_the_exported_files(out, photos / key, lambda x: written(torch.tensor(x))) == near
    assert not told
    pictures = draw_pictures(ctx, model)
    for row in read_rows(ctx.ws.arm("higfa").filter.selection, SelectionRow):
        path = pictures / row.file_name
        probability = by_the_exported_files(out, path, crop=0, label=row.cls)[1]
        assert row.confidence == pytest.approx(probability, abs=1e-5)
        if not crop:
            (again,) = predict(model, [path], top=3, device="cpu")
            by_predict = {guess["class"]: guess["probability"] for guess in again["top"]}
            assert row.confidence == pytest.approx(by_predict[row.cls], abs=2e-6)


@pytest.mark.fault(
    "numbers",
    "a banner that is cut off, turned, grey, palette and transparent photos, any size, backbone "
    "and normalisation: `predict`, predictions.csv, `filter` and both exported models",
)
def test_the_onnx_file_gives_that_answer(base: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    network = build_network("test_byobnet", 3, 32)
    spec = ClassifierSpec("test_byobnet", CLASSES, 32, *OWN, 0.4, BANNER)
    save_classifier(tmp_path / "m.safetensors", network, spec)
    export(tmp_path / "m.safetensors", tmp_path / "out", "onnx")
    session = onnxruntime.InferenceSession(tmp_path / "out/model.onnx")
    for row in predict(tmp_path / "m.safetensors", [base / "photos/test"], top=1, device="cpu"):
        said = by_the_exported_files(
            tmp_path / "out", Path(row["image"]), lambda x: session.run(None, {"images": x})[0]
        )
        (guess,) = row["top"]
        assert said == (guess["class"], pytest.approx(guess["probability"], abs=1e-5))


@pytest.fixture(scope="module")
def model(base: Path) -> Path:
    return best_model(trained(base, "whole", BANNER))


def say(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["predict", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.fault(
    "images",
    "one bad photo of several to be classified",
    "rows for the good ones, an error line for each bad one, exit 3",
)
def test_one_bad_photo_costs_no_other(base: Path, model: Path, tmp_path: Path) -> None:
    good = [base / "photos/test/heron/0.png", base / "photos/test/stork/1.png"]
    cut, text, low = (tmp_path / name for name in ("cut.png", "text.png", "low.png"))
    whole = good[0].read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    text.write_text("no picture")
    Image.new("RGB", (20, BANNER)).save(low)
    bad = [cut, text, low, tmp_path / "none.png"]
    code, out, err = say("--model", model, bad[0], good[0], *bad[1:], good[1])
    assert code == 3 and [line.split(":")[0] for line in out.splitlines()[1:]] == [*map(str, good)]
    assert err.count("error: ") == 4 and all(str(path) in err for path in bad)
    code, out, _ = say("--model", model, cut, good[0], "--json")
    told = json.loads(out)
    assert code == 3 and [row["image"] for row in told["predictions"]] == [str(good[0])]
    assert [row["image"] for row in told["failed"]] == [str(cut)]
    assert say("--model", model, cut)[0] == 1


@pytest.mark.fault("images", "one bad photo of several to be classified")
def test_a_folder_is_walked(base: Path, model: Path, tmp_path: Path) -> None:
    code, out, _ = say("--model", model, base / "photos/test")
    assert code == 0 and len(out.splitlines()) == 1 + 15
    (tmp_path / "notes.txt").write_text("no photo")
    code, _, err = say("--model", model, tmp_path)
    assert code == 1 and f"no photo lies below {tmp_path}" in err
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "deep/er/half.png").write_bytes(b"")
    write_photo(tmp_path / "deep/whole.png", 0, 1, "plain")
    code, out, err = say("--model", model, tmp_path)
    assert code == 3 and "whole.png" in out and "half.png" in err and "notes" not in out + err


def test_the_model_introduces_itself(base: Path, model: Path, tmp_path: Path) -> None:
    photo = base / "photos/test/heron/0.png"
    first = say("--model", model, photo)[1].splitlines()[0]
    assert "real, seed 0" in first and "of 15 test photos right, chance 33.3%" in first
    told = json.loads(say("--model", model, photo, "--json")[1])
    assert (told["arm"], told["test_photos"]) == ("real", 15)
    (tmp_path / "m.safetensors").write_bytes(model.read_bytes())
    assert len(say("--model", tmp_path / "m.safetensors", photo)[1].splitlines()) == 1


@pytest.mark.fault(
    "numbers",
    "temperature from a few validation photos",
    "of guide and classifier: drawn towards 1, the fewer the nearer; said, with their number",
)
@pytest.mark.parametrize("photos", [1, 12, 60, 100, 2000])
def test_few_photos_change_the_temperature_little(photos: int) -> None:
    rng = np.random.default_rng(photos)
    labels = torch.tensor(rng.integers(0, 6, photos))
    logits = torch.tensor(rng.normal(0, 0.3, (photos, 6)))
    logits[torch.arange(photos), labels] += torch.tensor(rng.normal(0.4, 0.3, photos))
    said = fit_temperature(logits, labels)
    drawn = supported(said, photos)
    assert abs(np.log(drawn)) <= abs(np.log(said)) and np.log(drawn) * np.log(said) >= 0
    if photos <= 12:
        assert 0.6 < drawn < 1.7, "no dozen photos make anybody sure"
    if photos >= 100:
        assert drawn == said, "to the last bit"


def test_results_say_what_the_temperature_rests_on(base: Path, model: Path) -> None:
    (arm,) = read_json(model.parents[3] / "results.json")["arms"]
    (run,) = arm["runs"]
    assert run["temperature_photos"] == 6
    ece, low, high = run["test_ece"]
    assert 0 <= low <= high <= 1 and 0 <= ece <= 1


def test_calibration_error_by_hand() -> None:
    ece, low, high = ece_interval([0.9] * 10, [True] * 9 + [False], 0)
    assert ece == pytest.approx(0) and 0 <= low < high < 0.35
    assert ece_interval([1.0, 1.0, 0.5], [False, False, True], 0)[0] == pytest.approx(2.5 / 3)
    assert ece_interval([0.5], [True], 0) == pytest.approx((0.5, 0.5, 0.5))
