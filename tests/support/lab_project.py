"""A laboratory in small: two classes of shapes, a tiny model of real classes, a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml

from tests.support import shapes, tiny
from tools.pocket.lab.judges import ARCHITECTURES, JudgeSpec, build, save_judge

CLASSES = ("blue disc", "red, square")


def write_lab(folder: Path, per_class: int = 3, epochs: int = 1) -> Path:
    """Photos of three splits, a model and a recipe with a guide in `folder`; the recipe's path."""
    for seed, split in enumerate(("train", "val", "test")):
        shapes.write_class_folders(folder / "photos" / split, per_class, seed, CLASSES)
    model, controlnet = tiny.make_model(folder / "models", family="pocket-like")
    training = {"backbone": "resnet10t", "pretrained": False, "image_size": 32, "batch_size": 4}
    tree: dict[str, Any] = {
        "name": "lab",
        "data": {"root": "photos"},
        "contours": {"canny_low": 8.0, "canny_high": 20.0},
        "guide": training | {"epochs": epochs, "noised_per_image": 1},
        "size": 32,
        "model": {"base": str(model), "controlnet": str(controlnet)},
        "sampling": {"steps": 3},
        "run": {"device": "cpu", "batch_size": 2},
        "guidance": {"classifier": {"scale": 5.0, "switch": 0.5}},
    }
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return recipe


def write_judges(folder: Path, classes: tuple[str, ...] = CLASSES, size: int = 32) -> Path:
    """Untrained judges of the classes; returns their folder."""
    torch.manual_seed(0)
    for name in ARCHITECTURES:
        spec = JudgeSpec(name, classes, (size,), 1.0, "tiny")
        save_judge(folder / f"{name}.safetensors", build(name, len(classes)), spec)
    return folder
