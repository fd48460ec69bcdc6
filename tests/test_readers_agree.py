"""Whoever reads photos with a trained classifier sees what its training saw."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from typer.testing import CliRunner

from higfa_cli.artifacts.atomic import read_json
from higfa_cli.cli.app import app
from higfa_cli.data.images import fit_square
from higfa_cli.models.classifier import load_classifier
from higfa_cli.recipe.schema import Recipe
from higfa_cli.stages import train_downstream
from higfa_cli.stages.context import Context
from higfa_cli.stages.export import export
from higfa_cli.stages.predict import best_model, predict
from higfa_cli.training.calibration import ece_interval, fit_temperature, shrunk
from tests.support.recipes import NETWORK

CLASSES, BANNER = ("heron", "egret", "stork"), 12
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


def trained(base: Path, workspace: str, **keys: Any) -> Context:
    """The arm `real`, trained for an epoch."""
    crop, size = keys.get("crop_bottom", 0), keys.get("image_size", 32)
    training = {**NETWORK, "image_size": size, "epochs": 1, "batch_size": 8, "seeds": [0]}
    recipe = Recipe.model_validate(
        {
            "name": "agree",
            "seed": keys.get("seed", 0),
            "data": {"root": "photos", "crop_bottom": crop},
            "model": {"base": "none", "controlnet": "none"},
            "run": {"device": "cpu"},
            "downstream": training,
        }
    )
    ctx = Context(recipe=recipe, base=base, workspace=base / workspace)
    train_downstream.run(ctx, arms=["real"])
    return ctx


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


def by_the_exported_files(folder: Path, photo: Path) -> tuple[str, float]:
    """What a stranger gets who follows preprocessing.json, and has never seen the recipe."""
    how, names = read_json(folder / "preprocessing.json"), read_json(folder / "labels.json")
    upright = ImageOps.exif_transpose(Image.open(photo)).convert("RGB")
    cut = np.asarray(upright)[: upright.height - how["crop_bottom"]]
    pixels = fit_square(cut, how["image_size"]).astype(np.float64) / 255
    ready = torch.tensor((pixels - how["mean"]) / how["std"], dtype=torch.float32)
    network = load_classifier(folder / "model.safetensors").network
    logits = network(ready.permute(2, 0, 1)[None])[0] / how["temperature"]
    value, index = logits.softmax(0).max(0)
    return names[int(index)], float(value)


@pytest.mark.fault(
    "numbers",
    "a banner that is cut off, turned, grey, palette and transparent photos: `predict`, "
    "predictions.csv and the exported model",
    "one answer: what changes pixels stands in the checkpoint",
)
@settings(
    max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    crop=st.sampled_from([0, 1, BANNER, 40]), size=st.sampled_from([24, 32]), seed=st.integers(0, 9)
)
def test_all_readers_give_one_answer(base: Path, crop: int, size: int, seed: int) -> None:
    name = f"w{crop}-{size}-{seed}"
    ctx = trained(base, name, crop_bottom=crop, image_size=size, seed=seed)
    model, out = best_model(ctx), base / f"{name}-out"
    assert load_classifier(model).spec.crop_bottom == crop
    export(model, out)
    told = recorded(ctx)
    photos = base / "photos"
    for row in predict(model, [photos / "test"], top=1, device="cpu"):
        key = Path(row["image"]).relative_to(photos).as_posix()
        label, confidence = told.pop(key)
        assert row["top"][0]["class"] == label
        assert row["top"][0]["probability"] == pytest.approx(confidence, abs=2e-6)
        assert by_the_exported_files(out, photos / key) == (
            label,
            pytest.approx(confidence, abs=1e-5),
        )
    assert not told


@pytest.fixture(scope="module")
def model(base: Path) -> Path:
    return best_model(trained(base, "whole", crop_bottom=BANNER))


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
    "drawn towards 1, the fewer the nearer; said, with their number",
)
@pytest.mark.parametrize("photos", [1, 12, 60, 2000])
def test_few_photos_change_the_temperature_little(photos: int) -> None:
    rng = np.random.default_rng(photos)
    labels = torch.tensor(rng.integers(0, 6, photos))
    logits = torch.tensor(rng.normal(0, 0.3, (photos, 6)))
    logits[torch.arange(photos), labels] += torch.tensor(rng.normal(0.4, 0.3, photos))
    said = fit_temperature(logits, labels)
    drawn = shrunk(said, photos)
    assert abs(np.log(drawn)) <= abs(np.log(said)) and np.log(drawn) * np.log(said) >= 0
    if photos <= 12:
        assert 0.6 < drawn < 1.7, "no dozen photos make anybody sure"
    if photos >= 2000:
        assert drawn == pytest.approx(said, rel=0.08)


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
