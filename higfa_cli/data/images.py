"""The one place where image files become arrays, and arrays become PNG bytes.

Two readers would disagree about orientation, 16-bit scaling and damaged files.
"""

from __future__ import annotations

import importlib.util
import io
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from higfa_cli.artifacts.rows import ImageFault
from higfa_cli.data.image_faults import fault, load, unidentified
from higfa_cli.errors import UserError
from higfa_cli.text import one_line, printable

MAX_PIXELS = 89_000_000
# Room for an uncompressed RGB picture of that many pixels; nothing larger is read into memory.
MAX_BYTES = 256 * 2**20

# Whatever a file is called, it is read as one of these or not at all: some of Pillow's other
# plug-ins start programs (EPS), or are rarely looked at.
_FORMATS: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
if importlib.util.find_spec("PIL.AvifImagePlugin"):
    _FORMATS += ("AVIF",)
# Pixels that are converted at once, so that a large picture is in memory once and not five times.
_STRIP_PIXELS = 2**21
_WHITE_IS_ZERO = 0
_PHOTOMETRIC = 262

_REMEDIES: dict[ImageFault, str] = {
    "missing": "check the path and its permissions",
    "empty": "replace it or leave it out of the split",
    "not-an-image": "replace it with a JPEG or PNG, or leave it out of the split",
    "truncated": "fetch it again or leave it out of the split",
    "damaged": "fetch it again or leave it out of the split",
    "too-large": "make it smaller or leave it out of the split",
    "unsupported-mode": "convert it to an 8-bit RGB JPEG or PNG, or leave it out of the split",
}


class ImageError(UserError):
    """An image that cannot be used: which file, which of the seven reasons, and the remedy.

    missing: not there, not a regular file, or not permitted. empty: 0 bytes. not-an-image: begins
    as none of the known formats. truncated: cut short. damaged: a bad checksum, or does not
    decode. too-large: over the cap of pixels or bytes. unsupported-mode: whole, but of a kind that
    is not read, or its values have no defined meaning as 8-bit RGB.
    """

    def __init__(self, path: Path, reason: ImageFault, detail: str) -> None:
        named = printable(str(path))
        super().__init__(f"cannot read image {named}: {reason} ({detail}); {_REMEDIES[reason]}")
        self.path = path
        self.reason: ImageFault = reason
        self.detail = detail


def read_image(path: Path | str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The picture as HxWx3 uint8 RGB, upright, fully decoded.

    EXIF orientation is applied; transparency is laid over white; palette, grey and CMYK are
    converted; of an animation or a multi-page file the first picture is taken. 16-bit grey is
    scaled and rounded; of 16-bit RGB(A) the high byte is taken. Colour profiles are not applied.
    32-bit integers, floating-point and LAB pixels have no defined 8-bit RGB and are refused.

    Raises ImageError naming the file and one of the reasons in `ImageFault`. Bytes and pixels are
    counted before anything is decoded; at the cap the peak is about 0.7 GB of memory.
    """
    path = Path(path)
    # Pillow warns about harmless oddities in metadata.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = _open(path, max_pixels)
        try:
            return _turned(_to_rgb(image), _orientation(image))
        except MemoryError as error:
            raise ImageError(path, "too-large", "does not fit in memory") from error
        except Exception as error:
            detail = f"mode {image.mode}: {one_line(error)}"
            raise ImageError(path, "unsupported-mode", detail) from error


def read_photo(
    path: Path | str, crop_bottom: int = 0, box: tuple[int, int, int, int] | None = None
) -> np.ndarray:
    """`read_image` without the lowest `crop_bottom` rows, and of it the part in the box.

    Box: left, top, right, bottom; the last two just outside. Raises UserError where none is left.
    """
    image = read_image(path)
    key = f"crop_bottom = {crop_bottom}" if box is None else f"boxes: {box}"
    part = cut(image, crop_bottom, box)
    if not part.size:
        size = f"{image.shape[1]} x {len(image)} pixels"
        raise UserError(f"{path} has {size}; data.{key} leaves nothing of it")
    return np.ascontiguousarray(part)


def cut(image: np.ndarray, crop_bottom: int, box: tuple[int, int, int, int] | None) -> np.ndarray:
    """What `read_photo` takes of an HxWx3 picture; without pixels where none is left."""
    whole = image[: max(0, len(image) - crop_bottom)]
    left, top, right, bottom = box or (0, 0, image.shape[1], len(image))
    return whole[top:bottom, left:right]


def _open(path: Path, max_pixels: int) -> Image.Image:
    """The picture, loaded. One boundary: Pillow's plug-ins raise nearly anything on bad files."""
    data = _read_bytes(path)
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        if image.width * image.height > max_pixels:
            detail = f"{image.width}x{image.height} is more than {max_pixels} pixels"
            raise ImageError(path, "too-large", detail)
        # A load ignores checksums of pixels; verify() checks those of a PNG, and decodes nothing.
        if image.format == "PNG":
            Image.open(io.BytesIO(data), formats=_FORMATS).verify()
        load(image, data)
        if image.format in ("JPEG", "MPO") and not _jpeg_ends(data):
            raise ImageError(path, "truncated", "the JPEG data have no end")
        return image
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(path, "too-large", f"more than {max_pixels} pixels") from error
    except MemoryError as error:
        raise ImageError(path, "too-large", "does not fit in memory") from error
    except UnidentifiedImageError as error:
        raise ImageError(path, *unidentified(data, _FORMATS)) from error
    except Exception as error:
        raise ImageError(path, *fault(error)) from error


def _jpeg_ends(data: bytes) -> bool:
    """Whether an end marker comes after the start of the first scan.

    Without one libjpeg fills up with grey: a file whose tail was never written (zeros) passes.
    """
    at = 2
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] not in (b"\xda", b""):
        padding = data[at + 1] == 0xFF
        at += 1 if padding else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data.find(b"\xff\xd9", at) >= 0


