"""Photos and a recipe of three classes, and the commands as a user types them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from typer.testing import CliRunner, Result

from higfa_cli.cli.app import app
from tests.support import tiny
from tests.support.recipes import write_recipe

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


def write_photos(folder: Path, train: int, val: int, test: int) -> None:
    """So many photos of each class and split."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val), ("test", test)):
        for kind in CLASSES:
            (folder / split / kind).mkdir(parents=True)
            for number in range(count):
                draw_photo(kind, rng).save(folder / split / kind / f"{number}.png")


def write_project(root: Path) -> Path:
    """Photos, tiny models and a recipe of all stages in `root`; returns the recipe."""
    write_photos(root / "photos", 4, 3, 4)
    training = {"epochs": 2, "batch_size": 8}
    return write_recipe(
        root / "tiny.yaml",
        tiny.make_model(root / "model"),
        guide=training,
        guidance={"classifier": {"switch": 0.5}},
        sampling={"steps": 4},
        pictures={"gallery": 2},
        run={"batch_size": 5},
        downstream=training | {"seeds": [0]},
    )


def higfa(*arguments: str, exit_code: int = 0) -> Result:
    """Run the command; it must end with `exit_code`."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == exit_code, result.output
    return result
