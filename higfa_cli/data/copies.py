"""Photos that are one photo: the same bytes, or nearly the same picture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from higfa_cli.data.layouts.common import Row
from higfa_cli.data.rejected import file_state
from higfa_cli.text import plural

if TYPE_CHECKING:
    import numpy as np

_SIDE = 8
# Of a thumbnail's contrast. JPEG of quality 50, or half the size, changes 19 of 20 photos less; of
# 300 photos of parked airliners no two are nearer than 0.15.
_NEAR = 0.1
# Grey levels; below, what differs may be noise alone.
_LEAST_CONTRAST = 4.0
_CHUNK = 1024
_SHOWN = 3

Groups = list[list[Row]]


def thumbnail(image: np.ndarray) -> np.ndarray:
    """What nearly equal pictures (HxWx3 uint8) have in common: [192] float32."""
    import numpy as np

    from higfa_cli.data.images import shrink

    return shrink(image, _SIDE).astype(np.float32).ravel()


def copies(
    rows: Sequence[Row], states: Sequence[str], thumbnails: Sequence[np.ndarray] = ()
) -> Groups:
    """Groups of two and more rows whose files have one state, or near thumbnails."""
    leader = list(range(len(rows)))

    def first(index: int) -> int:
        while leader[index] != index:
            leader[index] = index = leader[leader[index]]
        return index

    seen: dict[str, int] = {}
    equal = [(index, seen.setdefault(state, index)) for index, state in enumerate(states)]
    for one, other in (*equal, *_near(thumbnails)):
        low, high = sorted((first(one), first(other)))
        leader[high] = low
    groups: dict[int, list[Row]] = defaultdict(list)
    for index, row in enumerate(rows):
        groups[first(index)].append(row)
    return [group for group in groups.values() if len(group) > 1]


def notes(root: Path, rows: Sequence[Row]) -> list[str]:
    """`told` of the photos whose bytes are equal. A file is read once per process."""
    return told(copies(rows, [file_state(root / row.key) for row in rows]))


def _near(thumbnails: Sequence[np.ndarray]) -> Iterable[tuple[int, int]]:
    """Pairs of nearly equal thumbnails."""
    if not len(thumbnails):
        return
    import numpy as np

    vectors = np.stack(thumbnails)
    limits = _NEAR * np.maximum(vectors.std(axis=1), _LEAST_CONTRAST) * vectors.shape[1] ** 0.5
    vectors -= vectors.mean(axis=0)
    squares = (vectors**2).sum(axis=1)
    for start in range(0, len(vectors), _CHUNK):
        part = vectors[start : start + _CHUNK]
        rest = slice(start, None)
        distances = (
            squares[start : start + _CHUNK, None] + squares[rest] - 2 * part @ vectors[rest].T
        )
        # Rounding: candidates are measured again.
        for i, j in np.argwhere(distances <= 1.1 * limits[start : start + _CHUNK, None] ** 2 + 8):
            if i < j:
                apart = float(np.linalg.norm(part[i] - vectors[start + j]))
                if apart <= min(limits[start + i], limits[start + j]):
                    yield start + int(i), start + int(j)


def leaked(groups: Groups) -> Groups:
    """Groups with a photo to test on among those to train on (train or val)."""
    return [group for group in groups if len({row.split == "test" for row in group}) > 1]


def contradictory(groups: Groups) -> Groups:
    """Groups with photos of several classes."""
    return [group for group in groups if len({row.cls for row in group}) > 1]


def told(groups: Groups) -> list[str]:
    """Sentences for people on what a user may not expect; none where all is well."""
    sentences = []
    if leaks := leaked(groups):
        tests = sum(row.split == "test" for group in leaks for row in group)
        sentences.append(
            f"{plural(tests, 'test photo is', 'test photos are')} among the training or "
            f"validation photos too ({_pairs(leaks)}): accuracy is too high by that"
        )
    if several := contradictory(groups):
        count = sum(map(len, several))
        sentences.append(
            f"{plural(count, 'photo')} with two classes ({_pairs(several)}): one must be wrong"
        )
    return sentences


def _pairs(groups: Groups) -> str:
    keys = [sorted(row.key for row in group) for group in groups[:_SHOWN]]
    shown = [f"{first} = {last}" for first, *_, last in keys]
    return ", ".join([*shown, "..."] if len(groups) > _SHOWN else shown)
