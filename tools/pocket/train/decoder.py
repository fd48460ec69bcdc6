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
from dataclasses import dataclass
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
CPU = torch.device("cpu")
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


def trained_autoencoder(cache: Path, checkpoint: Path) -> AutoencoderTiny:
    """The cache's encoder, and a decoder as wide as the checkpoint's, or the default where none is.

    The decoder's weights are not loaded.
    """
    basis = PatchBasis.load(cache / "basis.npz")
    if not checkpoint.exists():
        return build_autoencoder(basis)
    return build_autoencoder(basis, len(load_checkpoint(checkpoint)["decoder"]["layers.0.weight"]))


Features = Callable[[Tensor], list[Tensor]]


def frozen_features(weights: Path, device: torch.device, stages: tuple[int, ...]) -> Features:
    """The backbone's features at some stages (0 has half of its input's side, each further one half
    of the last's) of pictures [n, 3, h, w] in [0, 1], differentiable.
    """
    network = timm.create_model(families.ARCHITECTURE, features_only=True, out_indices=stages)
    state = {name: value.float() for name, value in load_file(weights).items()}
    network.load_state_dict({name: state[name] for name in network.state_dict()})
    network = network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)
    return lambda pictures: network(families.ready(pictures * 255))


def relative_distance(drawn: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """L1 distance of features, each stage divided by the mean size of the wanted ones; summed."""
    parts = [
        (got - target).abs().mean() / target.abs().mean()
        for got, target in zip(drawn, wanted, strict=True)
    ]
    return torch.stack(parts).sum()


def feature_distance(weights: Path, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """`relative_distance` of pictures [n, 3, h, w] in [0, 1] at strides 4 and 8."""
    features = frozen_features(weights, device, FEATURE_STAGES)

    def distance(drawn: Tensor, wanted: Tensor) -> Tensor:
        with torch.no_grad():
            targets = features(wanted)
        return relative_distance(features(drawn), targets)

    return distance


def psnr(drawn: Tensor, wanted: Tensor) -> float:
    """Mean over pictures of 10 log10(1 / mse), in dB; pictures in [0, 1]."""
    mse = (drawn.clamp(0, 1) - wanted).square().flatten(1).mean(dim=1)
    return float((-10 * torch.log10(mse)).mean())


def draw_batch(
    cache: Cache, rows: np.ndarray, step: int, seed: int, size: int
) -> tuple[Tensor, Tensor]:
    """Noisy latents and pictures of step `step`; the draw depends on (seed, step, size) alone."""
    rng = np.random.default_rng((seed, step))
    chosen = rng.choice(rows, size)
    copies = rng.integers(cache.latents.shape[1], size=size)
    latents = torch.from_numpy(cache.latents[chosen, copies].astype(np.float32))
    level = NOISE * torch.from_numpy(rng.random((size, 1, 1, 1)).astype(np.float32)) ** 2
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


@dataclass(frozen=True)
class Course:
    """How a decoder is trained: minutes of wall time, peak rate, pictures per step, and where.

    `backbone`: weights whose features join the loss.
    """

    minutes: float
    rate: float = 1e-3
    batch: int = BATCH
    backbone: Path | None = None
    seed: int = 0
    device: torch.device = CPU

    def rate_at(self, step: int, elapsed: float) -> float:
        """The rate of step number `step`, `elapsed` seconds after the start of this run."""
        remaining = 1 - elapsed / (self.minutes * 60)
        return self.rate * min(1, (step + 1) / WARM_UP) * (0.05 + 0.95 * remaining)


class Trainer:
    """Decoder, average, optimizer and step; resumes from the checkpoint in `out`."""

    def __init__(self, cache_folder: Path, out: Path, course: Course) -> None:
        torch.manual_seed(course.seed)
        self.course, self.cache = course, Cache.open(cache_folder)
        self.rows = np.flatnonzero(~self.cache.held_out)
        self.features = (
            None if course.backbone is None else feature_distance(course.backbone, course.device)
        )
        autoencoder = trained_autoencoder(cache_folder, out / "decoder.pt")
        self.autoencoder = autoencoder.to(course.device)
        self.decoder = autoencoder.decoder.to(memory_format=torch.channels_last)
        self.average = Average(self.decoder)
        self.optimizer = torch.optim.AdamW(
            self.decoder.parameters(), lr=course.rate, betas=(0.9, 0.99)
        )
        self.path, self.log = out / "decoder.pt", out / "decoder.jsonl"
        self.step_number, self.seen, self.seconds = 0, 0, 0.0
        if self.path.exists():
            self._load()

    def _load(self) -> None:
        state = load_checkpoint(self.path)
        self.decoder.load_state_dict(state["decoder"])
        self.average.load_state_dict(state["average"])
        if "optimizer" in state:
            self.optimizer.load_state_dict(state["optimizer"])
        self.step_number, self.seen = state["step"], state["seen"]
        self.seconds = state["seconds"]

    def step(self, elapsed: float) -> Tensor:
        """One optimizer step, `elapsed` seconds after the start of this run; the loss, []."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.course.rate_at(self.step_number, elapsed)
        batch = draw_batch(
            self.cache, self.rows, self.step_number, self.course.seed, self.course.batch
        )
        latents, wanted = (part.to(self.course.device) for part in batch)
        drawn = decode(self.autoencoder, latents)
        loss = reconstruction_loss(drawn, wanted)
        if self.features is not None:
            loss = loss + FEATURE_WEIGHT * self.features(drawn, wanted)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.decoder.parameters(), 1.0)
        self.optimizer.step()
        self.average.update(self.decoder, self.step_number)
        self.step_number += 1
        self.seen += self.course.batch
        return loss.detach()

    def save(self, elapsed: float) -> None:
        """Write the checkpoint atomically."""
        save_atomic(
            {
                "decoder": self.decoder.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "step": self.step_number,
                "seen": self.seen,
                "seconds": self.seconds + elapsed,
            },
            self.path,
        )


def train(cache_folder: Path, out: Path, course: Course) -> None:
    """Train for the course's minutes from the last checkpoint, or from the start."""
    trainer = Trainer(cache_folder, out, course)
    started = saved = time.monotonic()
    while (elapsed := time.monotonic() - started) < course.minutes * 60:
        loss = trainer.step(elapsed)
        if trainer.step_number % 50 == 0:
            row = {"step": trainer.step_number, "loss": loss.item(), "seconds": round(elapsed)}
            append_log(trainer.log, row)
        if time.monotonic() - saved > 60:
            saved = time.monotonic()
            trainer.save(saved - started)
    trainer.save(time.monotonic() - started)
    trainer.decoder.load_state_dict(averaged_state(trainer.decoder, trainer.average))
    for noise in (0.0, 0.1, 0.2):
        value = held_out_psnr(trainer.autoencoder.cpu(), trainer.cache, noise, course.seed)
        append_log(
            trainer.log, {"step": trainer.step_number, "noise": noise, "held_out_psnr": value}
        )
        print(f"step {trainer.step_number} noise {noise}: {value:.2f} dB on held-out airlines")


def averaged_state(module: torch.nn.Module, average: Average) -> dict[str, Tensor]:
    """The module's state with averaged parameters in place of its own."""
    return module.state_dict() | average.state_dict()


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--rate", type=float, default=Course.rate)
    parser.add_argument("--batch", type=int, default=Course.batch)
    parser.add_argument("--seed", type=int, default=Course.seed)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", type=torch.device, default=Course.device)
    parser.add_argument("--backbone", type=Path, help="backbone.safetensors: adds a feature loss")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    course = Course(**{name: getattr(arguments, name) for name in Course.__dataclass_fields__})
    train(arguments.cache, arguments.out, course)


if __name__ == "__main__":
    main()
