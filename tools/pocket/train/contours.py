"""Contours for training: Canny and soft edges with random settings and small degradations."""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np
import torch


def canny(
    image: np.ndarray, low: float = 50, high: float = 120, blur: float = 0.8, l2: bool = True
) -> np.ndarray:
    """Canny edges of a uint8 RGB image (height, width, 3) as uint8 (height, width), 0 or 255.

    The defaults are those of higfa's contour stage. `l2` takes the gradient's Euclidean norm.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if blur > 0:
        grey = cv2.GaussianBlur(grey, (0, 0), blur, borderType=cv2.BORDER_REPLICATE)
    return cv2.Canny(grey, low, high, L2gradient=l2)


def soft_edges(image: np.ndarray, blur: float, gain: float) -> np.ndarray:
    """Gradient magnitude of a uint8 RGB image as uint8; `gain` 1 is as in higfa's contour stage.

    The 99th percentile (at least 8 grey levels per pixel) is white; gamma 0.8.
    """
    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), blur)
    dx = cv2.Sobel(smooth, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 8)
    dy = cv2.Sobel(smooth, cv2.CV_32F, 0, 1, ksize=3, scale=1 / 8)
    magnitude = np.hypot(dx, dy).max(axis=2)
    white = max(float(np.percentile(magnitude, 99)), 8.0)
    return (np.clip(magnitude / white * gain, 0, 1) ** 0.8 * 255).astype(np.uint8)


def random_contour(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One contour of a uint8 RGB image, its settings drawn from `rng`.

    45 % Canny near the contour stage's defaults, 25 % Canny with any settings, 30 % soft edges.
    """
    kind = rng.random()
    if kind < 0.45:
        return canny(image, rng.uniform(40, 60), rng.uniform(100, 140), rng.uniform(0.6, 1.0))
    if kind < 0.7:
        low = rng.uniform(30, 130)
        blur = float(rng.choice([0.0, 0.6, 1.0]))
        return canny(image, low, low * rng.uniform(1.5, 3), blur, l2=bool(rng.random() < 0.5))
    return soft_edges(image, blur=rng.uniform(0.5, 1.0), gain=rng.uniform(0.6, 1.2))


def degrade(contours: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Contours (n, 1, height, width) in [0, 1] with dropped pieces and a one-pixel shift.

    Half of them lose up to three rectangles of edges; a third move by one pixel. Transformed
    contours then lie inside what the ControlNet has seen.
    """
    n, _, height, width = contours.shape
    device = contours.device
    rand = partial(torch.rand, generator=generator, device=device)
    draws = rand(n, 3, 4)
    lose = rand(n) < 0.5
    shift = torch.randint(-1, 2, (n, 2), generator=generator, device=device)
    shift = torch.where(rand(n, 1) < 1 / 3, shift, 0)
    rows = (torch.arange(height, device=device) - shift[:, :1]) % height
    columns = (torch.arange(width, device=device) - shift[:, 1:]) % width
    pick = torch.arange(n, device=device)[:, None, None]
    moved = contours[:, 0][pick, rows[:, :, None], columns[:, None, :]][:, None]
    return moved.masked_fill(_rectangles(draws, height, width) & lose[:, None, None, None], 0)


def _rectangles(draws: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Where the rectangles of draws (n, 3, 4) = (y, x, tall, wide) in [0, 1) lie, (n, 1, h, w)."""
    y, x, tall, wide = draws.unbind(-1)
    inside = []
    for start, extent, side in ((y, tall, height), (x, wide, width)):
        first = (start * side).long()[..., None]
        past = first + 2 + (extent * side / 5).long()[..., None]
        place = torch.arange(side, device=draws.device)
        inside.append((place >= first) & (place < past))
    return (inside[0][..., :, None] & inside[1][..., None, :]).any(dim=1, keepdim=True)
