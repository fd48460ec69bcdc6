"""What a borrowed machine is sent, and what comes back: pictures and weights in few, small files.

    python -m tools.pocket.train.pack --web WEB --cache CACHE --run RUN --out PACK [--mib 60]

PACK receives pictures.bin (64-px AVIF one after the other), pack.npz (where each begins, and the
rows of CACHE that go with them) and shards of the weights, float16. As many pictures as fit, all
classes alike. Nothing of VTK, of the renderer or of WEB is needed where it is unpacked.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from tools.pocket.train.autoencoder import PatchBasis
from tools.pocket.train.checkpoint import load_checkpoint, save_atomic
from tools.pocket.train.contours import random_contour
from tools.pocket.train.prepare import Cache, encode_all
from tools.pocket.train.webdata import WebPicture, load_square, read_web

SIDE = 64
QUALITY = 88
MIB = 2**20
SHARD = 15 * MIB
LARGEST_SHIFT = 4
ROWS = ("tokens", "held_out", "named")
PARTS = {"denoiser": ("model", "average"), "decoder": ("decoder", "average")}


def as_avif(path: Path) -> bytes:
    """A picture at 64 px, about 1.1 kB; 42 dB, and 99 % of the power at high frequencies."""
    buffer = io.BytesIO()
    picture = Image.fromarray(load_square(path, SIDE))
    picture.save(buffer, "AVIF", quality=QUALITY, subsampling="4:4:4")
    return buffer.getvalue()


def in_turns(variants: Sequence[str]) -> np.ndarray:
    """Row numbers in an order in which the classes take turns."""
    seen: dict[str, int] = {}
    ranks = []
    for number, variant in enumerate(variants):
        seen[variant] = seen.get(variant, 0) + 1
        ranks.append((seen[variant], variant, number))
    return np.array([number for _, _, number in sorted(ranks)])


def pack_pictures(web: list[WebPicture], cache: Path, out: Path, room: int, workers: int) -> int:
    """pictures.bin and pack.npz of at most `room` bytes of pictures; returns how many there are."""
    order = in_turns([picture.variant for picture in web])
    with ProcessPoolExecutor(workers) as pool:
        coded = list(pool.map(as_avif, (web[i].path for i in order), chunksize=64))
    ends = np.cumsum([len(one) for one in coded])
    count = int((ends <= room).sum())
    with (out / "pictures.bin").open("wb") as handle:
        handle.writelines(coded[:count])
    rows = {name: np.load(cache / f"{name}.npy")[order[:count]] for name in ROWS}
    basis = PatchBasis.load(cache / "basis.npz")
    about: dict[str, Any] = {"ends": ends[:count], **rows, **basis.__dict__}
    np.savez_compressed(out / "pack.npz", **about)
    return count


def averaged(path: Path, part: str) -> dict[str, Tensor]:
    """A checkpoint's weights with its averages in their place."""
    state, (own, average) = load_checkpoint(path), PARTS[part]
    found: dict[str, Tensor] = state[own] | state[average]
    return found


def write_shards(weights: Mapping[str, Tensor], out: Path, name: str, shard: int = SHARD) -> int:
    """float16 files `name`-0.safetensors and so on, each of at most `shard` bytes or one tensor."""
    parts: list[dict[str, Tensor]] = [{}]
    size = 0
    for key, value in weights.items():
        half = value.detach().cpu().half().contiguous() if value.is_floating_point() else value
        if size + half.nbytes > shard and parts[-1]:
            parts.append({})
            size = 0
        parts[-1][key] = half
        size += half.nbytes
    for number, part in enumerate(parts):
        fresh = out / f".{name}-{number}.partial"
        save_file(part, fresh)
        fresh.replace(out / f"{name}-{number}.safetensors")
    return len(parts)


def read_shards(folder: Path, name: str) -> dict[str, Tensor]:
    """The weights that `write_shards` wrote, float32. Raises FileNotFoundError without any."""
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob(f"{name}-*.safetensors")):
        found |= load_file(path)
    if not found:
        raise FileNotFoundError(f"{folder} holds no {name}-*.safetensors")
    return {k: v.float() if v.is_floating_point() else v for k, v in found.items()}


