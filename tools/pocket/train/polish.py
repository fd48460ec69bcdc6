"""Stage 3b: teach the decoder to draw sharp pictures of latents that are not quite right.

    python -m tools.pocket.train.polish --cache CACHE --out RUN --backbone FILE --minutes 30

Goes on from RUN/decoder.pt. A mean error alone makes soft pictures: where a latent leaves open what
the picture showed, their mean is right on average and looks like none of them. Here a small network
also tells drawn from rendered patches (hinge loss), and the decoder learns not to be found out, on
true latents with noise, on latents redrawn by the denoiser, and on free ones (redraw.py). Its pull
is a fixed share of the other losses' gradient at the picture. Run again to resume.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from tools.pocket.train.autoencoder import PatchBasis, build_autoencoder
from tools.pocket.train.checkpoint import Average, append_log, load_checkpoint, save_atomic
from tools.pocket.train.decoder import (
    FEATURE_WEIGHT,
    NOISE,
    as_pixels,
    averaged_state,
    decode,
    feature_distance,
    held_out_psnr,
    reconstruction_loss,
)
from tools.pocket.train.prepare import Cache

CPU = torch.device("cpu")
WARM_UP = 50
# Pixels of a redrawn latent's picture lie a little elsewhere: they count for less.
PAIRED_PIXELS = 0.3


def build_critic(width: int = 40) -> nn.Sequential:
    """Pictures [n, 3, h, w] in [0, 1] to a map of scores of overlapping patches of 46 pixels."""

    def layer(first: int, last: int, kernel: int, stride: int) -> nn.Module:
        return spectral_norm(nn.Conv2d(first, last, kernel, stride, kernel // 2))

    return nn.Sequential(
        layer(3, width, 3, 1),
        nn.LeakyReLU(0.2),
        layer(width, 2 * width, 4, 2),
        nn.LeakyReLU(0.2),
        layer(2 * width, 3 * width, 4, 2),
        nn.LeakyReLU(0.2),
        layer(3 * width, 4 * width, 4, 2),
        nn.LeakyReLU(0.2),
        layer(4 * width, 1, 3, 1),
    )


@dataclass(frozen=True)
class Diet:
    """How many of a batch are true latents with noise, redrawn with a known picture, and free."""

    true: int = 6
    paired: int = 4
    free: int = 2

    @property
    def known(self) -> int:
        """Those whose picture is known; they come first."""
        return self.true + self.paired


@dataclass(frozen=True)
class Course:
    """Minutes of this run, peak rate, the critic's share of the pull, and where."""

    minutes: float
    rate: float = 3e-4
    pull: float = 0.5
    diet: Diet = Diet()
    seed: int = 0
    device: torch.device = field(default_factory=lambda: CPU)


@dataclass(frozen=True)
class Redrawn:
    """The arrays of redrawn.npz."""

    rows: np.ndarray
    copies: np.ndarray
    latents: np.ndarray
    paired: np.ndarray

    @classmethod
    def open(cls, folder: Path) -> Redrawn:
        with np.load(folder / "redrawn.npz") as stored:
            return cls(**{name: stored[name] for name in stored.files})


