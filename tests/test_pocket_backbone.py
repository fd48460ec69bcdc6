"""The pocket's backbone: what it was shown, and that guides can start from it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open

from higfa_cli.models.backbones import create_backbone
from higfa_cli.recipe.load import load_recipe
from tools.pocket.train import backbone, decoder

SHIPPED = Path(__file__).parents[1] / "pocket" / "higfa_pocket" / "backbone.safetensors"


def test_light_changes_keep_range_and_mirror_about_half() -> None:
    torch.manual_seed(0)
    ramp = torch.arange(32.0).expand(200, 3, 32, 32).mul(8).to(torch.uint8)
    changed = backbone.lightly_changed(ramp)
    assert changed.shape == ramp.shape and changed.min() >= 0 and changed.max() <= 255
    mirrored = (changed[:, 0, 16, 4] > changed[:, 0, 16, 28]).float().mean()
    assert 0.35 < mirrored < 0.65


def test_labels_are_families_in_the_order_of_the_records(tmp_path: Path) -> None:
    rows = [{"family": "b"}, {"family": "a"}, {"family": "b"}]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "records.jsonl").write_text(text, encoding="utf-8")
    families, labels = backbone.family_labels(tmp_path)
    assert families == ["a", "b"] and labels.tolist() == [1, 0, 1]


def test_training_resumes_and_exports_no_head(tmp_path: Path) -> None:
    web, run = tmp_path / "web", tmp_path / "run"
    (web / "images").mkdir(parents=True)
    run.mkdir()
    rng, rows = np.random.default_rng(0), []
    for number in range(80):
        pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(web / "images" / f"{number}.jpg")
        about = {"id": str(number), "variant": "v", "caption": "c", "caption_words": "w"}
        about |= {"airline": f"air {number % 16}"}
        rows.append(about | {"family": f"family {number % 2}"})
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (web / "records.jsonl").write_text(text, encoding="utf-8")
    backbone.train(web, run, epochs=1)
    network = backbone.train(web, run, epochs=2)
    logged = (run / "backbone.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["epoch"] for line in logged] == [1, 2]
    backbone.export(network, tmp_path)
    with safe_open(tmp_path / "backbone.safetensors", framework="pt") as stored:
        assert not any(name.startswith("head.fc") for name in stored.keys())  # noqa: SIM118


def test_a_guide_starts_from_the_shipped_backbone() -> None:
    loaded = load_recipe("pocket-aircraft")
    made = create_backbone(loaded.recipe.guide, 16, loaded.base, seed=0)
    assert made.mean == made.std == backbone.HALF
    with safe_open(SHIPPED, framework="pt") as stored:
        weight = stored.get_tensor("stem.conv.weight").float()
    assert torch.equal(made.network.state_dict()["stem.conv.weight"], weight)


def test_feature_distance_is_zero_for_equals_and_feels_detail() -> None:
    distance = decoder.feature_distance(SHIPPED, torch.device("cpu"))
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert distance(picture, picture) == 0
    smooth = torch.nn.functional.avg_pool2d(picture, 3, stride=1, padding=1)
    assert distance(smooth, picture) > distance(picture * 0.98, picture) > 0
