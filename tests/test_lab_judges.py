"""The shipped judges, and how judges are trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from higfa_cli.data.dataset import load_dataset
from higfa_cli.errors import UserError
from higfa_cli.recipe.load import load_recipe
from tools.pocket.lab import train_judges
from tools.pocket.lab.judges import (
    INPUT_SIDE,
    check_data,
    jury_log_probabilities,
    jury_of,
    load_judges,
    votes,
)
from tools.pocket.lab.options import JUDGES, check_pocket
from tools.pocket.pocket_render.catalogue import load_classes
from tools.pocket.train.unpack import UNET


def test_shipped_judges_know_the_shipped_test_photos() -> None:
    loaded = load_recipe("pocket-aircraft")
    data = load_dataset(loaded.recipe.data, loaded.base, loaded.recipe.seed)
    samples = data.of("test")
    photos = torch.from_numpy(np.stack([one.read() for one in samples])).permute(0, 3, 1, 2)
    labels = torch.tensor([one.class_id for one in samples])
    judges = check_data(load_judges(JUDGES))
    assert judges[0].spec.sizes == train_judges.SIZES
    for own in (*((judge,) for judge in judges), judges):
        right = jury_of(votes(own, photos, data.classes)).argmax(dim=1) == labels
        # the laboratory's bar for a judge
        assert right.float().mean() >= 0.85
    upside_down = jury_log_probabilities(judges, photos.flip(2)).argmax(dim=1)
    assert (upside_down == labels).float().mean() < 0.6


def test_an_installed_pocket_with_other_weights_is_refused(tmp_path: Path) -> None:
    own = tmp_path / "pocket" / "higfa_pocket"
    shutil.copytree(JUDGES.parent / "higfa_pocket", own, ignore=shutil.ignore_patterns("data"))
    check_pocket("pocket-aircraft", tmp_path)
    path = own / UNET
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"another one; pip install \./pocket"):
        check_pocket("pocket-aircraft", tmp_path)
    shutil.rmtree(own)
    check_pocket("aircraft-sd15", tmp_path)


def test_a_batch_holds_every_size() -> None:
    rows = {
        size: torch.full((100, 3, size * 5 // 8, size), value, dtype=torch.uint8)
        for size, value in zip(train_judges.SIZES, (0, 128, 255), strict=True)
    }
    torch.manual_seed(0)
    ready = train_judges.mixed_input(rows, torch.arange(train_judges.TRAIN_BATCH))
    assert ready.shape == (64, 3, INPUT_SIDE * 5 // 8, INPUT_SIDE)
    first, second = (train_judges.BATCH_OF_SIZE[size] for size in train_judges.SIZES[:2])
    dark, grey, light = ready.tensor_split([first, first + second])
    assert dark.mean() < grey.mean() < light.mean()


def test_judges_are_trained_calibrated_and_tested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_judges, "BATCH_OF_SIZE", {64: 4, 96: 2, 128: 2})
    monkeypatch.setattr(train_judges, "TRAIN_BATCH", 8)
    rng = np.random.default_rng(0)
    for pool in ("web", "test"):
        images = tmp_path / pool / "images"
        images.mkdir(parents=True)
        rows = []
        for number, variant in enumerate(list(load_classes()) * 2):
            pixels = rng.integers(0, 256, (128, 128, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(images / f"{number}.jpg")
            about = {"id": str(number), "file": f"images/{number}.jpg", "variant": variant}
            rows.append(
                about | {"airline": f"air {number % 12}", "caption": "c", "caption_words": "w"}
            )
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / pool / "records.jsonl").write_text(text, encoding="utf-8")
    threads = torch.get_num_threads()
    row = train_judges.train_judge("resnet10t", tmp_path, tmp_path / "out", epochs=1)
    torch.set_num_threads(threads)
    assert list(row["test"]) == [64, 96, 128] and row["temperature"] > 0
    assert row["test"][96]["count"] == 32
    assert (tmp_path / "out" / "resnet10t.safetensors").is_file()
