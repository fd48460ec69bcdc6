"""Stage 3b: teach the decoder to draw sharp pictures of latents that are not quite right.

    python -m tools.pocket.train.polish --cache CACHE --out RUN --backbone FILE --minutes 30

Goes on from RUN/decoder.pt. A mean error alone makes soft pictures: where a latent leaves open what
the picture showed, their mean is right on average and looks like none of them. Here a critic of
the backbone's features tells drawn from rendered ones (hinge loss), and the decoder learns not to
be found out: on true latents with noise, on latents redrawn by the denoiser, and on free ones
(redraw.py). Its pull on the picture is a fixed share of the other losses'. Run again to resume.
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

from tools.pocket.train.checkpoint import Average, append_log, load_checkpoint, save_atomic
from tools.pocket.train.critic import Critic, hinge, mean_score
from tools.pocket.train.decoder import (
    FEATURE_WEIGHT,
    NOISE,
    as_pixels,
    averaged_state,
    decode,
    frozen_features,
    held_out_psnr,
    reconstruction_loss,
    relative_distance,
    trained_autoencoder,
)
from tools.pocket.train.prepare import Cache

CPU = torch.device("cpu")
WARM_UP = 50
WEIGHED_EVERY = 10
CRITIC_RATE = 1e-3
STAGES = (0, 1, 2)
# Pixels of a redrawn latent's picture lie a little elsewhere: they count for less.
PAIRED_PIXELS = 0.3


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
        self.features = frozen_features(backbone, course.device, STAGES)
        autoencoder = trained_autoencoder(cache_folder, out / "decoder.pt")
        self.autoencoder = autoencoder.to(course.device)
        self.decoder = autoencoder.decoder.to(memory_format=torch.channels_last)
        sample = torch.from_numpy(self.cache.pictures[:24, 0]).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            found = self.features(sample.to(course.device))
        self.critic = Critic([len(one[0]) for one in found]).to(course.device)
        self.critic.fit_sizes(found)
        adam = torch.optim.AdamW
        self.optimizer = adam(self.decoder.parameters(), lr=course.rate, betas=(0.5, 0.99))
        self.critic_optimizer = adam(self.critic.parameters(), lr=CRITIC_RATE, betas=(0.5, 0.99))
        self.weight = 0.0
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
        with torch.no_grad():
            real = self.features(others)
            targets = self.features(wanted)
        drawn = decode(self.autoencoder, latents)
        seen = self.features(drawn)
        scores = self._teach_critic([one.detach() for one in seen], real)
        known = self._known_loss(drawn, wanted, seen, targets)
        fooled = -mean_score(self.critic(seen))
        if self.own_steps % WEIGHED_EVERY == 0:
            self._weigh(known, fooled, drawn)
        # Before the critic knows anything its opinion is noise.
        share = min(1, self.own_steps / (2 * WARM_UP))
        self.optimizer.zero_grad(set_to_none=True)
        (known + share * self.weight * fooled).backward()
        nn.utils.clip_grad_norm_(self.decoder.parameters(), 1.0)
        self.optimizer.step()
        self.average.update(self.decoder, self.own_steps)
        self.step_number += 1
        self.own_steps += 1
        self.seen += len(latents)
        return {"known": known.item(), "weight": self.weight} | scores

    def _weigh(self, known: Tensor, fooled: Tensor, drawn: Tensor) -> None:
        """Choose the critic's weight so that its pull on the picture is the course's share."""
        (toward,) = torch.autograd.grad(known, drawn, retain_graph=True)
        (away,) = torch.autograd.grad(fooled, drawn, retain_graph=True)
        self.weight = self.course.pull * float(toward.norm() / away.norm().clamp(min=1e-12))

    def _known_loss(
        self, drawn: Tensor, wanted: Tensor, seen: list[Tensor], targets: list[Tensor]
    ) -> Tensor:
        """Pixels and features of those whose picture is known."""
        diet = self.course.diet
        true, paired = drawn[: diet.true], drawn[diet.true : diet.known]
        pixels = reconstruction_loss(true, wanted[: diet.true])
        pixels = pixels + PAIRED_PIXELS * reconstruction_loss(paired, wanted[diet.true :])
        own = [one[: diet.known] for one in seen]
        return pixels + FEATURE_WEIGHT * relative_distance(own, targets)

    def _teach_critic(self, drawn: list[Tensor], rendered: list[Tensor]) -> dict[str, float]:
        """Hinge loss of features; returns mean scores of both."""
        low, high = self.critic(drawn), self.critic(rendered)
        loss = hinge(low, -1) + hinge(high, 1)
        self.critic_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.critic_optimizer.step()
        return {"drawn": mean_score(low).item(), "rendered": mean_score(high).item()}

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
