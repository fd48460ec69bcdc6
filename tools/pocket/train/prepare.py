"""Stage 1: patch basis, tokenizer, augmented pictures, contours and latents, written once.

    python -m tools.pocket.train.prepare --web WEB --cache CACHE [--side 64] [--copies 4]

WEB holds records.jsonl and images/. CACHE receives basis.npz, tokenizer/ and six .npy files:
pictures uint8 (n, copies, side, side, 3), contours uint8 (n, copies, side, side), latents float16
(n, copies, 32, side/8, side/8), tokens (n, 32), held_out (n,), named (n,). Run again on a grown
WEB, it keeps the basis and tokenizer that CACHE already has, so that a started training can go on.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import CLIPTokenizer

from tools.pocket.train.autoencoder import PATCH, PatchBasis, cut_patches, fit_basis
from tools.pocket.train.text import token_ids, train_tokenizer
from tools.pocket.train.webdata import (
    WebPicture,
    augment,
    held_out,
    load_square,
    names_a_variant,
    read_web,
)

FULL_SIDE = 128
ARRAYS = ("pictures", "contours", "latents", "tokens", "held_out", "named")


@dataclass(frozen=True)
class Cache:
    """What the trainers read; see the module's docstring for shapes."""

    pictures: np.ndarray
    contours: np.ndarray
    latents: np.ndarray
    tokens: np.ndarray
    held_out: np.ndarray
    named: np.ndarray

    @classmethod
    def open(cls, folder: Path) -> Cache:
        # "c": torch wants arrays that could be written to; nothing written would reach the file
        return cls(**{name: np.load(folder / f"{name}.npy", mmap_mode="c") for name in ARRAYS})


def augment_record(
    picture: WebPicture, number: int, side: int, copies: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """All copies of one picture; the draw depends on (seed, number) alone."""
    rng = np.random.default_rng((seed, number))
    full = load_square(picture.path, FULL_SIDE)
    pairs = [augment(full, side, copy, rng) for copy in range(copies)]
    return np.stack([pair[0] for pair in pairs]), np.stack([pair[1] for pair in pairs])


def augment_all(
    web: list[WebPicture], side: int, copies: int, seed: int, workers: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures and contours of the whole pool, in record order."""
    n = len(web)
    with ProcessPoolExecutor(workers) as pool:
        rows = list(
            pool.map(
                augment_record, web, range(n), [side] * n, [copies] * n, [seed] * n, chunksize=64
            )
        )
    return np.stack([row[0] for row in rows]), np.stack([row[1] for row in rows])


def encode_all(basis: PatchBasis, pictures: np.ndarray) -> np.ndarray:
    """Scaled latents, float16, of uint8 pictures (n, copies, side, side, 3).

    By the basis itself: what the autoencoder's convolutions reckon, for a hundredth of their work.
    """
    n, copies, side = pictures.shape[:3]
    grid, channels = side // PATCH, len(basis.scales)
    weights = (basis.directions.reshape(channels, -1) * basis.scales[:, None]).astype(np.float32)
    centre = weights @ basis.mean.ravel().astype(np.float32)
    parts = []
    for part in np.array_split(pictures.reshape(n * copies, side, side, 3), max(1, n // 256)):
        patches = cut_patches(part).reshape(-1, weights.shape[1]).astype(np.float32) / 255
        found = patches @ weights.T - centre
        parts.append(found.reshape(len(part), grid, grid, channels).astype(np.float16))
    whole = np.concatenate(parts).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(whole).reshape(n, copies, channels, grid, grid)


def fit_once(
    cache: Path, pictures: np.ndarray, captions: list[str]
) -> tuple[PatchBasis, CLIPTokenizer]:
    """Basis and tokenizer, fitted unless the cache has them: a started training depends on both."""
    if not (cache / "basis.npz").exists():
        fit_basis(pictures[np.linspace(0, len(pictures) - 1, 4000).astype(int)]).save(
            cache / "basis.npz"
        )
    if not (cache / "tokenizer").exists():
        train_tokenizer(captions).save_pretrained(cache / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(cache / "tokenizer", local_files_only=True)
    return PatchBasis.load(cache / "basis.npz"), tokenizer


def prepare(
    web_folder: Path,
    cache: Path,
    side: int,
    copies: int,
    seed: int,
    workers: int,
) -> None:
    """Write the whole cache; each file appears complete or not at all."""
    cache.mkdir(parents=True, exist_ok=True)
    web = read_web(web_folder)
    pictures, contours = augment_all(web, side, copies, seed, workers)
    hold = held_out(web, seed)
    basis, tokenizer = fit_once(cache, pictures[~hold, 0], [picture.caption for picture in web])
    arrays = {
        "pictures": pictures,
        "contours": contours,
        "latents": encode_all(basis, pictures),
        "tokens": np.array(token_ids(tokenizer, [p.caption for p in web]), dtype=np.int16),
        "held_out": hold,
        "named": names_a_variant(web),
    }
    for name, array in arrays.items():
        partial = cache / f"{name}.partial.npy"
        np.save(partial, array)
        partial.replace(cache / f"{name}.npy")
    print(f"{len(web)} pictures, {copies} copies each, {hold.sum()} held out")
    latents = arrays["latents"][:, 0].astype(np.float32)
    print("latent std by channel:", np.round(latents.std(axis=(0, 2, 3)), 2).tolist())


def main() -> None:
    """Read the command line and prepare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--web", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    prepare(**{("web_folder" if k == "web" else k): v for k, v in vars(arguments).items()})


if __name__ == "__main__":
    main()
