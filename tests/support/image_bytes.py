"""Image files made byte by byte, and what must come of each; nothing is downloaded or stored."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 48, 32


Writer = Callable[[Path], None]


Check = Callable[[np.ndarray], None]


@dataclass(frozen=True)
class Case:
    """One file.

    Attributes:
        name: its file name (perhaps with bytes that are no UTF-8).
        write: makes it.
        shape: (height, width) that it is read as, or None: rejected.
        reason: why it is rejected, by `read_image`.
        listed: why stage `contours` rejects it where `read_image` does not: its name.
        check: what its pixels must be.
        as_user: root can read it all the same.
    """

    name: str
    write: Writer
    shape: tuple[int, int] | None = (HEIGHT, WIDTH)
    reason: str | None = None
    listed: str | None = None
    check: Check | None = None
    as_user: bool = False


@cache
def scene() -> np.ndarray:
    """A picture with edges that looks different from every side: [HEIGHT, WIDTH, 3] uint8."""
    pixels = np.full((HEIGHT, WIDTH, 3), 120, dtype=np.uint8)
    pixels[3:14, 4:20] = (230, 40, 30)
    pixels[18:28, 6:12] = (20, 60, 220)
    pixels[8:12, 30:44] = (250, 240, 40)
    return pixels


def grey() -> np.ndarray:
    """The same in grey: [HEIGHT, WIDTH] uint8."""
    return np.array(Image.fromarray(scene()).convert("L"))


def encoded(image: Image.Image | np.ndarray, kind: str, **options: Any) -> bytes:
    """File content of a picture."""
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def content(data: bytes) -> Writer:
    """Writes these bytes."""
    return lambda path: path.write_bytes(data) and None


def exactly(expected: np.ndarray) -> Check:
    """The pixels, to the bit; grey is compared with all channels."""
    wanted = expected if expected.ndim == 3 else np.repeat(expected[..., None], 3, axis=2)

    def check(pixels: np.ndarray) -> None:
        assert (pixels == wanted).all(), np.abs(pixels.astype(int) - wanted).max()

    return check


def about(expected: np.ndarray, tolerance: float = 12.0) -> Check:
    """The pixels of a lossy format: the mean difference, of 255."""

    def check(pixels: np.ndarray) -> None:
        assert np.abs(pixels.astype(float) - expected).mean() < tolerance

    return check


def accepted(
    name: str,
    data: bytes | Writer,
    check: Check | np.ndarray | None = None,
    shape: tuple[int, int] = (HEIGHT, WIDTH),
    listed: str | None = None,
) -> Case:
    """A file that is read; an array as `check` is what it must be exactly."""
    write = content(data) if isinstance(data, bytes) else data
    test = exactly(check) if isinstance(check, np.ndarray) else check
    return Case(name, write, shape=shape, check=test, listed=listed)


def rejected(name: str, data: bytes | Writer, reason: str, as_user: bool = False) -> Case:
    """A file that is refused."""
    write = content(data) if isinstance(data, bytes) else data
    return Case(name, write, shape=None, reason=reason, as_user=as_user)


def chunk(kind: bytes, data: bytes, crc: int | None = None) -> bytes:
    """A PNG chunk, with its own checksum unless told otherwise."""
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", crc or zlib.crc32(body))


def png(
    width: int, height: int, depth: int, colour: int, *chunks: bytes, interlace: int = 0
) -> bytes:
    """A PNG of header, `chunks` and end."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    parts = (chunk(b"IHDR", header), *chunks, chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def idat(pixels: np.ndarray, level: int = 9) -> bytes:
    """Image data of big-endian sample rows, unfiltered."""
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    return chunk(b"IDAT", zlib.compress(rows, level))


NINE = np.arange(9, dtype=np.uint8).reshape(3, 3) * 20


def interlaced(missing: int = 0) -> bytes:
    """`NINE` in the passes of Adam7 (2nd to 4th have columns or rows that it has not, or one)."""
    rows = [NINE[0::8, 0::8], NINE[0::4, 2::4], NINE[2::4, 0::2], NINE[0::2, 1::2], NINE[1::2]]
    raw = b"".join(b"\0" + row.tobytes() for part in rows for row in part)
    return chunk(b"IDAT", zlib.compress(raw[: len(raw) - missing]))


