"""Likeness to photos on pictures whose answers are known, and whole runs on tiny parts."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.support import tiny
from tests.support.lab_project import write_judges
from tests.support.recipes import EDGES, write_recipe
from tests.support.shapes import shape
from tools.pocket.lab import features, likeness, realism, usefulness
from tools.pocket.lab.freeze import data_hash
from tools.pocket.lab.likeness import (
    BANDS,
    Lesson,
    as_shipped,
    band_powers,
    build_teller,
    kid,
    told_apart,
)
from tools.pocket.lab.train_judges import Labelled
from tools.pocket.lab.usefulness import _few, gains
from tools.pocket.pocket_render.catalogue import load_classes

VARIANTS, PER_CLASS = tuple(load_classes()), 4


def waves(cycles: float, count: int = 2) -> Tensor:
    """uint8 [count, 3, 64, 64]: vertical stripes of so many cycles a frame."""
    x = torch.arange(64) / 64
    row = 127 + 60 * torch.sin(2 * torch.pi * cycles * x)
    return row.round().to(torch.uint8).expand(count, 3, 64, 64).contiguous()


@pytest.mark.parametrize(("cycles", "band"), [(6, 0), (12, 1), (24, 2)])
def test_power_lies_in_the_band_of_the_waves(cycles: int, band: int) -> None:
    power = band_powers(waves(cycles))
    assert power.shape == (len(BANDS),) and power.argmax() == band
    assert power[band] > 50 * power.sum() / 51 - 1e-9 * power.sum()


def test_half_the_contrast_is_a_quarter_of_the_power() -> None:
    half = ((waves(24).float() - 127) / 2 + 127).round().to(torch.uint8)
    ratio = band_powers(half)[2] / band_powers(waves(24))[2]
    assert ratio.item() == pytest.approx(0.25, abs=0.01)


def test_shipping_shrinks_and_leaves_nearly_all_as_it_is() -> None:
    big = torch.nn.functional.interpolate(waves(6).float(), size=(128, 128), mode="bilinear")
    small = as_shipped(big.to(torch.uint8))
    assert small.shape == (2, 3, 64, 64) and small.dtype == torch.uint8
    again = as_shipped(waves(12))
    assert (again.float() - waves(12).float()).abs().mean() < 3


def test_kid_is_nothing_within_a_set_and_grows_with_the_distance() -> None:
    generator = torch.Generator().manual_seed(0)

    def unit(shift: float) -> Tensor:
        values = torch.randn(300, 16, generator=generator) + shift
        return torch.nn.functional.normalize(values, dim=1)

    photos = unit(0)
    same, near, far = (kid(unit(shift), photos)[0] for shift in (0.0, 0.3, 1.0))
    assert abs(same) < 0.01 < near < far
    with pytest.raises(ValueError, match="at least"):
        kid(photos[:20], photos)


def test_teller_tells_blurred_noise_from_sharp_and_not_like_from_like() -> None:
    generator = torch.Generator().manual_seed(0)
    sharp = torch.randint(0, 256, (120, 3, 64, 64), generator=generator, dtype=torch.uint8)
    soft = torch.nn.functional.avg_pool2d(sharp.float(), 5, 1, 2).round().to(torch.uint8)
    lesson = Lesson(steps=40, batch=16)
    right = told_apart(soft, sharp, lesson)
    assert right.shape == (80,) and right.float().mean() > 0.9
    others = torch.randint(0, 256, (120, 3, 64, 64), generator=generator, dtype=torch.uint8)
    alike = told_apart(others, sharp, lesson).float().mean().item()
    # four standard errors of 80 guesses
    assert abs(alike - 0.5) < 4 * (0.25 / 80) ** 0.5


def test_teller_is_small() -> None:
    assert sum(p.numel() for p in build_teller().parameters()) < 100_000
    assert np.isfinite(build_teller()(torch.rand(2, 3, 64, 64)).detach().numpy()).all()


def test_gains_are_paired_by_seed() -> None:
    def line(arm: str, seed: int, test: float) -> dict[str, float | str | int]:
        return {"arm": arm, "seed": seed, "test": test}

    rows = [line("real", 0, 0.5), line("real", 1, 0.6), line("perfect", 0, 0.55)]
    rows += [line("perfect", 1, 0.67), line("perfect", 2, 0.1)]
    assert gains(rows) == {"perfect": (pytest.approx(6.0), 2)}


def test_as_many_web_photos_as_perfect_ones_of_every_class() -> None:
    labels = torch.arange(4).repeat_interleave(10)
    few = _few(Labelled(torch.arange(40)[:, None], labels), 12)
    assert few.labels.bincount().tolist() == [3, 3, 3, 3]
    assert torch.equal(labels[few.pictures[:, 0]], few.labels)


def write_folders(root: Path, per_class: int, seed: int) -> Path:
    """root/<variant>/<n>.png."""
    rng = np.random.default_rng(seed)
    for label, variant in enumerate(VARIANTS):
        (root / variant).mkdir(parents=True)
        for number in range(per_class):
            picture = Image.fromarray(shape(label, rng))
            picture.save(root / variant / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rendered pools, judges, photos of all splits and a recipe of a tiny generator."""
    root = tmp_path_factory.mktemp("realism")
    rng = np.random.default_rng(0)
    for pool in ("web", "train", "test", "perfect"):
        (root / "rendered" / pool / "images").mkdir(parents=True)
        lines = []
        for number in range(PER_CLASS * len(VARIANTS)):
            variant = VARIANTS[number % len(VARIANTS)]
            file = f"images/{number}.jpg"
            picture = Image.fromarray(shape(number, rng, 48))
            picture.save(root / "rendered" / pool / file)
            row = {"id": str(number), "file": file, "variant": variant}
            row |= {"airline": f"airline {number % 3}", "caption": "", "caption_words": ""}
            lines.append(json.dumps(row) + "\n")
        records = root / "rendered" / pool / "records.jsonl"
        records.write_text("".join(lines), encoding="utf-8")
    for seed, split in enumerate(("train", "val", "test")):
        write_folders(root / "photos" / split, PER_CLASS, seed)
    write_judges(root / "judges", VARIANTS, data=data_hash())
    model = tiny.make_model(root / "models", family="pocket-like")
    write_recipe(root / "recipe.yaml", model, contours=EDGES, sampling={"steps": 2})
    return root


