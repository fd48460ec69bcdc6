"""Odd image files that are read with a defined conversion: turned, with metadata, of every mode."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from tests.support.image_bytes import (
    HEIGHT,
    WIDTH,
    Case,
    about,
    accepted,
    chunk,
    encoded,
    exif,
    grey,
    patched,
    png_16,
    rejected,
    scene,
    stored_for,
    tiff,
    with_segment,
)


def orientations() -> Iterator[Case]:
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


def metadata() -> Iterator[Case]:
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


def modes() -> Iterator[Case]:
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


def deep() -> Iterator[Case]:
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


def many_pictures() -> Iterator[Case]:
    first, second = Image.fromarray(scene()), Image.fromarray(scene()[::-1])
    more = {"save_all": True, "append_images": [second, first]}
    yield accepted("animated.gif", encoded(first, "GIF", duration=50, **more), scene())
    yield accepted("animated.png", encoded(first, "PNG", duration=50, **more), scene())
    webp = encoded(first, "WEBP", lossless=True, duration=50, **more)
    yield accepted("animated.webp", webp, scene())
    yield accepted("pages.tif", encoded(first, "TIFF", **more), scene())
    yield accepted("pair.jpg", encoded(first, "MPO", quality=95, **more), about(scene()))