def png_16(colour: int, pixels: np.ndarray) -> bytes:
    """A 16-bit PNG: colour type 0 grey, 2 RGB, 4 grey + alpha, 6 RGBA."""
    height, width = pixels.shape[:2]
    return png(width, height, 16, colour, idat(pixels.astype(">u2")))


def one_bit_png(side: int, colour: int = 0, *chunks: bytes) -> bytes:
    """A 1-bit square of ones: some kilobytes, whatever its side. Colour type 3: of a palette."""
    row = b"\0" + b"\xff" * ((side + 7) // 8)
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    return png(side, side, 1, colour, *chunks, chunk(b"IDAT", data))


def large_palette_png(side: int) -> bytes:
    """Red with a transparent colour beside it, to be turned by a quarter."""
    palette = chunk(b"PLTE", bytes([0, 0, 0, 255, 0, 0])) + chunk(b"tRNS", b"\0")
    return one_bit_png(
        side, 3, palette, chunk(b"eXIf", exif(6).tobytes().removeprefix(b"Exif\0\0"))
    )


def tiff(
    order: str, width: int, height: int, tags: dict[int, tuple[int, Sequence[int]]], data: bytes
) -> bytes:
    """A TIFF of one strip; `order` "<" or ">"; tag -> (type 3 short or 4 long, values)."""
    size = {3: 2, 4: 4}
    letter = {3: "H", 4: "I"}
    entries = {256: (4, [width]), 257: (4, [height]), 259: (3, [1]), 278: (4, [height])}
    entries |= {273: (4, [8]), 279: (4, [len(data)])} | tags
    extra = 8 + len(data) + 2 + 12 * len(entries) + 4
    directory, beyond = struct.pack(order + "H", len(entries)), b""
    for tag, (kind, values) in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(values)}{letter[kind]}", *values)
        if len(values) * size[kind] > 4:
            place = struct.pack(order + "I", extra + len(beyond))
            beyond += packed
        else:
            place = packed.ljust(4, b"\0")
        directory += struct.pack(order + "HHI", tag, kind, len(values)) + place
    mark = b"II*\0" if order == "<" else b"MM\0*"
    start = struct.pack(order + "I", 8 + len(data))
    return mark + start + data + directory + b"\0\0\0\0" + beyond


def bmp(width: int, height: int, pixels: bytes) -> bytes:
    """A 24-bit BMP whose header says this width and height."""
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, len(pixels), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(pixels), 0, 0, 54) + header + pixels


def patched(data: bytes, at: int, new: bytes) -> bytes:
    """The data with some bytes replaced."""
    return data[:at] + new + data[at + len(new) :]


def jpeg_size(data: bytes, height: int, width: int) -> bytes:
    """A JPEG whose frame header says another size."""
    at = data.index(b"\xff\xc0")
    return patched(data, at + 5, struct.pack(">HH", height, width))


def segment(marker: int, data: bytes) -> bytes:
    """A JPEG segment."""
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def with_segment(jpeg: bytes, marker: int, data: bytes) -> bytes:
    """A JPEG with one more segment, first of all."""
    return jpeg[:2] + segment(marker, data) + jpeg[2:]


def exif(orientation: int) -> Image.Exif:
    """EXIF data with an orientation."""
    tags = Image.Exif()
    tags[274] = orientation
    return tags


# The standard's table: where the first row and the first column of the stored picture belong.
_SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def stored_for(orientation: int, upright: np.ndarray) -> np.ndarray:
    """How a camera stores an upright picture under an EXIF orientation."""
    row, column = _SIDES[orientation]
    stored = upright if row in ("top", "bottom") else upright.swapaxes(0, 1)
    if row in ("bottom", "right"):
        stored = stored[::-1]
    if column in ("bottom", "right"):
        stored = stored[:, ::-1]
    return np.ascontiguousarray(stored)