def draw_batch(
    cache: Cache, redrawn: Redrawn, diet: Diet, seed: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, the first ones' pictures, and as many other pictures for the critic."""
    rng = np.random.default_rng(seed)
    learn = np.flatnonzero(~cache.held_out)
    total = diet.known + diet.free
    rows = rng.choice(learn, diet.true + total)
    copies = rng.integers(cache.latents.shape[1], size=len(rows))
    own, others = (rows[: diet.true], copies[: diet.true]), (rows[diet.true :], copies[diet.true :])
    true = torch.from_numpy(cache.latents[own].astype(np.float32))
    level = NOISE * torch.from_numpy(rng.random((diet.true, 1, 1, 1)).astype(np.float32)) ** 2
    true = true + level * torch.from_numpy(rng.standard_normal(true.shape, dtype=np.float32))
    paired = rng.choice(np.flatnonzero(redrawn.paired), diet.paired)
    free = rng.choice(np.flatnonzero(~redrawn.paired), diet.free)
    drawn = redrawn.latents[np.concatenate([paired, free])].astype(np.float32)
    latents = torch.cat([true, torch.from_numpy(drawn)])
    pair = (redrawn.rows[paired], redrawn.copies[paired])
    wanted = np.concatenate([cache.pictures[own], cache.pictures[pair]])
    return latents, as_pixels(wanted), as_pixels(cache.pictures[others])


class Trainer:
    """Decoder, critic, their optimizers and the step; resumes from RUN/decoder.pt."""

    def __init__(self, cache_folder: Path, out: Path, backbone: Path, course: Course) -> None:
        torch.manual_seed(course.seed)
        self.course, self.cache = course, Cache.open(cache_folder)
        self.redrawn = Redrawn.open(cache_folder)
        self.features = feature_distance(backbone, course.device)
        autoencoder = build_autoencoder(PatchBasis.load(cache_folder / "basis.npz"))
        self.autoencoder = autoencoder.to(course.device)
        self.decoder = autoencoder.decoder.to(memory_format=torch.channels_last)
        self.critic = build_critic().to(course.device, memory_format=torch.channels_last)
        adam = torch.optim.AdamW
        self.optimizer = adam(self.decoder.parameters(), lr=course.rate, betas=(0.5, 0.99))
        self.critic_optimizer = adam(self.critic.parameters(), lr=course.rate, betas=(0.5, 0.99))
        self.path, self.log = out / "decoder.pt", out / "polish.jsonl"
        state = load_checkpoint(self.path)
        self.decoder.load_state_dict(state["decoder"] | state["average"])
        self.average = Average(self.decoder, ceiling=0.995)
        self.step_number, self.seen, self.seconds = state["step"], state["seen"], state["seconds"]
        self.own_steps = 0
        if "critic" in state:
            self._resume(state)

    def _resume(self, state: dict[str, Any]) -> None:
        self.decoder.load_state_dict(state["decoder"])
        self.average.load_state_dict(state["average"])
        self.critic.load_state_dict(state["critic"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.critic_optimizer.load_state_dict(state["critic_optimizer"])
        self.own_steps = state["own_steps"]

    def step(self, left: float) -> dict[str, float]:
        """One step of critic and decoder; `left`: share of the run's time. Returns the losses."""
        rate = self.course.rate * min(1, (self.own_steps + 1) / WARM_UP) * (0.05 + 0.95 * left)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batch = draw_batch(
            self.cache, self.redrawn, self.course.diet, (self.course.seed, self.step_number)
        )
        latents, wanted, others = (part.to(self.course.device) for part in batch)
        drawn = decode(self.autoencoder, latents)
        scores = self._teach_critic(drawn.detach(), others)
        picture = drawn.detach().requires_grad_()
        known = self._known_loss(picture, wanted)
        (toward,) = torch.autograd.grad(known, picture)
        # Before the critic knows anything its opinion is noise.
        share = self.course.pull * min(1, self.own_steps / (4 * WARM_UP))
        fooled = -self.critic(picture).mean()
        (away,) = torch.autograd.grad(fooled, picture)
        pull = share * toward.norm() / away.norm().clamp(min=1e-12)
        self.optimizer.zero_grad(set_to_none=True)
        drawn.backward(toward + pull * away)
        nn.utils.clip_grad_norm_(self.decoder.parameters(), 1.0)
        self.optimizer.step()
        self.average.update(self.decoder, self.own_steps)
        self.step_number += 1
        self.own_steps += 1
        self.seen += len(latents)
        return {"known": known.item(), "rate": rate} | scores

    def _known_loss(self, drawn: Tensor, wanted: Tensor) -> Tensor:
        """Pixels and features of those whose picture is known."""
        diet = self.course.diet
        true, paired = drawn[: diet.true], drawn[diet.true : diet.known]
        pixels = reconstruction_loss(true, wanted[: diet.true])
        pixels = pixels + PAIRED_PIXELS * reconstruction_loss(paired, wanted[diet.true :])
        return pixels + FEATURE_WEIGHT * self.features(drawn[: diet.known], wanted)

    def _teach_critic(self, drawn: Tensor, rendered: Tensor) -> dict[str, float]:
        """Hinge loss; returns mean scores of both."""
        low, high = self.critic(drawn.contiguous()), self.critic(rendered)
        loss = (1 + low).relu().mean() + (1 - high).relu().mean()
        self.critic_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.critic_optimizer.step()
        return {"drawn": low.mean().item(), "rendered": high.mean().item()}

    def save(self, elapsed: float) -> None:
        """Write the checkpoint atomically."""
        state: dict[str, Any] = {
            name: getattr(self, name).state_dict()
            for name in ("decoder", "average", "optimizer", "critic", "critic_optimizer")
        }
        state |= {"step": self.step_number, "seen": self.seen, "own_steps": self.own_steps}
        save_atomic(state | {"seconds": self.seconds + elapsed}, self.path)


def train(trainer: Trainer) -> None:
    """Train for the course's minutes, with a checkpoint every three minutes."""
    minutes = trainer.course.minutes
    began = saved = time.monotonic()
    recent: list[dict[str, float]] = []
    while (elapsed := time.monotonic() - began) < minutes * 60:
        recent.append(trainer.step(1 - elapsed / (minutes * 60)))
        if trainer.own_steps % 20 == 0:
            means = {key: round(float(np.mean([r[key] for r in recent])), 5) for key in recent[0]}
            append_log(trainer.log, {"step": trainer.step_number, "s": round(elapsed)} | means)
            recent = []
        if time.monotonic() - saved > 180:
            saved = time.monotonic()
            trainer.save(saved - began)
    trainer.save(time.monotonic() - began)
    trainer.decoder.load_state_dict(averaged_state(trainer.decoder, trainer.average))
    for noise in (0.0, 0.1, 0.2):
        value = held_out_psnr(trainer.autoencoder.cpu(), trainer.cache, noise, trainer.course.seed)
        row = {"step": trainer.step_number, "noise": noise, "held_out_psnr": value}
        append_log(trainer.path.with_name("decoder.jsonl"), row)
        print(row)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--backbone", type=Path, required=True, help="backbone.safetensors")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--rate", type=float, default=Course.rate)
    parser.add_argument("--pull", type=float, default=Course.pull)
    parser.add_argument("--seed", type=int, default=Course.seed)
    parser.add_argument("--device", type=torch.device, default=CPU)
    parser.add_argument("--scale", type=int, default=1, help="batches of so many times 12")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    diet = Diet(*(asked.scale * part for part in (Diet.true, Diet.paired, Diet.free)))
    course = Course(asked.minutes, asked.rate, asked.pull, diet, asked.seed, asked.device)
    train(Trainer(asked.cache, asked.out, asked.backbone, course))


if __name__ == "__main__":
    main()
