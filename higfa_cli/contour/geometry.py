"""The maths of a contour transform, in centred coordinates: x right, y down, both in [-0.5, 0.5].

A point goes through flip, stretch, rotation, scale and translation, then through the perspective
(together one 3x3 homography), and last through the optional thin-plate warp.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Shift = tuple[float, float]
CORNERS: tuple[Shift, ...] = ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))
_KNOT_LINE = (-0.5, -1 / 6, 1 / 6, 0.5)
KNOTS: tuple[Shift, ...] = tuple((x, y) for y in _KNOT_LINE for x in _KNOT_LINE)
_INVERSION_ROUNDS = 30


def similarity(
    flip: bool, stretch: float, rotation: float, scale: float, dx: float, dy: float
) -> np.ndarray:
    """3x3 matrix: flip, then width/height stretch, rotation, isotropic scale, translation.

    `rotation` in degrees, counter-clockwise as seen on the picture; `stretch` is the factor by
    which width grows against height (area kept; 1: a true similarity).
    """
    angle = np.deg2rad(rotation)
    cos, sin = np.cos(angle), np.sin(angle)
    # y points down, so the counter-clockwise turn that a viewer sees has the signs swapped.
    turn = np.array([[cos, sin], [-sin, cos]])
    axes = np.diag([np.sqrt(stretch) * (-1.0 if flip else 1.0), 1 / np.sqrt(stretch)])
    matrix = np.eye(3)
    matrix[:2, :2] = scale * turn @ axes
    matrix[:2, 2] = dx, dy
    return matrix


def perspective(corners: Sequence[Shift]) -> np.ndarray:
    """3x3 homography that moves the picture's four corners by `corners` (order of CORNERS)."""
    rows, targets = [], []
    for (x, y), (shift_x, shift_y) in zip(CORNERS, corners, strict=True):
        u, v = x + shift_x, y + shift_y
        rows.append([x, y, 1, 0, 0, 0, -u * x, -u * y])
        rows.append([0, 0, 0, x, y, 1, -v * x, -v * y])
        targets += [u, v]
    solution = np.linalg.solve(np.array(rows), np.array(targets))
    return np.append(solution, 1.0).reshape(3, 3)


def project(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points [N,2] through a homography [3,3]."""
    lifted = points @ matrix[:, :2].T + matrix[:, 2]
    return lifted[:, :2] / lifted[:, 2:]


def anisotropy(matrix: np.ndarray, grid: int = 5) -> float:
    """Largest ratio of singular values of the homography's Jacobian on a grid in the picture.

    1 for a similarity; 1.03 means that some place is stretched by 3 % along one axis against the
    other. Infinite where the homography folds or passes infinity.
    """
    line = np.linspace(-0.5, 0.5, grid)
    points = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    depth = points @ matrix[2, :2] + matrix[2, 2]
    if depth.min() <= 0:
        return float("inf")
    mapped = project(matrix, points)
    # Quotient rule: d(n/w) = (dn - (n/w) dw) / w.
    jacobians = (matrix[None, :2, :2] - mapped[:, :, None] * matrix[None, 2:, :2]) / depth[
        :, None, None
    ]
    values = np.linalg.svd(jacobians, compute_uv=False)
    return float((values[:, 0] / values[:, 1]).max())


class ThinPlate:
    """Displacement field that interpolates the shifts of the 4x4 KNOTS with least bending."""

    def __init__(self, shifts: Sequence[Shift]) -> None:
        knots = np.array(KNOTS)
        count = len(knots)
        affine = np.hstack([np.ones((count, 1)), knots])
        system = np.zeros((count + 3, count + 3))
        system[:count, :count] = _kernel(knots, knots)
        system[:count, count:] = affine
        system[count:, :count] = affine.T
        targets = np.vstack([np.array(shifts, dtype=float), np.zeros((3, 2))])
        self._weights = np.linalg.solve(system, targets)

    def shift(self, points: np.ndarray) -> np.ndarray:
        """Displacement [N,2] at points [N,2]; outside the picture that of the nearest border."""
        points = np.clip(points, -0.5, 0.5)
        affine = np.hstack([np.ones((len(points), 1)), points])
        return np.hstack([_kernel(points, np.array(KNOTS)), affine]) @ self._weights

    def forward(self, points: np.ndarray) -> np.ndarray:
        """Where points [N,2] go: the y with y + shift(y) = point, by fixed-point iteration.

        Converges because `steepness` is kept below 1 when the shifts are drawn.
        """
        origins = points
        for _ in range(_INVERSION_ROUNDS):
            origins = points - self.shift(origins)
        return origins

    def steepness(self, grid: int = 17) -> float:
        """Largest change of the displacement per distance, over neighbours of a grid."""
        line = np.linspace(-0.5, 0.5, grid)
        points = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
        field = self.shift(points).reshape(grid, grid, 2)
        step = line[1] - line[0]
        along_x = np.diff(field, axis=1)[:-1] / step
        along_y = np.diff(field, axis=0)[:, :-1] / step
        jacobians = np.stack([along_x, along_y], axis=-1)
        return float(np.linalg.norm(jacobians, ord=2, axis=(-2, -1)).max())


def _kernel(points: np.ndarray, knots: np.ndarray) -> np.ndarray:
    squared = ((points[:, None] - knots[None]) ** 2).sum(axis=-1)
    # r^2 log r^2, which is 0 at r = 0.
    return squared * np.log(np.maximum(squared, 1e-300))
