"""Data folders as people have them: photos by path, lists by lines."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

FORMATS = {".avif": "AVIF", ".png": "PNG", ".webp": "WEBP"}


def photo(seed: object, kind: str = "JPEG", size: tuple[int, int] = (12, 9)) -> bytes:
    """A picture that no other seed gives."""
    rng = np.random.default_rng(list(repr(seed).encode()))
    pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def put(root: Path, *keys: str) -> Path:
    """A photo of its own at every path; `{a,b}` and `{3}` stand for several."""
    for key in (each for pattern in keys for each in expanded(pattern)):
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo(key, FORMATS.get(path.suffix, "JPEG")))
    return root


def expanded(pattern: str) -> list[str]:
    """`a{1,2}/{3}.png` spelled out: a1/0.png, a1/1.png, a1/2.png, a2/0.png, ..."""
    head, brace, rest = pattern.partition("{")
    if not brace:
        return [pattern]
    inside, _, tail = rest.partition("}")
    names = map(str, range(int(inside))) if inside.isdigit() else inside.split(",")
    return [f"{head}{name}{end}" for name in names for end in expanded(tail)]


def lines(path: Path, *text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}\n" for line in text).encode(encoding))
    return path
