"""The one place where image files become arrays, and arrays become PNG bytes.

Every other module gets arrays: two readers would disagree about orientation, 16-bit scaling and
damaged files, and contours would then not match their photos.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from higfa_cli.errors import UserError

Reason = Literal["missing", "empty", "not-an-image", "truncated", "too-large", "unsupported-mode"]
MAX_PIXELS = 89_000_000
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
)

_REMEDIES: dict[Reason, str] = {
    "missing": "check the path and its permissions",
    "empty": "replace it or leave it out of the split",
    "not-an-image": "replace it with a JPEG or PNG, or leave it out of the split",
    "truncated": "fetch it again or leave it out of the split",
    "too-large": "make it smaller or leave it out of the split",
    "unsupported-mode": "convert it to 8-bit RGB or leave it out of the split",
}


class ImageError(UserError):
    """An image that cannot be used: which file, which of the six reasons, and the remedy."""

    def __init__(self, path: Path, reason: Reason, detail: str) -> None:
        super().__init__(f"cannot read image {path}: {reason} ({detail}); {_REMEDIES[reason]}")
        self.path = path
        self.reason: Reason = reason


def read_image(path: Path | str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The picture as HxWx3 uint8 RGB, upright, fully decoded.

    EXIF orientation is applied, 16-bit values are scaled (not clipped), transparency is laid over
    white, palette, grey and CMYK are converted, and of an animation the first frame is taken.
    Raises ImageError naming the file and one of the reasons in `Reason`; the size is checked
    before a pixel is decoded.
    """
    path = Path(path)
    data = _read_bytes(path)
    # One boundary: Pillow's plug-ins raise nearly anything (OSError, SyntaxError, ValueError,
    # struct.error, ...) on damaged files, and warn about harmless oddities in metadata.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = Image.open(io.BytesIO(data))
        except Image.DecompressionBombError as error:
            raise ImageError(path, "too-large", f"more than {max_pixels} pixels") from error
        except UnidentifiedImageError as error:
            raise ImageError(path, "not-an-image", "no known image format") from error
        except Exception as error:
            raise ImageError(path, "not-an-image", _one_line(error)) from error
        if image.width * image.height > max_pixels:
            detail = f"{image.width}x{image.height} is more than {max_pixels} pixels"
            raise ImageError(path, "too-large", detail)
        try:
            # verify() passes half a JPEG; only a full load proves a file good.
            image.load()
            upright = ImageOps.exif_transpose(image)
        except MemoryError as error:
            raise ImageError(path, "too-large", "does not fit in memory") from error
        except Exception as error:
            raise ImageError(path, "truncated", _one_line(error)) from error
        try:
            return _to_rgb(upright)
        except Exception as error:
            detail = f"mode {upright.mode}: {_one_line(error)}"
            raise ImageError(path, "unsupported-mode", detail) from error


def _read_bytes(path: Path) -> bytes:
    try:
        # A FIFO would block and a directory fails late, so ask before opening.
        if not path.is_file():
            detail = "not a regular file" if path.exists() else "no such file"
            raise ImageError(path, "missing", detail)
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise ImageError(path, "missing", _one_line(error)) from error
    if not data:
        raise ImageError(path, "empty", "0 bytes")
    return data


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16") or image.mode == "I":
        return _scale_16_bit(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined range")
    has_alpha = "A" in image.getbands() or "a" in image.mode or "transparency" in image.info
    if has_alpha and image.mode != "LAB":
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, rgba)
    return np.array(image.convert("RGB"), dtype=np.uint8)


def _scale_16_bit(image: Image.Image) -> np.ndarray:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("values outside 16 bits")
    grey = ((values + 128) // 257).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def fit_inside(image: np.ndarray, size: int) -> np.ndarray:
    """HxW or HxWx3 uint8, isotropically resized (antialiased) so that its longer side is `size`."""
    height, width = image.shape[:2]
    longer = max(height, width)
    if longer == size:
        return image
    target = (max(1, round(width * size / longer)), max(1, round(height * size / longer)))
    resized = Image.fromarray(image).resize(target, Image.Resampling.BICUBIC)
    return np.array(resized, dtype=np.uint8)


def pad_square(image: np.ndarray, size: int, pad: Literal["edge", "zero"] = "edge") -> np.ndarray:
    """HxW or HxWx3 with sides <= `size`, centred in a square of side `size`.

    `edge` repeats the border pixels, `zero` is black.
    """
    height, width = image.shape[:2]
    top, left = (size - height) // 2, (size - width) // 2
    margins = [(top, size - height - top), (left, size - width - left)]
    margins += [(0, 0)] * (image.ndim - 2)
    mode: Any = "edge" if pad == "edge" else "constant"
    return np.pad(image, margins, mode=mode)


def fit_square(image: np.ndarray, size: int, pad: Literal["edge", "zero"] = "edge") -> np.ndarray:
    """The picture centred in a `size` x `size` square, its aspect ratio unchanged.

    Isotropic antialiased resize so that the longer side is `size`, then padding (`pad_square`).
    """
    return pad_square(fit_inside(image, size), size, pad)


def encode_png(array: np.ndarray) -> bytes:
    """PNG bytes of an HxW or HxWx3 uint8 array; the same array always gives the same bytes."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()
