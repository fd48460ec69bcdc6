"""Files of public datasets in their authors' formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import savemat


def put(root: Path, *keys: str) -> None:
    """Photos; listing never opens them."""
    for key in keys:
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(b"photo")


def lines(path: Path, *text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(text) + "\n")


def cells(*texts: str) -> np.ndarray:
    """A MATLAB cell array, n x 1."""
    array = np.empty((len(texts), 1), dtype=object)
    array[:, 0] = texts
    return array


def mat(path: Path, **content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, content)


def car_annotations(
    path: Path, *rows: tuple[str, int], box: tuple[int, int, int, int] = (30, 52, 246, 147)
) -> None:
    fields = [(name, object) for name in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")]
    records = np.zeros((1, len(rows)), dtype=[*fields, ("class", object), ("fname", object)])
    for index, (name, label) in enumerate(rows):
        records[0, index] = (*box, label, name)
    mat(path, annotations=records)


def dog_list(path: Path, *rows: tuple[str, float]) -> None:
    labels = np.array([[label] for _, label in rows])
    mat(path, file_list=cells(*(name for name, _ in rows)), labels=labels)
