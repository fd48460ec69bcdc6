"""The generator's own pictures: the `web` pool, its captions, and augmented copies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tools.pocket.pocket_render.catalogue import load_classes
from tools.pocket.train.contours import random_contour

HELD_OUT_SHARE = 0.05


@dataclass(frozen=True)
class WebPicture:
    """One record of records.jsonl: its file, caption, the words that name the aircraft, airline."""

    path: Path
    caption: str
    words: str
    variant: str
    airline: str


def read_web(folder: Path) -> list[WebPicture]:
    """The records of `folder`/records.jsonl, in file order.

    Raises FileNotFoundError if the folder holds no records.
    """
    lines = (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()
    pictures = []
    for line in lines:
        record = json.loads(line)
        path = folder / "images" / f"{record['id']}.jpg"
        told = (record[name] for name in ("caption", "caption_words", "variant", "airline"))
        pictures.append(WebPicture(path, *told))
    return pictures


def held_out(pictures: list[WebPicture], seed: int) -> np.ndarray:
    """Boolean mask (n,): pictures of about 5 % of the airlines, at least of one airline.

    An airline's draw depends on (seed, airline) alone, so more pictures leave the split as it is.
    """
    draws = {airline: _draw(seed, airline) for airline in {p.airline for p in pictures}}
    limit = max(HELD_OUT_SHARE, min(draws.values()))
    return np.array([draws[picture.airline] <= limit for picture in pictures])


def names_a_variant(pictures: list[WebPicture]) -> np.ndarray:
    """Boolean mask (n,): captions that name one variant, rightly or not.

    Told from the captions' words alone.
    """
    variants = {aircraft.words for aircraft in load_classes().values()}
    return np.array([picture.words in variants for picture in pictures])


def _draw(seed: int, name: str) -> float:
    """A number in [0, 1) from (seed, name)."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8]) / 2**64


def load_square(path: Path, side: int) -> np.ndarray:
    """An RGB picture as uint8 (side, side, 3), downscaled with antialiasing (Lanczos)."""
    with Image.open(path) as image:
        return shrink(np.asarray(image.convert("RGB")), side)


def load_stack(paths: Iterable[Path], side: int) -> Tensor:
    """Pictures as `load_square` reads them, uint8 [N, 3, side, side]."""
    stack = np.stack([load_square(path, side) for path in paths])
    return torch.from_numpy(stack).permute(0, 3, 1, 2).contiguous()


def numbered(values: Sequence[str]) -> tuple[list[str], Tensor]:
    """The distinct values in alphabetical order, and the position of every value in them."""
    names = sorted(set(values))
    return names, torch.tensor([names.index(value) for value in values])


def shrink(image: np.ndarray, side: int) -> np.ndarray:
    """uint8 (h, w, 3) to (side, side, 3) by Lanczos with antialiasing."""
    if image.shape[:2] == (side, side):
        return image
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS))


def random_similarity(side: int, rng: np.random.Generator) -> np.ndarray:
    """A mild similarity (2, 3): rotation within 8 degrees, scale 0.85-1.15, shift within 6 %."""
    matrix: np.ndarray = cv2.getRotationMatrix2D(
        (side / 2, side / 2), rng.uniform(-8, 8), float(np.exp(rng.uniform(-0.16, 0.14)))
    )
    matrix[:, 2] += rng.uniform(-0.06, 0.06, size=2) * side
    return matrix


def augment(
    image: np.ndarray, side: int, copy: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """One training pair of a uint8 RGB picture: picture (side, side, 3), contour (side, side).

    Copy 0 is the picture as it is, copy 1 its mirror image; later ones are moved by a mild
    similarity and mirrored at random. For half of those the contour is extracted first and moved
    with the picture, which is how the contour stage makes its own.
    """
    if copy == 1 or (copy > 1 and rng.random() < 0.5):
        image = np.ascontiguousarray(image[:, ::-1])
    if copy < 2:
        small = shrink(image, side)
        return small, random_contour(small, rng)
    matrix = random_similarity(image.shape[0], rng)
    size = (image.shape[1], image.shape[0])
    # Linear interpolation would take a fifth of the power at high frequencies.
    moved = cv2.warpAffine(
        image, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    small = shrink(moved, side)
    if rng.random() < 0.5:
        return small, random_contour(small, rng)
    contour = random_contour(shrink(image, side), rng)
    matrix[:, 2] *= side / image.shape[0]
    return small, cv2.warpAffine(contour, matrix, (side, side), flags=cv2.INTER_LINEAR)
