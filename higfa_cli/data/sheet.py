"""Sheets of small pictures with their labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

CAPTION = 14
TILE = 128


def tile(label: str, pixels: np.ndarray | None = None) -> Image.Image:
    """A picture with its label below, or the label alone."""
    picture = Image.new("RGB", (TILE, TILE + CAPTION), "white")
    if pixels is not None:
        picture.paste(Image.fromarray(pixels).resize((TILE, TILE), Image.Resampling.BICUBIC))
    top = TILE // 2 if pixels is None else TILE + 1
    ImageDraw.Draw(picture).text((2, top), label[:22], fill="black")
    return picture


def sheet(rows: Sequence[Sequence[Image.Image]]) -> np.ndarray:
    """Rows of tiles as one picture."""
    width = max(len(row) for row in rows)
    picture = Image.new("RGB", (width * TILE, len(rows) * (TILE + CAPTION)), "white")
    for y, row in enumerate(rows):
        for x, each in enumerate(row):
            picture.paste(each, (x * TILE, y * (TILE + CAPTION)))
    return np.asarray(picture)
