"""Small real pictures for training tests: two shapes in two colours, at random places."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from higfa_cli.artifacts.atomic import write_bytes
from higfa_cli.artifacts.class_folders import class_dir
from higfa_cli.data.images import encode_png
from higfa_cli.training.pictures import Pictures

SIZE = 32
# Sorted, as a dataset's classes are; the comma is there for the CSV files.
CLASSES = ("blue disc", "blue square", "red disc", "red, square")


def shape(label: int, rng: np.random.Generator, size: int = SIZE) -> np.ndarray:
    """A picture of class `label`: [size, size, 3] uint8."""
    picture = rng.integers(90, 140, (size, size, 3))
    rows, columns = np.mgrid[:size, :size]
    radius = size * rng.uniform(0.22, 0.3)
    y, x = rng.uniform(size * 0.35, size * 0.65, 2)
    if label % 2 == 0:
        inside = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
    else:
        inside = (abs(rows - y) < radius) & (abs(columns - x) < radius)
    picture[inside] = (40, 60, 230) if label < 2 else (230, 60, 40)
    return picture.astype(np.uint8)


def pictures(per_class: int, seed: int, labels: tuple[int, ...] = (0, 1, 2, 3)) -> Pictures:
    """`per_class` pictures of each label in memory."""
    rng = np.random.default_rng(seed)
    wanted = [label for label in labels for _ in range(per_class)]
    stack = np.stack([shape(label, rng).transpose(2, 0, 1) for label in wanted])
    return Pictures(torch.from_numpy(stack), torch.tensor(wanted))


def write_class_folders(
    root: Path, per_class: int, seed: int, classes: tuple[str, ...] = CLASSES
) -> Path:
    """root/<class>/<n>.png."""
    rng = np.random.default_rng(seed)
    for name in classes:
        for number in range(per_class):
            data = encode_png(shape(CLASSES.index(name), rng))
            write_bytes(root / class_dir(name) / f"{number}.png", data)
    return root
