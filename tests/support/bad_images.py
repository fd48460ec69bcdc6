"""Bad and odd image files, made here, each with what must come of it.

Nothing is downloaded or stored: every file is built from bytes that can be read below.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
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


def cases() -> list[Case]:
    """Every file; names are distinct."""
    return [
        *_plain(),
        *_names(),
        *_no_images(),
        *_no_files(),
        *_cut(),
        *_damaged(),
        *_large(),
        *_orientations(),
        *_metadata(),
        *_modes(),
        *_deep(),
        *_many_pictures(),
    ]


def _plain() -> Iterator[Case]:
    yield accepted("plain.jpg", encoded(scene(), "JPEG"), about(scene()))
    yield accepted("plain.png", encoded(scene(), "PNG"), scene())
    yield accepted("plain.webp", encoded(scene(), "WEBP", lossless=True), scene())
    yield accepted("plain.bmp", encoded(scene(), "BMP"), scene())
    yield accepted("plain.tif", encoded(scene(), "TIFF"), scene())
    yield accepted("lzw.tiff", encoded(scene(), "TIFF", compression="tiff_lzw"), scene())
    yield accepted("plain.ppm", encoded(scene(), "PPM"), scene())
    yield accepted("grey.pgm", encoded(grey(), "PPM"), grey())
    yield accepted("few-colours.gif", encoded(Image.fromarray(scene()), "GIF"), scene())
    yield accepted("upper.JPG", encoded(scene(), "JPEG"), about(scene()))
    yield accepted("png-named.jpg", encoded(scene(), "PNG"), scene())
    yield accepted("gif-named.png", encoded(Image.fromarray(scene()), "GIF"), scene())
    yield accepted("progressive.jpg", encoded(scene(), "JPEG", progressive=True), about(scene()))
    yield accepted("grey.jpg", encoded(grey(), "JPEG"))
    yield accepted("dot.png", encoded(scene()[:1, :1], "PNG"), scene()[:1, :1], (1, 1))
    strip = np.arange(5000, dtype=np.uint16).astype(np.uint8)
    yield accepted("wide.png", encoded(strip[None], "PNG"), strip[None], (1, 5000))
    yield accepted("tall.png", encoded(strip[:, None], "PNG"), strip[:, None], (5000, 1))
    upside = scene()[..., ::-1].tobytes()  # BGR; 48 * 3 bytes need no padding
    yield accepted("top-down.bmp", bmp(WIDTH, -HEIGHT, upside), scene())


def _names() -> Iterator[Case]:
    good = encoded(scene(), "PNG")
    names = ("-rf.png", "two words.png", "ünï-🦜.png", "[red]{x}%s$(ls).png", "n" * 250 + ".png")
    yield from (accepted(name, good, scene()) for name in names)
    yield accepted("e\u0301.png", good, scene())
    yield accepted("new\nline.png", good, scene(), listed="odd-name")
    yield accepted("bell\x07\x1b[31m.png", good, scene(), listed="odd-name")
    yield accepted(os.fsdecode(b"latin-\xe9\xff.png"), good, scene(), listed="odd-name")
    yield accepted("turned\u202egpj.png", good, scene(), listed="odd-name")


def _no_images() -> Iterator[Case]:
    yield rejected("zero-bytes.jpg", b"", "empty")
    yield rejected("zero-bytes.png", b"", "empty")
    yield rejected(
        "page.jpg", b"<!DOCTYPE html><html><h1>404 Not Found</h1></html>", "not-an-image"
    )
    yield rejected("text.png", b"I am no picture.\n", "not-an-image")
    yield rejected("drawing.png", b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not-an-image")
    yield rejected("pointer.jpg", b"version https://git-lfs.github.com/spec/v1\n", "not-an-image")
    yield rejected("archive.jpg", b"PK\x05\x06" + bytes(18), "not-an-image")
    yield rejected(
        "script.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not-an-image"
    )
    noise = np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8).tobytes()
    yield rejected("noise.jpg", b"\1" + noise, "not-an-image")
    yield rejected("nothing-but-zeros.jpg", bytes(5000), "not-an-image")
    yield rejected("start-alone.jpg", b"\xff\xd8\xff", "damaged")
    yield rejected("start-alone.png", b"\x89PNG\r\n\x1a\n", "truncated")
    yield rejected("other-format.jpg", encoded(scene(), "PCX"), "not-an-image")


def _no_files() -> Iterator[Case]:
    def unreadable(path: Path) -> None:
        path.write_bytes(encoded(scene(), "PNG"))
        path.chmod(0)

    yield rejected("folder.jpg", lambda path: path.mkdir(), "missing")
    yield rejected("dangling.jpg", lambda path: path.symlink_to("nowhere.jpg"), "missing")
    yield rejected("loop.jpg", lambda path: path.symlink_to(path.name), "missing")
    yield rejected("pipe.jpg", lambda path: os.mkfifo(path), "missing")
    yield rejected("device.jpg", lambda path: path.symlink_to("/dev/zero"), "missing")
    yield rejected("no-permission.png", unreadable, "missing", as_user=True)


def _cut() -> Iterator[Case]:
    rng = np.random.default_rng(1)
    rich = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "jpg": ("JPEG", {"quality": 95}),
        "png": ("PNG", {}),
        "webp": ("WEBP", {"quality": 90}),
        "gif": ("GIF", {}),
        "bmp": ("BMP", {}),
        "ppm": ("PPM", {}),
    }
    for suffix, (kind, options) in kinds.items():
        whole = encoded(Image.fromarray(rich), kind, **options)
        for percent in (50, 90):
            data = whole[: len(whole) * percent // 100]
            yield rejected(f"cut-at-{percent}.{suffix}", data, "truncated")
    jpeg = encoded(rich, "JPEG", quality=95)
    yield rejected("cut-in-header.jpg", jpeg[:100], "truncated")
    yield rejected("cut-before-end.jpg", jpeg[:-2], "truncated")
    yield rejected(
        "zeros-from-half.jpg", jpeg[: len(jpeg) // 2].ljust(len(jpeg), b"\0"), "truncated"
    )
    progressive = encoded(rich, "JPEG", progressive=True, quality=95)
    yield rejected("progressive-half.jpg", progressive[: len(progressive) // 2], "truncated")
    strip = encoded(rich, "TIFF")
    yield rejected("cut-at-half.tif", strip[: len(strip) // 2], "truncated")
    whole = encoded(scene(), "PNG")
    yield rejected("no-end-chunk.png", whole[:-12], "truncated")


def _damaged() -> Iterator[Case]:
    whole = encoded(scene(), "PNG")
    at = whole.index(b"IDAT")
    length = struct.unpack(">I", whole[at - 4 : at])[0]
    wrong = patched(whole, at + 4 + length, b"\0\0\0\0")
    yield rejected("bad-checksum.png", wrong, "damaged")
    flipped = patched(whole, at + 4 + length // 2, bytes([whole[at + 4 + length // 2] ^ 0xFF]))
    yield rejected("flipped-byte.png", flipped, "damaged")
    yield rejected("bad-header-checksum.png", patched(whole, 29, b"\0\0\0\0"), "damaged")
    yield rejected("no-data.png", png(4, 4, 8, 0), "truncated")
    black = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    short = chunk(b"IDAT", zlib.compress(b"\0" + bytes(WIDTH)))
    # All that the file says is true, but no encoder writes so: black below.
    yield accepted("rows-missing.png", png(WIDTH, HEIGHT, 8, 0, short), black)
    stored = idat(scene(), level=0)
    changed = patched(stored, 500, b"\1")
    yield accepted("stored.png", png(WIDTH, HEIGHT, 8, 2, stored), scene())
    yield rejected("changed-pixel.png", png(WIDTH, HEIGHT, 8, 2, changed), "damaged")
    half = chunk(b"IDAT", stored[8:-4][: len(stored) // 2])
    yield rejected("half-stream.png", png(WIDTH, HEIGHT, 8, 2, half), "truncated")
    yield accepted("interlaced.png", png(3, 3, 8, 0, interlaced(), interlace=1), NINE, (3, 3))
    few = interlaced(missing=1)
    yield rejected("interlaced-cut.png", png(3, 3, 8, 0, few, interlace=1), "truncated")
    parts = idat(scene())[8:-4]
    split = (chunk(b"IDAT", parts[:40]), chunk(b"IDAT", b""), chunk(b"IDAT", parts[40:]))
    yield accepted("many-chunks.png", png(WIDTH, HEIGHT, 8, 2, *split), scene())
    data = idat(np.zeros((1, 1), dtype=np.uint8))
    yield rejected("zero-width.png", png(0, 1, 8, 0, data), "damaged")
    yield rejected("zero-size.png", png(0, 0, 8, 0, data), "damaged")
    jpeg = encoded(scene(), "JPEG")
    yield rejected("zero-height.jpg", jpeg_size(jpeg, 0, WIDTH), "damaged")
    yield rejected("zero-size.gif", b"GIF89a" + bytes(7) + b";", "truncated")
    yield rejected("zero-size.bmp", bmp(0, 0, b""), "damaged")
    yield rejected("zero-size.ppm", b"P6 0 0 255\n", "damaged")
    yield rejected("no-directory.tif", b"II*\0\xff\xff\xff\x7f", "damaged")
    tags = {258: (3, [8]), 262: (3, [1]), 277: (3, [1])}
    data = tiff("<", WIDTH, HEIGHT, tags, grey().tobytes())
    yield rejected("wrong-directory.tif", patched(data, 4, struct.pack("<I", 4)), "damaged")
    # The directory's last word says where the next page's is: here again.
    start = struct.unpack("<I", data[4:8])[0]
    following = start + 2 + 12 * struct.unpack("<H", data[start : start + 2])[0]
    looped = patched(data, following, struct.pack("<I", start))
    yield accepted("looped-pages.tif", looped, grey())


def _large() -> Iterator[Case]:
    def sparse(path: Path) -> None:
        with path.open("wb") as handle:
            handle.truncate(300 * 2**20)

    white = np.uint8(255)
    yield rejected("bomb.png", one_bit_png(20000), "too-large")
    yield accepted(
        "just-fits.png",
        one_bit_png(9400),
        lambda pixels: exactly(np.full((1, 1, 3), white))(pixels[5000:5001, 9399:]),
        (9400, 9400),
    )
    empty = chunk(b"IDAT", b"")
    yield rejected("largest-header.png", png(2**31 - 1, 2**31 - 1, 8, 6, empty), "too-large")
    canvas = struct.pack("<HHBBB", 65535, 65535, 0, 0, 0)
    frame = b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0) + b"\2\2\x44\1\0;"
    yield rejected("bomb.gif", b"GIF89a" + canvas + frame, "too-large")
    yield rejected("bomb.jpg", jpeg_size(encoded(scene(), "JPEG"), 65500, 65500), "too-large")
    yield rejected("bomb.bmp", bmp(30000, 30000, b""), "too-large")
    grey_tags = {258: (3, [8]), 262: (3, [1]), 277: (3, [1])}
    yield rejected("bomb.tif", tiff("<", 60000, 60000, grey_tags, b"\0"), "too-large")
    yield rejected("bomb.ppm", b"P6 60000 60000 255\n", "too-large")
    extended = b"VP8X" + struct.pack("<II", 10, 0) + (16382).to_bytes(3, "little") * 2
    still = encoded(scene(), "WEBP")[12:]
    body = b"WEBP" + extended + still
    yield rejected("bomb.webp", b"RIFF" + struct.pack("<I", len(body)) + body, "too-large")
    yield rejected("300-megabytes.jpg", sparse, "too-large")


def _orientations() -> Iterator[Case]:
    for number in range(1, 9):
        data = encoded(stored_for(number, scene()), "PNG", exif=exif(number))
        yield accepted(f"turned-{number}.png", data, scene())
    jpeg = encoded(stored_for(6, scene()), "JPEG", quality=95, exif=exif(6))
    yield accepted("turned-6.jpg", jpeg, about(scene()))
    yield accepted(
        "turned-6.webp",
        encoded(stored_for(6, scene()), "WEBP", lossless=True, exif=exif(6)),
        scene(),
    )
    stored = stored_for(8, scene())
    tags = {258: (3, [8, 8, 8]), 262: (3, [2]), 277: (3, [3]), 274: (3, [8])}
    yield accepted("turned-8.tif", tiff(">", HEIGHT, WIDTH, tags, stored.tobytes()), scene())
    for value in (0, 9):
        data = encoded(scene(), "PNG", exif=exif(value))
        yield accepted(f"orientation-{value}.png", data, scene())
    word = struct.pack("<HHI4s", 274, 2, 4, b"six\0")
    tags_ = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + word + bytes(4)
    yield accepted("orientation-word.png", encoded(scene(), "PNG", exif=tags_), scene())


def _metadata() -> Iterator[Case]:
    jpeg = encoded(scene(), "JPEG", quality=95)
    broken = b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\xab" * 40
    yield accepted("broken-exif.jpg", with_segment(jpeg, 0xE1, broken), about(scene()))
    yield accepted("text-exif.jpg", with_segment(jpeg, 0xE1, b"Exif\0\0nonsense"), about(scene()))
    header = b"ICC_PROFILE\0\1\1" + b"\x99" * 64
    yield accepted("broken-profile.jpg", with_segment(jpeg, 0xE2, header), about(scene()))
    yield accepted("broken-profile.png", encoded(scene(), "PNG", icc_profile=b"\x99" * 64), scene())
    noise = np.random.default_rng(2).integers(0, 256, 4000, dtype=np.uint8).tobytes()
    yield accepted("trailing-garbage.jpg", jpeg + noise, about(scene()))
    yield accepted("two-in-one.jpg", jpeg + encoded(scene()[::-1], "JPEG"), about(scene()))
    yield accepted("filled-markers.jpg", jpeg[:2] + b"\xff\xff" + jpeg[2:], about(scene()))
    whole = encoded(scene(), "PNG")
    yield accepted("trailing-garbage.png", whole + noise, scene())
    grow = zlib.compress(bytes(20 * 2**20), 9)
    at = whole.index(b"IDAT") - 4
    profile = chunk(b"iCCP", b"p\0\0" + grow)
    yield rejected("huge-profile.png", whole[:at] + profile + whole[at:], "too-large")
    nonsense = chunk(b"eXIf", b"nonsense")
    yield accepted("text-exif.png", whole[:at] + nonsense + whole[at:], scene())
    text = chunk(b"zTXt", b"k\0\0" + grow)
    yield rejected("huge-text.png", whole[:at] + text + whole[at:], "too-large")
    plain = chunk(b"tEXt", b"k\0" + b"x" * (2 * 2**20))
    yield accepted("long-text.png", whole[:at] + plain + whole[at:], scene())


def _modes() -> Iterator[Case]:
    upright = Image.fromarray(scene())
    white = np.full((HEIGHT, WIDTH, 3), 255, dtype=np.uint8)
    over_white = scene().copy()
    over_white[:, :10] = 255
    alpha = np.full((HEIGHT, WIDTH), 255, dtype=np.uint8)
    alpha[:, :10] = 0
    see_through = Image.fromarray(np.dstack([scene(), alpha]))
    grey_white = grey().copy()
    grey_white[:, :10] = 255

    yield accepted("rgba.png", encoded(see_through, "PNG"), over_white)
    yield accepted("rgba.webp", encoded(see_through, "WEBP", lossless=True), over_white)
    yield accepted("rgba.tif", encoded(see_through, "TIFF"), over_white)
    la = Image.fromarray(np.dstack([grey(), alpha]))
    yield accepted("la.png", encoded(la, "PNG"), grey_white)
    indexed = upright.quantize(8, dither=Image.Dither.NONE)
    yield accepted("palette.png", encoded(indexed, "PNG"), scene())
    yield accepted("palette-alpha.tif", encoded(indexed.convert("PA"), "TIFF"), scene())
    hidden = int(np.asarray(indexed)[0, 0])
    background = (scene() == 120).all(axis=2)
    cleared = scene().copy()
    cleared[background] = 255
    yield accepted("palette-key.png", encoded(indexed, "PNG", transparency=hidden), cleared)
    table = bytes(0 if index == hidden else 255 for index in range(8))
    yield accepted("palette-table.png", encoded(indexed, "PNG", transparency=table), cleared)
    yield accepted("palette-key.gif", encoded(indexed, "GIF", transparency=hidden), cleared)
    yield accepted("rgb-key.png", encoded(upright, "PNG", transparency=(120, 120, 120)), cleared)
    key = encoded(Image.fromarray(grey()), "PNG", transparency=120)
    yield accepted("grey-key.png", key, np.where(grey() == 120, 255, grey()).astype(np.uint8))
    bits = grey() > 120
    yield accepted(
        "one-bit.png", encoded(Image.fromarray(bits), "PNG"), bits.astype(np.uint8) * 255
    )
    yield accepted(
        "one-bit.tif", encoded(Image.fromarray(bits), "TIFF"), bits.astype(np.uint8) * 255
    )
    yield accepted("grey.png", encoded(grey(), "PNG"), grey())
    yield accepted("rgbx.tif", encoded(upright.convert("RGBX"), "TIFF"), scene())
    tags = {258: (3, [8]), 262: (3, [0]), 277: (3, [1])}
    negative = tiff("<", WIDTH, HEIGHT, tags, (255 - grey()).tobytes())
    yield accepted("white-is-zero.tif", negative, grey())

    cmyk = upright.convert("CMYK")
    yield accepted("cmyk.tif", encoded(cmyk, "TIFF"), scene())
    inverted = encoded(cmyk, "JPEG", quality=95)  # with Adobe's marker, values inverted
    assert b"Adobe" in inverted
    yield accepted("cmyk.jpg", inverted, about(scene()))
    # Four equal components, then called YCCK: chroma 128 is grey, whatever the luma.
    flat = Image.new("CMYK", (WIDTH, HEIGHT), (127, 127, 127, 0))
    ycck = encoded(flat, "JPEG", quality=95)
    ycck = patched(ycck, ycck.index(b"Adobe") + 11, b"\2")
    yield accepted("ycck.jpg", ycck, about(np.full_like(white, 128), 3))
    yield rejected(
        "lab.tif", encoded(Image.new("LAB", (WIDTH, HEIGHT)), "TIFF"), "unsupported-mode"
    )


def _deep() -> Iterator[Case]:
    ramp = np.array([[0, 257, 128 * 257, 65535], [128, 129, 32767, 65406]], dtype=np.uint16)
    # Rounded: (v + 128) // 257.
    bytes_ = np.array([[0, 1, 128, 255], [0, 1, 127, 254]], dtype=np.uint8)
    size = (2, 4)
    yield accepted("deep-grey.png", encoded(ramp, "PNG"), bytes_, size)
    yield accepted("deep-grey.tif", encoded(ramp, "TIFF"), bytes_, size)
    yield accepted("deep-grey.pgm", b"P5 4 2 65535\n" + ramp.astype(">u2").tobytes(), bytes_, size)
    tags = {258: (3, [16]), 262: (3, [1]), 277: (3, [1])}
    big = tiff(">", 4, 2, tags, ramp.astype(">u2").tobytes())
    yield accepted("deep-big-endian.tif", big, bytes_, size)
    turned = tiff("<", 4, 2, tags | {262: (3, [0])}, (65535 - ramp).astype("<u2").tobytes())
    yield accepted("deep-white-is-zero.tif", turned, bytes_, size)

    # Of colours the high byte is taken.
    rgb = np.dstack([ramp, ramp[::-1], ramp])
    high = (rgb >> 8).astype(np.uint8)
    yield accepted("deep-rgb.png", png_16(2, rgb), high, size)
    opaque = np.dstack([rgb, np.full_like(ramp, 65535)])
    yield accepted("deep-rgba.png", png_16(6, opaque), high, size)
    clear = np.dstack([rgb, np.zeros_like(ramp)])
    yield accepted("deep-clear.png", png_16(6, clear), np.full_like(high, 255), size)
    la = np.dstack([ramp, np.full_like(ramp, 65535)])
    yield accepted("deep-grey-alpha.png", png_16(4, la), (ramp >> 8).astype(np.uint8), size)
    tags = {258: (3, [16, 16, 16]), 262: (3, [2]), 277: (3, [3])}
    for order, name in (("<", "deep-rgb.tif"), (">", "deep-rgb-big-endian.tif")):
        data = rgb.astype(f"{order}u2").tobytes()
        yield accepted(name, tiff(order, 4, 2, tags, data), high, size)

    integers = Image.fromarray(ramp.astype(np.int32) * 70000)
    yield rejected("integers.tif", encoded(integers, "TIFF"), "unsupported-mode")
    yield rejected(
        "small-integers.tif",
        encoded(Image.fromarray(ramp.astype(np.int32)), "TIFF"),
        "unsupported-mode",
    )
    floats = Image.fromarray(ramp.astype(np.float32) / 65535)
    yield rejected("floats.tif", encoded(floats, "TIFF"), "unsupported-mode")
    signed = {258: (3, [16]), 262: (3, [1]), 277: (3, [1]), 339: (3, [2])}
    data = (ramp.astype(np.int32) - 32768).astype("<i2").tobytes()
    yield rejected("signed.tif", tiff("<", 4, 2, signed, data), "unsupported-mode")


def _many_pictures() -> Iterator[Case]:
    first, second = Image.fromarray(scene()), Image.fromarray(scene()[::-1])
    more = {"save_all": True, "append_images": [second, first]}
    yield accepted("animated.gif", encoded(first, "GIF", duration=50, **more), scene())
    yield accepted("animated.png", encoded(first, "PNG", duration=50, **more), scene())
    webp = encoded(first, "WEBP", lossless=True, duration=50, **more)
    yield accepted("animated.webp", webp, scene())
    yield accepted("pages.tif", encoded(first, "TIFF", **more), scene())
    yield accepted("pair.jpg", encoded(first, "MPO", quality=95, **more), about(scene()))
