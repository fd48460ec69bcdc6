"""Contours of photos: thin binary edges (Canny) or graded edges (gradient magnitude)."""

from __future__ import annotations

import cv2
import numpy as np

from higfa_cli.data.images import fit_inside, pad_square
from higfa_cli.recipe.contours import Edges

# The soft extractor maps this percentile of the gradient to white: a few specular highlights
# must not dim all other edges.
_WHITE_PERCENTILE = 99.0
# ... but never less than this gradient (grey levels per pixel), or noise in a plain sky is drawn.
_LEAST_WHITE = 8.0
_GAMMA = 0.8


def canny(image: np.ndarray, low: float, high: float, blur: float) -> np.ndarray:
    """Canny edges of an HxW or HxWx3 uint8 image: HxW uint8, 0 or 255, about one pixel wide.

    `blur` is the std of a Gaussian beforehand, in pixels (0: none); `low` and `high` are the
    hysteresis thresholds on the 3x3 Sobel gradient of 0-255 grey values.
    """
    return cv2.Canny(_smooth(_grey(image), blur), low, high, apertureSize=3, L2gradient=True)


def soft(image: np.ndarray, blur: float) -> np.ndarray:
    """Graded edges of an HxW or HxWx3 uint8 image: HxW uint8, 0..255.

    Magnitude of the Gaussian-smoothed gradient, the largest over the colour channels, scaled by
    its 99th percentile and brightened by a gamma of 0.8.
    """
    smooth = _smooth(image.astype(np.float32), blur)
    # 1/8 makes Sobel's kernel a derivative per pixel.
    dx = cv2.Sobel(smooth, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 8, borderType=cv2.BORDER_REPLICATE)
    dy = cv2.Sobel(smooth, cv2.CV_32F, 0, 1, ksize=3, scale=1 / 8, borderType=cv2.BORDER_REPLICATE)
    magnitude = np.hypot(dx, dy)
    if magnitude.ndim == 3:
        magnitude = magnitude.max(axis=2)
    white = max(float(np.percentile(magnitude, _WHITE_PERCENTILE)), _LEAST_WHITE)
    return np.rint(255 * np.clip(magnitude / white, 0, 1) ** _GAMMA).astype(np.uint8)


def extract(image: np.ndarray, settings: Edges, size: int) -> np.ndarray:
    """Contour of a photo (HxW or HxWx3 uint8, any size): size x size uint8, black padding.

    The photo is resized with its aspect kept (longer side = `size`), its edges are
    extracted, and only then is it padded, so that the padding's border is no edge.
    """
    picture = fit_inside(image, size)
    if settings.extractor == "canny":
        edges = canny(picture, settings.canny_low, settings.canny_high, settings.blur)
    else:
        edges = soft(picture, settings.blur)
    return pad_square(edges, size, "zero")


def edge_fraction(contour: np.ndarray) -> float:
    """Mean of the contour in [0, 1]: for a binary contour the part of the pixels on an edge."""
    return float(contour.mean() / 255)


def _grey(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image


def _smooth(image: np.ndarray, blur: float) -> np.ndarray:
    if blur == 0:
        return image
    return cv2.GaussianBlur(image, (0, 0), blur, borderType=cv2.BORDER_REPLICATE)
