"""Strips: the same items under several arms, a line of pictures each; the worst by jury."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from higfa_cli.artifacts.rows import TraceRow
from tools.pocket.lab.samples import Samples
from tools.pocket.lab.scores import Score

GAP, LINE = 2, 12
# Roughly, of Pillow's default font.
LETTER = 6
WORST = 10


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


def worst_items(score: Score, count: int = WORST) -> list[int]:
    """Positions of the drawn pictures with the lowest jury log p of their class, lowest first."""
    failed = score.pictures.failed
    order = score.target_log_p.masked_fill(failed, torch.inf).argsort().tolist()
    return [index for index in order if not failed[index]][:count]


def worst(samples: Samples, before: Score, score: Score) -> list[dict[str, Any]]:
    """One row per worst picture, from the instruments and from its trace at the guided steps."""
    rows = []
    for index in worst_items(score):
        choice, earlier = (int(each.log_p[index].argmax()) for each in (score, before))
        p, pictures = score.log_p[index].exp(), score.pictures
        label = int(pictures.labels[index])
        rows.append(
            {
                "index": index,
                "id": samples.items[index].id,
                "class": samples.classes[label],
                "jury_says": samples.classes[choice],
                "jury_p_of_that": round(float(p[choice]), 3),
                "jury_p": round(float(p[label]), 4),
                "text_contour_says": samples.classes[earlier],
                "guide_p": round(float(pictures.guide_p[index]), 3),
                "right_before": bool(before.hits[index]),
                **guided_steps(pictures.traces[index]),
            }
        )
    return rows


def guided_steps(trace: TraceRow) -> dict[str, list[float]]:
    """The trace's p and strengths at the steps at which the guide was consulted, 3 digits."""
    on = [number for number, p in enumerate(trace.p) if p is not None]
    return {
        name: [float(f"{getattr(trace, name)[number]:.3g}") for number in on]
        for name in ("p", "s_text", "s_contour", "s_classifier")
    }


def of_worst(
    samples: Samples, before: Score, score: Score, rows: Sequence[Mapping[str, Any]]
) -> Image.Image:
    """Photo, contour, text + contour and HiGFA of the worst, and what the jury says of them."""
    chosen = torch.tensor([row["index"] for row in rows])
    lines = [
        ("photo", samples.photos()[chosen]),
        ("contour", score.pictures.contours[chosen]),
        ("text + contour", before.pictures.pictures[chosen]),
        ("HiGFA", score.pictures.pictures[chosen]),
    ]
    feet = [
        [f"jury: {row['jury_says']} {row['jury_p_of_that']:.2f}", f"guide: {row['guide_p']:.2f}"]
        for row in rows
    ]
    return strip(lines, [row["class"] for row in rows], feet, scale=2)