def _read_bytes(path: Path) -> bytes:
    try:
        # A FIFO would block and a directory fails late, so ask before opening.
        if not path.is_file():
            detail = "not a regular file" if path.exists() else "no such file"
            if path.is_symlink():
                detail = "a link that leads to no regular file"
            raise ImageError(path, "missing", detail)
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ImageError(path, "too-large", f"{size} bytes are more than {MAX_BYTES}")
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        # Not str(): it holds the path a second time.
        detail = getattr(error, "strerror", None) or one_line(error)
        raise ImageError(path, "missing", detail) from error
    if not data:
        raise ImageError(path, "empty", "0 bytes")
    return data


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1-8; 1 where there is none or it cannot be read. (TIFF: already applied.)"""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        # Broken metadata do not make the pixels bad.
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """HxWx3 as it is to be seen, by the EXIF orientation it was stored with."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _to_rgb(image: Image.Image) -> np.ndarray:
    grey_16 = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
    if image.mode in ("I", "F", "LAB") and not grey_16:
        raise ValueError("such pixels have no defined range in 8 bits")
    # Pillow inverts white-is-zero TIFF of 8 bits, but not of 16.
    inverted = grey_16 and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    pixels = np.empty((image.height, image.width, 3), dtype=np.uint8)
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        strip = image.crop((0, top, image.width, bottom))
        pixels[top:bottom] = _scale_16_bit(strip, inverted) if grey_16 else _strip_rgb(strip)
    return pixels


def _strip_rgb(image: Image.Image) -> np.ndarray:
    if "A" in image.getbands() or "a" in image.mode or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, rgba)
    return np.asarray(image.convert("RGB"))


def _scale_16_bit(image: Image.Image, inverted: bool) -> np.ndarray:
    """HxWx1 uint8 of values 0-65535, rounded."""
    values = np.asarray(image).astype(np.int64)
    if inverted:
        values = 65535 - values
    return ((values + 128) // 257).astype(np.uint8)[..., None]


def shrink(image: np.ndarray, side: int) -> np.ndarray:
    """HxWx3 uint8 as side x side x 3, whatever its proportions: means of its parts."""
    small = Image.fromarray(image).resize((side, side), Image.Resampling.BOX)
    return np.array(small, dtype=np.uint8)


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
    """`fit_inside`, then `pad_square`."""
    return pad_square(fit_inside(image, size), size, pad)


def encode_png(array: np.ndarray) -> bytes:
    """PNG bytes of an HxW or HxWx3 uint8 array; the same array always gives the same bytes."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()
