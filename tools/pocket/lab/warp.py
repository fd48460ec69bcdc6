"""Photos under the transforms that contours get: what do the transforms cost a judge?"""

from __future__ import annotations

import cv2
import numpy as np

from higfa_cli.artifacts.rows import TransformRecord
from higfa_cli.artifacts.seeds import seed_for
from higfa_cli.contour.transform import draw_transform, homography
from higfa_cli.recipe.contours import Transforms

# What takes the place of what lay outside a photo. Repeated border pixels add no shape, as a
# contour's black does not; mirrored ones draw the nose of a close aircraft a second time.
REPEATED, MIRRORED = cv2.BORDER_REPLICATE, cv2.BORDER_REFLECT


def warp_photo(photo: np.ndarray, record: TransformRecord, border: int = REPEATED) -> np.ndarray:
    """A square photo, S x S x 3 uint8, moved as `apply_transform` moves its contour.

    Resampled bicubically; `border` is REPEATED or MIRRORED. Raises ValueError for a record with a
    thin-plate warp, which the default transforms do not have.
    """
    if record.elastic:
        raise ValueError("photos are warped by homographies alone")
    side = photo.shape[0]
    if photo.shape != (side, side, 3):
        raise ValueError(f"a photo must be a square RGB array, got {photo.shape}")
    # Centred coordinates of a pixel's centre are (pixel + 0.5) / side - 0.5.
    to_pixels = np.array([[side, 0, side / 2 - 0.5], [0, side, side / 2 - 0.5], [0, 0, 1]])
    matrix = to_pixels @ homography(record) @ np.linalg.inv(to_pixels)
    return cv2.warpPerspective(
        photo, matrix, (side, side), flags=cv2.INTER_CUBIC, borderMode=border
    )


def warped(
    photo: np.ndarray, name: str, transforms: Transforms, border: int = REPEATED
) -> np.ndarray:
    """The photo under a transform that is drawn from its name alone."""
    record = draw_transform(transforms, np.random.default_rng(seed_for(name)))
    return warp_photo(photo, record, border)
