"""Geometric transforms of contours, each fully described by its record."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from higfa_cli.artifacts.rows import TransformRecord
from higfa_cli.contour.geometry import (
    CORNERS,
    KNOTS,
    Shift,
    ThinPlate,
    anisotropy,
    perspective,
    project,
    similarity,
)
from higfa_cli.recipe.contours import Transforms

# Steeper thin-plate warps come close to folding the picture over itself.
_STEEPEST = 0.6
_BISECTIONS = 24
# Soft contours are warped at this multiple of the size and averaged down, against aliasing.
_SUPERSAMPLING = 2
# Far outside the picture all the same, and no overflow in cv2's integers.
_FAR = 1e6


IDENTITY = TransformRecord(
    flip=False,
    rotation=0.0,
    scale=1.0,
    dx=0.0,
    dy=0.0,
    corners=((0.0, 0.0), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0)),
    stretch=1.0,
    elastic=(),
)


def homography(record: TransformRecord) -> np.ndarray:
    """The 3x3 homography of all parts but the thin-plate warp, in centred coordinates."""
    base = similarity(
        record.flip, record.stretch, record.rotation, record.scale, record.dx, record.dy
    )
    return perspective(record.corners) @ base


def draw_transform(transforms: Transforms, rng: np.random.Generator) -> TransformRecord:
    """Draw one transform.

    Every part is drawn uniformly (scale and stretch in the logarithm) and takes the same number
    of random values whatever the settings, so that changing one key changes that part alone. The
    corner shifts are then shrunk until no place in the picture changes its aspect ratio by more
    than `transforms.aspect`, and the knots' until the warp is far from folding.
    """
    flip = bool(rng.random() < transforms.flip)
    rotation = _symmetric(rng) * transforms.rotation
    low, high = transforms.scale
    scale = float(low * (high / low) ** rng.random())
    dx = _symmetric(rng) * transforms.translation
    dy = _symmetric(rng) * transforms.translation
    corners = _shifts(rng, len(CORNERS), transforms.perspective)
    stretch = (1 + transforms.anisotropic) ** _symmetric(rng)
    knots = _shifts(rng, len(KNOTS), transforms.elastic)
    base = similarity(flip, 1.0, rotation, scale, dx, dy)

    def keeps_aspect(shifts: tuple[Shift, ...]) -> bool:
        return anisotropy(perspective(shifts) @ base) <= 1 + transforms.aspect

    return TransformRecord(
        flip=flip,
        rotation=rotation,
        scale=scale,
        dx=dx,
        dy=dy,
        corners=_shrink(corners, keeps_aspect),
        stretch=stretch,
        elastic=()
        if transforms.elastic == 0
        else _shrink(knots, lambda shifts: ThinPlate(shifts).steepness() <= _STEEPEST),
    )


def _symmetric(rng: np.random.Generator) -> float:
    return float(rng.uniform(-1.0, 1.0))


def _shifts(rng: np.random.Generator, count: int, largest: float) -> tuple[Shift, ...]:
    return tuple((_symmetric(rng) * largest, _symmetric(rng) * largest) for _ in range(count))


def _shrink(
    shifts: tuple[Shift, ...], allowed: Callable[[tuple[Shift, ...]], bool]
) -> tuple[Shift, ...]:
    """The shifts times the largest factor in [0, 1] (by bisection) that is allowed."""

    def scaled(factor: float) -> tuple[Shift, ...]:
        return tuple((x * factor, y * factor) for x, y in shifts)

    if allowed(shifts):
        return shifts
    good, bad = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (good + bad) / 2
        if allowed(scaled(middle)):
            good = middle
        else:
            bad = middle
    return scaled(good)


def apply_transform(contour: np.ndarray, record: TransformRecord) -> np.ndarray:
    """Transform a square contour, SxS uint8, to SxS uint8; what comes in from outside is black.

    A contour of only 0 and 255 (Canny) is redrawn as lines one pixel wide between the moved
    edge pixels, so it stays crisp and binary; any other (soft) is resampled and stays graded.
    The same contour and record always give the same bytes; the identity gives the contour itself.
    """
    if contour.ndim != 2 or contour.shape[0] != contour.shape[1]:
        raise ValueError(f"a contour must be a square single-channel array, got {contour.shape}")
    if record.flip:
        # Exact, where resampling would be exact only up to rounding.
        contour = contour[:, ::-1].copy()
    # The matrix flips first, so undoing its flip leaves the rest.
    matrix = homography(record) @ np.diag([-1.0 if record.flip else 1.0, 1.0, 1.0])
    plate = ThinPlate(record.elastic) if record.elastic else None
    if plate is None and np.array_equal(matrix, np.eye(3)):
        return contour.copy()
    if bool(np.isin(contour, (0, 255)).all()):
        return _redraw(contour, matrix, plate)
    return _resample(contour, matrix, plate)


def _redraw(contour: np.ndarray, matrix: np.ndarray, plate: ThinPlate | None) -> np.ndarray:
    """Move the edge pixels and join those that were neighbours by one-pixel lines."""
    size = contour.shape[0]
    canvas = np.zeros_like(contour)
    rows, columns = np.nonzero(contour)
    if len(rows) == 0:
        return canvas
    points = project(matrix, (np.stack([columns, rows], axis=1) + 0.5) / size - 0.5)
    if plate is not None:
        points = plate.forward(points)
    pixels = np.rint(np.clip((points + 0.5) * size - 0.5, -_FAR, _FAR)).astype(np.int32)
    segments = pixels[_links(contour, rows, columns)]
    cv2.polylines(canvas, list(segments), isClosed=False, color=255, lineType=cv2.LINE_8)
    return canvas


def _links(contour: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Pairs [L,2] of indices of neighbouring edge pixels; a lone pixel pairs with itself.

    Diagonal neighbours are joined only where no straight neighbour joins them already: the
    shortcut across a step would thicken the line.
    """
    padded = np.pad(contour > 0, 1)
    index = np.full(padded.shape, -1)
    index[rows + 1, columns + 1] = np.arange(len(rows))

    def pairs(down: int, right: int) -> np.ndarray:
        here = index[rows + 1, columns + 1]
        there = index[rows + 1 + down, columns + 1 + right]
        joined = there >= 0
        if down and right:
            joined &= ~padded[rows + 1 + down, columns + 1] & ~padded[rows + 1, columns + 1 + right]
        return np.stack([here[joined], there[joined]], axis=1)

    joined_pairs = [pairs(0, 1), pairs(1, 0), pairs(1, 1), pairs(1, -1)]
    alone = np.setdiff1d(np.arange(len(rows)), np.concatenate(joined_pairs).ravel())
    return np.concatenate([*joined_pairs, np.stack([alone, alone], axis=1)])


def _resample(contour: np.ndarray, matrix: np.ndarray, plate: ThinPlate | None) -> np.ndarray:
    """Look every output pixel up in the input, at a finer grid that is then averaged."""
    size = contour.shape[0]
    fine = size * _SUPERSAMPLING
    points = _pixel_centres(fine)
    if plate is not None:
        # Smooth, and dear to evaluate: once per pixel is enough.
        shifts = plate.shift(_pixel_centres(size)).reshape(size, size, 2)
        points = points + cv2.resize(shifts, (fine, fine)).reshape(-1, 2)
    source = (project(np.linalg.inv(matrix), points) + 0.5) * size - 0.5
    across, down = source.astype(np.float32).T.reshape(2, fine, fine)
    warped = cv2.remap(
        contour, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0
    )
    return cv2.resize(warped, (size, size), interpolation=cv2.INTER_AREA)


def _pixel_centres(side: int) -> np.ndarray:
    """[side*side, 2] points, row by row, in centred coordinates."""
    line = (np.arange(side) + 0.5) / side - 0.5
    return np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
