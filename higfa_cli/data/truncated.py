"""Whether the data of a picture are all there, where the decoder would fill gaps in silence."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

_END_OF_JPEG = b"\xff\xd9"
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# First column, first row, step of columns and of rows of each pass of an interlaced PNG.
_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
_PIECE = 2**20


def jpeg_gap(data: bytes) -> str | None:
    """What a decodable JPEG lacks, or None: an end marker after the start of its first scan.

    Without one libjpeg fills up with grey: a file whose tail was never written (zeros) passes.
    """
    at = 2
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] not in (b"\xda", b""):
        padding = data[at + 1] == 0xFF
        at += 1 if padding else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None if data.find(_END_OF_JPEG, at) >= 0 else "the JPEG data have no end"


def png_gap(data: bytes) -> str | None:
    """What a decodable PNG lacks, or None: right checksums, and samples for every row.

    Pillow checks neither the checksums of the pixel data nor how many rows they give.
    """
    size, wanted = 0, 0
    inflate = zlib.decompressobj()
    for kind, body, checksum in _chunks(data):
        if kind in (b"IHDR", b"PLTE", b"IDAT") and zlib.crc32(kind + body) != checksum:
            return f"wrong checksum of {kind.decode('ascii')}"
        if kind == b"IHDR":
            wanted = _png_bytes(*struct.unpack(">IIBBBBB", body))
        elif kind == b"IDAT":
            size += _inflated(inflate, body)
    return None if size >= wanted else f"{size} of {wanted} bytes of samples"


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """Kind, body and checksum of each chunk up to the end, or to where the file ends."""
    at = 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        kind, end = data[at + 4 : at + 8], at + 8 + length
        if kind == b"IEND":
            return
        yield kind, data[at + 8 : end], int.from_bytes(data[end : end + 4], "big")
        at = end + 4


def _inflated(inflate: zlib._Decompress, body: bytes) -> int:
    """How many bytes come out, held a piece at a time."""
    size = 0
    while body and not inflate.eof:
        size += len(inflate.decompress(body, _PIECE))
        body = inflate.unconsumed_tail
    return size


def _png_bytes(
    width: int, height: int, depth: int, colour: int, _method: int, _filter: int, interlaced: int
) -> int:
    """Bytes of all rows, each with its filter byte."""
    bits = depth * _SAMPLES[colour]
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    total = 0
    for left, top, across, down in passes:
        columns = -((left - width) // across)
        rows = -((top - height) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * bits + 7) // 8)
    return total
