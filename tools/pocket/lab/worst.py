"""The worst pictures by jury, and what their traces say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from tools.pocket.lab.laboratory import Instruments
from tools.pocket.lab.samples import photos_of
from tools.pocket.lab.scores import Score
from tools.pocket.lab.strips import strip

WORST = 10


def worst_items(score: Score, count: int = WORST) -> list[int]:
    """Positions of the drawn pictures with the lowest jury log p of their class, lowest first."""
    order = score.own_log_p.masked_fill(score.drawings.failed, torch.inf).argsort().tolist()
    return [index for index in order if not score.drawings.failed[index]][:count]


def describe(instruments: Instruments, before: Score, score: Score) -> list[dict[str, Any]]:
    """One row per worst picture, from the instruments and from its trace at the guided steps."""
    classes, rows = instruments.samples.classes, []
    for index in worst_items(score):
        choice, earlier = (int(one.log_p[index].argmax()) for one in (score, before))
        p = score.log_p[index].exp()
        label, guide_p = int(score.drawings.labels[index]), float(score.drawings.guide_p[index])
        rows.append(
            {
                "index": index,
                "id": instruments.samples.items[index].id,
                "class": classes[label],
                "jury_says": classes[choice],
                "jury_p_of_that": round(float(p[choice]), 3),
                "jury_p": round(float(p[label]), 4),
                "text_contour_says": classes[earlier],
                "guide_p": round(guide_p, 3),
                "right_before": bool(before.hits[index]),
                **guided_steps(score.drawings.traces[index]),
            }
        )
    return rows


def guided_steps(trace: Mapping[str, Sequence[float | None]]) -> dict[str, list[float]]:
    """The trace's p and strengths at the steps at which the guide was consulted, 3 digits."""
    on = [number for number, p in enumerate(trace["p"]) if p is not None]
    return {
        name: [float(f"{trace[name][number]:.3g}") for number in on]
        for name in ("p", "s_text", "s_contour", "s_classifier")
    }


def picture(
    instruments: Instruments, before: Score, score: Score, rows: Sequence[Mapping[str, Any]]
) -> Image.Image:
    """Photo, contour, text + contour and HiGFA of the worst, and what the jury says of them."""
    chosen = torch.tensor([row["index"] for row in rows])
    lines = [
        ("photo", photos_of(instruments.samples)[chosen]),
        ("contour", score.drawings.contours[chosen]),
        ("text + contour", before.drawings.pictures[chosen]),
        ("HiGFA", score.drawings.pictures[chosen]),
    ]
    feet = [
        [f"jury: {row['jury_says']} {row['jury_p_of_that']:.2f}", f"guide: {row['guide_p']:.2f}"]
        for row in rows
    ]
    return strip(lines, [row["class"] for row in rows], feet, scale=2)
