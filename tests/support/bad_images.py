"""Bad and odd image files, made here, each with what must come of it."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.support.image_bytes import (
    HEIGHT,
    NINE,
    WIDTH,
    Case,
    about,
    accepted,
    bmp,
    chunk,
    encoded,
    exactly,
    grey,
    idat,
    interlaced,
    jpeg_size,
    one_bit_png,
    patched,
    png,
    rejected,
    scene,
    tiff,
)
from tests.support.odd_images import deep, many_pictures, metadata, modes, orientations


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
        *orientations(),
        *metadata(),
        *modes(),
        *deep(),
        *many_pictures(),
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
