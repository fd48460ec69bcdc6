"""Small real pictures for training tests: two shapes in two colours, at random places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from higfa_cli.artifacts.atomic import write_bytes
from higfa_cli.artifacts.class_folders import class_dir
from higfa_cli.artifacts.rows import (
    ContourRow,
    LastStrengths,
    PictureRow,
    SelectionRow,
    TransformRecord,
)
from higfa_cli.contour.transform import IDENTITY
from higfa_cli.data.images import encode_png
from higfa_cli.training.pictures import Pictures

SIZE = 32
# Sorted, as a dataset's classes are; the comma is there for the CSV files.
CLASSES = ("blue disc", "blue square", "red disc", "red, square")


def transform(**parts: Any) -> TransformRecord:
    """The identity with some parts changed."""
    return TransformRecord.model_validate(IDENTITY.plain() | parts)


def picture_row(**values: Any) -> PictureRow:
    """A finished picture that was drawn without a guide; `values` replace what stands here."""
    row = {
        "file_name": "a/0.png",
        "id": "0",
        "class": "a",
        "class_id": 0,
        "source": "train/a/0.png",
        "source_sha256": "00",
        "contour": "images/a/0-0.png",
        "transform": IDENTITY,
        "replica": 0,
        "seed": 0,
        "prompt": "a photo of an a",
        "negative": "",
        "batch": 0,
        "strengths": LastStrengths(text=7.5, contour=1.0, classifier=0.0),
        "confidence": None,
        "effective_batch": 1,
        "status": "ok",
        "error": None,
        "sha256": "00",
    }
    named = {"class" if name == "cls" else name: value for name, value in values.items()}
    return PictureRow.model_validate(row | named)


def selection_row(file_name: str, kept: bool) -> SelectionRow:
    """What the filter says of a picture."""
    return SelectionRow(
        file_name=file_name,
        id="0",
        cls="a",
        source="train/a/0.png",
        replica=0,
        kept=kept,
        reasons=() if kept else ("constant",),
        confidence=None,
        rank=None,
        duplicate=0.0,
        std=50.0,
    )


def contour_row(**values: Any) -> ContourRow:
    """A contour that was not moved; `values` replace what stands here."""
    row = {
        "file_name": "images/a/0-0.png",
        "class": "a",
        "class_id": 0,
        "source": "train/a/0.png",
        "source_sha256": "00",
        "split": "train",
        "index": 0,
        "transform": IDENTITY,
        "edge_fraction": 0.1,
        "sha256": "00",
    }
    named = {"class" if name == "cls" else name: value for name, value in values.items()}
    return ContourRow.model_validate(row | named)


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
