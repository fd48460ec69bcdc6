"""Strips: the same items under several arms, one line of pictures per arm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

GAP, LINE = 2, 12
# Roughly, of Pillow's default font.
LETTER = 6


def strip(
    rows: Sequence[tuple[str, Tensor]],
    heads: Sequence[str],
    feet: Sequence[Sequence[str]] = (),
    scale: int = 1,
) -> Image.Image:
    """Pictures in lines, each line named on its left, each column above.

    Args:
        rows: name and uint8 pictures [n, 3, S, S], or contours [n, S, S]; all of one n and S.
        heads: n names of the columns.
        feet: n lists of lines of text below the columns.
        scale: whole-number enlargement of the pictures.

    Raises:
        ValueError: rows of another number or size than the first, or other numbers of names.
    """
    count, side = len(heads), rows[0][1].shape[-1]
    for name, pictures in rows:
        if len(pictures) != count or pictures.shape[-1] != side:
            raise ValueError(f"row {name}: {tuple(pictures.shape)} for {count} columns of {side}")
    if feet and len(feet) != count:
        raise ValueError(f"{len(feet)} lists of text below {count} columns")
    cell = side * scale + GAP
    left = LETTER * max(len(name) for name, _ in rows) + 2 * GAP
    below = LINE * max((len(lines) for lines in feet), default=0)
    sheet = Image.new("RGB", (left + count * cell, LINE + len(rows) * cell + below), "white")
    pen = ImageDraw.Draw(sheet)
    shown = cell // LETTER
    for column, head in enumerate(heads):
        pen.text((left + column * cell, 0), head[:shown], fill="black")
    for line, (name, pictures) in enumerate(rows):
        top = LINE + line * cell
        pen.text((GAP, top + cell // 2 - LINE // 2), name, fill="black")
        for column, picture in enumerate(pictures):
            sheet.paste(_tile(picture, scale), (left + column * cell, top))
    for column, lines in enumerate(feet):
        for number, text in enumerate(lines):
            place = (left + column * cell, LINE + len(rows) * cell + number * LINE)
            pen.text(place, text[:shown], fill="black")
    return sheet


def save(sheet: Image.Image, path: Path) -> None:
    """Write a PNG; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)


def _tile(picture: Tensor, scale: int) -> Image.Image:
    if picture.dim() == 2:
        picture = picture.expand(3, -1, -1)
    tile = Image.fromarray(torch.as_tensor(picture).permute(1, 2, 0).contiguous().numpy())
    return tile.resize((tile.width * scale, tile.height * scale), Image.Resampling.NEAREST)