def checkpoint_of(
    weights: dict[str, Tensor], part: str, counts: Mapping[str, Any]
) -> dict[str, Any]:
    """A trainer's checkpoint, without an optimizer's state, of weights that came in shards."""
    own, average = PARTS[part]
    moving = {n: v for n, v in weights.items() if not n.startswith("text_encoder.")}
    return {own: weights, average: moving} | {k: counts[k] for k in ("step", "seen", "seconds")}


def decoded(data: bytes) -> np.ndarray:
    """An AVIF picture as uint8 (64, 64, 3)."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def shifted(picture: np.ndarray, copy: int, rng: np.random.Generator) -> np.ndarray:
    """Every second copy mirrored, all but the first two moved by whole pixels, borders repeated.

    Whole pixels: nothing is resampled, so nothing grows soft.
    """
    if copy % 2:
        picture = picture[:, ::-1]
    if copy < 2:
        return np.ascontiguousarray(picture)
    reach = LARGEST_SHIFT
    wide = np.pad(picture, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    y, x = rng.integers(2 * reach + 1, size=2)
    side = picture.shape[0]
    return np.ascontiguousarray(wide[y : y + side, x : x + side])


def copies_of(data: bytes, number: int, copies: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture's copies (copies, 64, 64, 3) and their contours (copies, 64, 64)."""
    rng, picture = np.random.default_rng((1, number)), decoded(data)
    found = [shifted(picture, copy, rng) for copy in range(copies)]
    return np.stack(found), np.stack([random_contour(one, rng) for one in found])


def unpack_pictures(pack: Path, cache: Path, copies: int, workers: int) -> Cache:
    """Write the cache of a pack (prepare.py has its shapes), made with `workers` processes."""
    cache.mkdir(parents=True, exist_ok=True)
    with np.load(pack / "pack.npz") as stored:
        about = {name: stored[name] for name in stored.files}
    ends, raw = about["ends"], (pack / "pictures.bin").read_bytes()
    pieces = [raw[first:last] for first, last in zip([0, *ends[:-1]], ends, strict=True)]
    with ProcessPoolExecutor(workers) as pool:
        each = partial(copies_of, copies=copies)
        pairs = list(pool.map(each, pieces, range(len(pieces)), chunksize=64))
    basis = PatchBasis(about["mean"], about["directions"], about["scales"])
    basis.save(cache / "basis.npz")
    pictures = np.stack([pair[0] for pair in pairs])
    arrays = {"pictures": pictures, "contours": np.stack([pair[1] for pair in pairs])}
    arrays["latents"] = encode_all(basis, pictures)
    for name, array in (arrays | {name: about[name] for name in ROWS}).items():
        np.save(cache / f"{name}.npy", array)
    return Cache.open(cache)


def pack_weights(run: Path, cache: Path, out: Path) -> dict[str, Any]:
    """Shards of the averaged denoiser (with the text encoder that CACHE holds) and the decoder."""
    counts: dict[str, Any] = {}
    for part in PARTS:
        weights = averaged(run / f"{part}.pt", part)
        if part == "denoiser":
            taught = load_checkpoint(cache / "text_encoder.pt")["text_encoder"]
            weights |= {f"text_encoder.{name}": value for name, value in taught.items()}
        write_shards(weights, out, part)
        state = load_checkpoint(run / f"{part}.pt")
        counts[part] = {key: state[key] for key in ("step", "seen", "seconds")}
    return counts


def main() -> None:
    """Read the command line and pack."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("web", "cache", "run", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--mib", type=float, default=60, help="of everything together")
    parser.add_argument("--workers", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.out.mkdir(parents=True, exist_ok=True)
    counts = pack_weights(asked.run, asked.cache, asked.out)
    save_atomic(counts, asked.out / "counts.pt")
    taken = sum(path.stat().st_size for path in asked.out.iterdir())
    # pack.npz is small, and known only when it is written
    room = int(asked.mib * MIB) - taken - MIB
    count = pack_pictures(read_web(asked.web), asked.cache, asked.out, room, asked.workers)
    total = sum(path.stat().st_size for path in asked.out.iterdir()) / MIB
    print(f"{count} pictures, {total:.1f} MiB in {asked.out}")


if __name__ == "__main__":
    main()
