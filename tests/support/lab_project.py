"""A laboratory in small: two classes of shapes, a tiny model of real classes, a recipe."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from tests.support import shapes, tiny
from tests.support.recipes import EDGES, write_recipe
from tools.pocket.lab.judges import ARCHITECTURES, JudgeSpec, build, save_judge

CLASSES = ("blue disc", "red, square")


def write_lab(folder: Path, per_class: int = 3, epochs: int = 1) -> Path:
    """Photos of three splits, a model and a recipe with a guide in `folder`; the recipe's path."""
    for seed, split in enumerate(("train", "val", "test")):
        shapes.write_class_folders(folder / "photos" / split, per_class, seed, CLASSES)
    return write_recipe(
        folder / "recipe.yaml",
        tiny.make_model(folder / "models", family="pocket-like"),
        name="lab",
        contours=EDGES,
        guide={"backbone": "resnet10t", "batch_size": 4, "epochs": epochs, "noised_per_image": 1},
        guidance={"classifier": {"scale": 5.0, "switch": 0.5}},
        sampling={"steps": 3},
        run={"batch_size": 2},
    )


def write_judges(
    folder: Path, classes: tuple[str, ...] = CLASSES, size: int = 32, data: str = "tiny"
) -> Path:
    """Untrained judges of the classes; returns their folder."""
    torch.manual_seed(0)
    for name in ARCHITECTURES:
        spec = JudgeSpec(name, classes, (size,), 1.0, data)
        save_judge(folder / f"{name}.safetensors", build(name, len(classes)), spec)
    return folder


def blobs(seed: int, side: int) -> np.ndarray:
    """Two soft blobs, whose places depend on the seed."""
    rng = np.random.default_rng(seed)
    canvas = np.full((side, side, 3), 20, np.float32)
    for _ in range(2):
        x, y = rng.uniform(0.3, 0.7, size=2) * side
        blob = np.zeros((side, side), np.float32)
        cv2.circle(blob, (round(x), round(y)), side // 6, 1.0, -1)
        canvas += cv2.GaussianBlur(blob, (0, 0), side / 40)[..., None] * rng.uniform(60, 110, 3)
    return canvas.clip(0, 255).astype(np.uint8)
