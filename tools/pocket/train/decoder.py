"""Stage 3: train the autoencoder's decoder on noisy latents. Run again to resume.

    python -m tools.pocket.train.decoder --cache CACHE --out RUN --minutes 12 [--backbone FILE]

Loss: L1 + L1 of horizontal and vertical differences + 0.5 MSE, on pictures in [0, 1]; with
--backbone (backbone.py's weights, which know families and no variants) also the L1 distance of its
early features, so that small details weigh more than smooth sky. The latents get Gaussian noise of
a random level, at most 0.25, because the denoiser's latents are never exact.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file
from torch import Tensor

from tools.pocket.train import backbone as families
from tools.pocket.train.autoencoder import PatchBasis, build_autoencoder
from tools.pocket.train.checkpoint import Average, append_log, load_checkpoint, save_atomic
from tools.pocket.train.prepare import Cache

BATCH = 16
NOISE = 0.25
WARM_UP = 100
FEATURE_WEIGHT = 0.1
FEATURE_STAGES = (1, 2)


def as_pixels(pictures: np.ndarray) -> Tensor:
    """uint8 (n, h, w, 3) to (n, 3, h, w) in [0, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


def decode(autoencoder: AutoencoderTiny, latents: Tensor) -> Tensor:
    """Scaled latents to pictures in about [0, 1]."""
    return autoencoder.decode(latents / autoencoder.config.scaling_factor).sample / 2 + 0.5


def reconstruction_loss(drawn: Tensor, wanted: Tensor) -> Tensor:
    """L1 + edge L1 + 0.5 MSE of pictures (n, 3, h, w)."""
    error = drawn - wanted
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return error.abs().mean() + edges + 0.5 * error.square().mean()


def feature_distance(weights: Path) -> Callable[[Tensor, Tensor], Tensor]:
    """L1 distance of the backbone's features (strides 4 and 8) of pictures [n, 3, h, w] in [0, 1].

    Each stage is divided by the mean size of the wanted picture's features.
    """
    network = timm.create_model(
        families.ARCHITECTURE, features_only=True, out_indices=FEATURE_STAGES
    )
    state = {name: value.float() for name, value in load_file(weights).items()}
    network.load_state_dict({name: state[name] for name in network.state_dict()})
    network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def distance(drawn: Tensor, wanted: Tensor) -> Tensor:
        with torch.no_grad():
            targets = network(families.ready(wanted * 255))
        parts = [
            (got - target).abs().mean() / target.abs().mean()
            for got, target in zip(network(families.ready(drawn * 255)), targets, strict=True)
        ]
        return torch.stack(parts).sum()

    return distance


def psnr(drawn: Tensor, wanted: Tensor) -> float:
    """Mean over pictures of 10 log10(1 / mse), in dB; pictures in [0, 1]."""
    mse = (drawn.clamp(0, 1) - wanted).square().flatten(1).mean(dim=1)
    return float((-10 * torch.log10(mse)).mean())


def draw_batch(cache: Cache, rows: np.ndarray, step: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy latents and pictures of step `step`; the draw depends on (seed, step) alone."""
    rng = np.random.default_rng((seed, step))
    chosen = rng.choice(rows, BATCH)
    copies = rng.integers(cache.latents.shape[1], size=BATCH)
    latents = torch.from_numpy(cache.latents[chosen, copies].astype(np.float32))
    level = NOISE * torch.from_numpy(rng.random((BATCH, 1, 1, 1)).astype(np.float32)) ** 2
    noise = torch.from_numpy(rng.standard_normal(latents.shape, dtype=np.float32))
    return latents + level * noise, as_pixels(cache.pictures[chosen, copies])


@torch.no_grad()
def held_out_psnr(autoencoder: AutoencoderTiny, cache: Cache, noise: float, seed: int) -> float:
    """PSNR on pictures of held-out airlines, with latents `noise` away from exact."""
    rows = np.flatnonzero(cache.held_out)[:128]
    latents = torch.from_numpy(cache.latents[rows, 0].astype(np.float32))
    generator = torch.Generator().manual_seed(seed)
    latents = latents + noise * torch.randn(latents.shape, generator=generator)
    return psnr(decode(autoencoder, latents), as_pixels(cache.pictures[rows, 0]))


def train(
    cache_folder: Path, out: Path, minutes: float, rate: float, seed: int, backbone: Path | None
) -> None:
    """Train for `minutes` of wall time from the last checkpoint, or from the start."""
    features = None if backbone is None else feature_distance(backbone)
    torch.manual_seed(seed)
    cache = Cache.open(cache_folder)
    rows = np.flatnonzero(~cache.held_out)
    autoencoder = build_autoencoder(PatchBasis.load(cache_folder / "basis.npz"))
    decoder = autoencoder.decoder.to(memory_format=torch.channels_last)
    average = Average(decoder)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=rate, betas=(0.9, 0.99))
    path, step, seconds = out / "decoder.pt", 0, 0.0
    if path.exists():
        state = load_checkpoint(path)
        decoder.load_state_dict(state["decoder"])
        average.load_state_dict(state["average"])
        if "optimizer" in state:
            optimizer.load_state_dict(state["optimizer"])
        step, seconds = state["step"], state["seconds"]
    started, saved = time.monotonic(), time.monotonic()
    while (elapsed := time.monotonic() - started) < minutes * 60:
        remaining = 1 - elapsed / (minutes * 60)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / WARM_UP) * (0.05 + 0.95 * remaining)
        latents, wanted = draw_batch(cache, rows, step, seed)
        drawn = decode(autoencoder, latents)
        loss = reconstruction_loss(drawn, wanted)
        if features is not None:
            loss = loss + FEATURE_WEIGHT * features(drawn, wanted)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        average.update(decoder, step)
        step += 1
        if step % 50 == 0:
            rate_seen = step * BATCH / (seconds + time.monotonic() - started)
            row = {"step": step, "loss": loss.item(), "img_per_s": round(rate_seen, 1)}
            append_log(out / "decoder.jsonl", row)
        if time.monotonic() - saved > 60:
            saved = time.monotonic()
            _save(path, decoder, average, optimizer, step, seconds + saved - started)
    _save(path, decoder, average, optimizer, step, seconds + time.monotonic() - started)
    decoder.load_state_dict(averaged_state(decoder, average))
    for noise in (0.0, 0.1, 0.2):
        value = held_out_psnr(autoencoder, cache, noise, seed)
        append_log(out / "decoder.jsonl", {"step": step, "noise": noise, "held_out_psnr": value})
        print(f"step {step} noise {noise}: {value:.2f} dB on held-out airlines")


def averaged_state(module: torch.nn.Module, average: Average) -> dict[str, Tensor]:
    """The module's state with averaged parameters in place of its own."""
    return module.state_dict() | average.state_dict()


def _save(
    path: Path,
    decoder: torch.nn.Module,
    average: Average,
    optimizer: torch.optim.Optimizer,
    step: int,
    seconds: float,
) -> None:
    save_atomic(
        {
            "decoder": decoder.state_dict(),
            "average": average.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": step,
            "seconds": seconds,
        },
        path,
    )


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--backbone", type=Path, help="backbone.safetensors: adds a feature loss")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    train(
        arguments.cache, arguments.out, arguments.minutes, arguments.rate, arguments.seed,
        arguments.backbone,
    )  # fmt: skip


if __name__ == "__main__":
    main()
