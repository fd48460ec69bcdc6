"""The sheet of stage `contours`: photo, contour and moved contour, what was left out first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

from PIL import Image

from higfa_cli.artifacts.rows import ContourRow, RejectedRow
from higfa_cli.artifacts.seeds import seed_for
from higfa_cli.artifacts.workspace import ContoursFolder
from higfa_cli.contour.extract import extract
from higfa_cli.data.dataset import Sample
from higfa_cli.data.images import encode_png, fit_square, read_image
from higfa_cli.data.sheet import TILE, sheet, tile
from higfa_cli.recipe.schema import Recipe

Row = TypeVar("Row", ContourRow, RejectedRow)
# Photos on the sheet, those side by side, and how many of the least and of the most edges.
_MOST, _ACROSS, _EXTREMES = 48, 4, 6


def contour_sheet(
    recipe: Recipe,
    files: ContoursFolder,
    samples: Sequence[Sample],
    rows: Sequence[ContourRow],
    edgeless: Sequence[RejectedRow],
) -> bytes:
    """PNG bytes: photos that gave none (at most half), then those of least and of most edges.

    The rest are spread over the classes.
    """
    by_key = {sample.key: sample for sample in samples}
    entries = [
        _entry(recipe, files, by_key[row.key], row.reason, None)
        for row in _by_turns(edgeless, recipe.seed)[: _MOST // 2]
    ]
    for row in _chosen(rows, recipe.seed)[: _MOST - len(entries)]:
        entries.append(
            _entry(recipe, files, by_key[row.source], f"edges {row.edge_fraction:.3f}", row)
        )
    lines = [entries[start : start + _ACROSS] for start in range(0, len(entries), _ACROSS)]
    return encode_png(sheet([[each for entry in line for each in entry] for line in lines]))


def _chosen(rows: Sequence[ContourRow], seed: int) -> list[ContourRow]:
    """One contour of each photo: the extremes, then the others by turns of their classes."""
    first = sorted((row for row in rows if row.index == 0), key=lambda row: row.edge_fraction)
    extremes = [*first[:_EXTREMES], *first[_EXTREMES:][-_EXTREMES:]]
    return extremes + _by_turns(first[_EXTREMES:-_EXTREMES], seed)


def _by_turns(rows: Sequence[Row], seed: int) -> list[Row]:
    """Every class once before any class twice."""
    seen: Counter[str] = Counter()
    turns: list[tuple[int, int, Row]] = []
    for row in sorted(rows, key=lambda row: seed_for(seed, "sheet", row.plain())):
        turns.append((seen[row.cls], len(turns), row))
        seen[row.cls] += 1
    return [row for _, _, row in sorted(turns, key=lambda turn: turn[:2])]


def _entry(
    recipe: Recipe, files: ContoursFolder, sample: Sample, label: str, row: ContourRow | None
) -> tuple[Image.Image, ...]:
    photo = sample.read()
    contour = extract(photo, recipe.contours, recipe.size)
    moved = None if row is None else read_image(files.directory / row.file_name)
    shown = ((sample.cls, fit_square(photo, TILE)), (label, contour), (sample.path.name, moved))
    return tuple(tile(text, pixels) for text, pixels in shown)