def test_realism_of_tiny_parts(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(features.PACKAGE)
    command = ["realism", "--rendered", str(home / "rendered"), "--judges", str(home / "judges")]
    command += ["--workspace", str(tmp_path / "workspace"), "--out", str(tmp_path / "docs")]
    command += ["--recipe", str(home / "recipe.yaml"), "--workers", "1", "--per-class"]
    monkeypatch.setattr(sys, "argv", [*command, str(PER_CLASS)])
    with pytest.raises(SystemExit) as stopped:
        realism.main()
    assert stopped.value.code == 1
    assert f"--per-class {PER_CLASS}: 64 pictures; KID needs 100" in capsys.readouterr().err
    monkeypatch.setattr(likeness, "SUBSET", 16)
    monkeypatch.setattr(realism, "SUBSET", 16)
    monkeypatch.setattr(realism, "Lesson", lambda: Lesson(steps=4, batch=4))
    realism.main()
    page = (tmp_path / "docs" / "realism.md").read_text(encoding="utf-8")
    assert page in capsys.readouterr().out
    written = json.loads((tmp_path / "docs" / "data" / "realism.json").read_text(encoding="utf-8"))
    assert list(written["parts"]) == list(realism.PARTS) and written["pictures"] == 64
    rows = {row["figure"]: row["value"] for row in written["parts"]["photos"]}
    # The train photos are what the powers are relative to.
    assert rows["train: power at 16 to 32 cycles a frame / photos'"] == 1
    assert {f"{pool}: KID" for pool in ("train", "perfect")} < set(rows)
    drawn = {row["figure"]: row["value"] for row in written["parts"]["contour"]}
    assert {"jury agreement", "edge overlap", "told from rendered ones"} < set(drawn)
    with Image.open(tmp_path / "docs" / "pictures" / "realism.png") as sheet:
        assert sheet.size[0] == 16 * (32 + 2)


def test_usefulness_of_tiny_parts(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = write_folders(tmp_path / "drawn", 2, 9)
    command = ["usefulness", "--rendered", str(home / "rendered"), "--out", str(tmp_path / "out")]
    command += ["--recipe", str(home / "recipe.yaml"), "--seeds", "0", "--steps", "2"]
    command += ["--image-size", "32", "--arms", *usefulness.ARMS]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit):
        usefulness.main()
    assert "--pictures" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", [*command, "--pictures", str(pictures)])
    usefulness.main()
    path = tmp_path / "out" / "usefulness.jsonl"
    before = path.read_text(encoding="utf-8")
    rows = [json.loads(line) for line in before.splitlines()]
    assert [row["arm"] for row in rows] == list(usefulness.ARMS)
    assert {row["steps"] for row in rows} == {rows[0]["steps"]}
    assert all(0 <= row["test"] <= 1 for row in rows)
    assert "drawn: " in capsys.readouterr().out
    usefulness.main()
    assert path.read_text(encoding="utf-8") == before
