"""Contours for training: Canny and soft edges with random settings and small degradations."""

from __future__ import annotations

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
    out = contours.clone()
    draws = torch.rand(n, 3, 4, generator=generator)
    lose = torch.rand(n, generator=generator) < 0.5
    shift = torch.randint(-1, 2, (n, 2), generator=generator)
    move = torch.rand(n, generator=generator) < 1 / 3
    for i in range(n):
        if move[i]:
            out[i] = torch.roll(out[i], (int(shift[i, 0]), int(shift[i, 1])), dims=(1, 2))
        if lose[i]:
            for y, x, tall, wide in draws[i].tolist():
                top, left = int(y * height), int(x * width)
                bottom, right = top + 2 + int(tall * height / 5), left + 2 + int(wide * width / 5)
                out[i, :, top:bottom, left:right] = 0
    return out
