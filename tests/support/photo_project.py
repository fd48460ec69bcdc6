"""Photos and a recipe of three classes, and the commands as a user types them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from PIL import Image, ImageDraw
from typer.testing import CliRunner, Result

from higfa_cli.cli.app import app
from tests.support import tiny

CLASSES = ("disc", "ring", "box%odd")


def draw_photo(kind: str, rng: np.random.Generator) -> Image.Image:
    image = Image.new("RGB", (40, 32), tuple(int(c) for c in rng.integers(0, 90, 3)))
    x, y, r = (int(v) for v in rng.integers((14, 12, 7), (26, 20, 11)))
    colour = tuple(int(c) for c in rng.integers(150, 255, 3))
    pen = ImageDraw.Draw(image)
    if kind == "box%odd":
        pen.rectangle((x - r, y - r, x + r, y + r), fill=colour)
    else:
        pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
        if kind == "ring":
            pen.ellipse((x - r // 2, y - r // 2, x + r // 2, y + r // 2), fill=(0, 0, 0))
    return image


def write_project(root: Path) -> Path:
    """Photos, tiny models and a recipe of all stages in `root`; returns the recipe."""
    model, controlnet = tiny.make_model(root / "model")
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 3), ("test", 4)):
        for kind in CLASSES:
            folder = root / "photos" / split / kind
            folder.mkdir(parents=True)
            for i in range(count):
                draw_photo(kind, rng).save(folder / f"{i}.png")
    small = {
        "backbone": "test_resnet.r160_in1k",
        "pretrained": False,
        "image_size": 32,
        "epochs": 2,
        "batch_size": 8,
    }
    tree = {
        "name": "tiny",
        "size": 32,
        "data": {"root": "photos"},
        "guide": small,
        "model": {"base": str(model), "controlnet": str(controlnet)},
        "guidance": {"classifier": {"switch": 0.5}},
        "sampling": {"steps": 4},
        "pictures": {"gallery": 2},
        "run": {"device": "cpu", "batch_size": 5},
        "downstream": {**small, "seeds": [0]},
    }
    path = root / "tiny.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def higfa(*arguments: str, exit_code: int = 0) -> Result:
    """Run the command; it must end with `exit_code`."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == exit_code, result.output
    return result
