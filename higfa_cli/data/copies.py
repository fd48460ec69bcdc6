"""Photos that are one photo: the same bytes, or nearly the same picture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
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
# Sets of so few thumbnails are compared each with each; axes along which larger ones are parted,
# and how much larger both parts together may be.
_FEW, _AXES, _OVERLAP = 256, 24, 1.25
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
    contrast = vectors - vectors.mean(axis=1, keepdims=True)
    least = _LEAST_CONTRAST * vectors.shape[1] ** 0.5
    spans = np.maximum(np.linalg.norm(contrast, axis=1), least)
    vectors -= vectors.mean(axis=0)
    for rows in neighbourhoods(contrast / spans[:, None]):
        part, limits = vectors[rows], _NEAR * spans[rows]
        squares = (part**2).sum(axis=1)
        for start in range(0, len(rows), _CHUNK):
            few = slice(start, start + _CHUNK)
            distances = squares[few, None] + squares - 2 * part[few] @ part.T
            # Rounding: candidates are measured again.
            for i, j in np.argwhere(distances <= 1.1 * limits[few, None] ** 2 + 8):
                if start + i < j:
                    apart = float(np.linalg.norm(part[start + i] - part[j]))
                    if apart <= min(limits[start + i], limits[j]):
                        yield int(rows[start + i]), int(rows[j])


def neighbourhoods(points: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of [N, D] in sets of few: two rows at most `_NEAR` apart are together in one.

    A set is cut in two at the middle of its longest axis, and both halves keep what lies near the
    cut, so the sets together are a few times N unless most rows are near one another.
    """
    import numpy as np

    pending = [np.arange(len(points))]
    if len(points) > _FEW:
        sample = points[:: len(points) // _FEW]
        _, axes = np.linalg.eigh(np.cov(sample, rowvar=False))
        points = points @ axes[:, -_AXES:]
    while pending:
        rows = pending.pop()
        part = points[rows]
        along = part[:, part.var(axis=0).argmax()]
        middle = np.median(along)
        halves = rows[along <= middle + _NEAR * 0.51], rows[along >= middle - _NEAR * 0.51]
        if len(rows) <= _FEW or sum(map(len, halves)) > _OVERLAP * len(rows):
            yield rows
        else:
            pending += halves


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
