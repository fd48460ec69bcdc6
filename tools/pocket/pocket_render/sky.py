"""Backgrounds: a graded sky with soft cloud noise and, in some pictures, ground below."""

from __future__ import annotations

import numpy as np

from tools.pocket.pocket_render.views import GROUNDS, SEALED_GROUNDS, SEALED_SKIES, SKIES, View


def _octave(rng: np.random.Generator, size: int, cells_y: int, cells_x: int) -> np.ndarray:
    """Smoothly interpolated random values in 0..1 on a grid of cells, [size, size]."""
    grid = rng.random((cells_y + 2, cells_x + 2))
    ys = np.linspace(0, cells_y, size, endpoint=False) + rng.random()
    xs = np.linspace(0, cells_x, size, endpoint=False) + rng.random()
    y0, x0 = ys.astype(int), xs.astype(int)
    fy, fx = ys - y0, xs - x0
    fy, fx = (fy * fy * (3 - 2 * fy))[:, None], (fx * fx * (3 - 2 * fx))[None, :]
    top = grid[y0][:, x0] * (1 - fx) + grid[y0][:, x0 + 1] * fx
    bottom = grid[y0 + 1][:, x0] * (1 - fx) + grid[y0 + 1][:, x0 + 1] * fx
    return np.asarray(top * (1 - fy) + bottom * fy)


def cloud_noise(rng: np.random.Generator, size: int) -> np.ndarray:
    """Fractal value noise in about 0..1, stretched sideways as clouds are, [size, size]."""
    total, weight = np.zeros((size, size)), 0.0
    for level, share in enumerate((1.0, 0.5, 0.25, 0.12)):
        cells = 2 ** (level + 1)
        total += share * _octave(rng, size, int(cells * 1.5), cells)
        weight += share
    return total / weight


def background(view: View, size: int) -> np.ndarray:
    """The picture behind the aircraft as float RGB in 0..255, [size, size, 3]."""
    rng = np.random.default_rng(view.noise_seed)
    sky = {**SKIES, **SEALED_SKIES}[view.sky]
    depth = (np.linspace(0, 1, size) ** 1.3)[:, None, None]
    jitter = rng.normal(0, 4, 3)
    picture = np.array(sky.top) * (1 - depth) + np.array(sky.horizon) * depth + jitter
    picture = np.broadcast_to(picture, (size, size, 3)).copy()
    edge = 0.72 - 0.4 * view.cover
    cloud = np.clip((cloud_noise(rng, size) - edge) / 0.3, 0, 1)[..., None] ** 1.2
    picture += 0.85 * cloud * (np.array(sky.cloud) - picture)
    if view.ground is not None:
        _paint_ground(picture, view, rng)
    return picture


def _paint_ground(picture: np.ndarray, view: View, rng: np.random.Generator) -> None:
    """Cover everything below the horizon, hazier towards it, in place."""
    size = picture.shape[0]
    sky = {**SKIES, **SEALED_SKIES}[view.sky]
    ground = {**GROUNDS, **SEALED_GROUNDS}[str(view.ground)]
    rows = np.arange(size) + 0.5 - view.horizon * size
    cover = np.clip(rows + 0.5, 0, 1)[:, None, None]
    haze = np.exp(-np.clip(rows, 0, None) / (0.06 * size))[:, None, None] * 0.45
    grain = _octave(rng, size, size // 4, size // 12)[..., None] - 0.5
    tint = np.array(ground.colour) * np.array(sky.sun) + rng.normal(0, 5, 3)
    painted = tint + grain * ground.grain
    painted = painted * (1 - haze) + np.array(sky.horizon) * haze
    picture += cover * (painted - picture)
