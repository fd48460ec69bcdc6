"""Stage 4: train denoiser and ControlNet together. Run again to resume.

    python -m tools.pocket.train.denoiser --cache CACHE --out RUN [--until 10000] [--minutes 60]

A leg's rate falls to nothing at `--until`. To add a leg to weights that had their last, also give
the step where it starts: `--start 10174 --until 14000 --rate 4e-4`. On a GPU that is there for
some minutes only, `--device cuda --batch 512 --minutes 5 --by-clock` lets the rate fall with the
minutes.

Each batch: the first half is drawn with contours through the ControlNet, the second half without
(50 % contour dropout); 12 % of the captions are replaced by the empty prompt. Loss: MSE of v with
all noise levels alike: with min-SNR weights (gamma 5), as in an earlier part of the pocket's
training, the high levels, where text decides what is drawn, counted a tenth of this and less.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from tools.pocket.train.batches import Batch, Shelf, draw_batch, training_rows
from tools.pocket.train.checkpoint import Average, append_log, load_checkpoint, save_atomic
from tools.pocket.train.networks import (
    Sizes,
    build_controlnet,
    build_scheduler,
    build_text_encoder,
    build_unet,
    sizes_of,
)
from tools.pocket.train.prepare import Cache
from tools.pocket.train.text import token_ids

BATCH = 64
WARM_UP = 200
WORKERS = 2
AVERAGED = 0.999
CPU = torch.device("cpu")


class Generator(nn.Module):
    """The text encoder, which words.py has taught and which stays as it is, and what is trained."""

    def __init__(self, sizes: Sizes, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.text_encoder: CLIPTextModel = build_text_encoder(sizes, tokenizer)
        self.unet: UNet2DConditionModel = build_unet(sizes)
        self.controlnet: ControlNetModel = build_controlnet(sizes, self.unet)

    def forward(self, noisy: Tensor, timesteps: Tensor, tokens: Tensor, contours: Tensor) -> Tensor:
        """Predicted v (n, c, h, w). `contours` (m, 3, 8h, 8w), m <= n, belong to the first m."""
        words = self.text_encoder(tokens).last_hidden_state
        return self.read(noisy, timesteps, words, contours)

    def read(self, noisy: Tensor, timesteps: Tensor, words: Tensor, contours: Tensor) -> Tensor:
        """`forward` of the text encoder's last hidden states (n, 32, width)."""
        m, n = len(contours), len(noisy)
        if m == 0:
            return self.unet(noisy, timesteps, words).sample
        down, middle = self.controlnet(
            noisy[:m], timesteps[:m], words[:m], contours, return_dict=False
        )
        # no residual at all is the same as a residual of zero
        down, middle = [_pad_rows(part, n) for part in down], _pad_rows(middle, n)
        return self.unet(
            noisy,
            timesteps,
            words,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample


def _pad_rows(part: Tensor, n: int) -> Tensor:
    return torch.cat([part, part.new_zeros(n - len(part), *part.shape[1:])])


def denoising_loss(model: Generator, batch: Batch, alphas_bar: Tensor) -> Tensor:
    """Per-image MSE of v = alpha eps - sigma x0 (Salimans & Ho 2022, app. D), shape (n,)."""
    alpha_bar = alphas_bar[batch.timesteps].view(-1, 1, 1, 1)
    alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    noisy = alpha * batch.latents + sigma * batch.noise
    wanted = alpha * batch.noise - sigma * batch.latents
    noisy = noisy.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cuda", torch.bfloat16, enabled=noisy.is_cuda):
        drawn = model(noisy, batch.timesteps, batch.tokens, batch.contours)
    return (drawn.float() - wanted).square().flatten(1).mean(dim=1)


@dataclass(frozen=True)
class Rate:
    """Learning rate of one leg: warm-up from step `start`, then down to nothing at `until`."""

    peak: float = 1e-3
    start: int = 0
    until: int = 10_000
    warm_up: int = WARM_UP

    def at(self, step: int, time_left: float = 1.0) -> float:
        """The rate of step number `step`; of the leg's last step when it is past.

        `time_left` in [0, 1]: the share of the leg's time, where that ends it before its steps do.
        """
        left = max(1, self.until - step) / (self.until - self.start)
        return self.peak * min(1.0, (step - self.start + 1) / self.warm_up) * min(left, time_left)


class Trainer:
    """Model, average, optimizer and step; `load` and `save` make runs resumable."""

    def __init__(
        self,
        cache_folder: Path,
        out: Path,
        seed: int,
        rate: Rate,
        batch: int,
        sizes: Sizes,
        device: torch.device = CPU,
        workers: int = WORKERS,
        averaged: float = AVERAGED,
        late: float = 0.0,
    ) -> None:
        torch.manual_seed(seed)
        cache = Cache.open(cache_folder)
        self.shelf = Shelf.of(cache, device)
        self.rows = torch.from_numpy(training_rows(cache)).to(device)
        self.held_rows = torch.from_numpy(np.flatnonzero(cache.held_out)).to(device)
        tokenizer = CLIPTokenizer.from_pretrained(cache_folder / "tokenizer", local_files_only=True)
        self.empty = torch.tensor(token_ids(tokenizer, [""])[0], device=device)
        self.model = Generator(sizes, tokenizer).to(device, memory_format=torch.channels_last)
        taught = load_checkpoint(cache_folder / "text_encoder.pt")["text_encoder"]
        self.model.text_encoder.load_state_dict(taught)
        self.model.text_encoder.requires_grad_(False)
        self.average = Average(self.model, averaged)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=rate.peak, betas=(0.9, 0.99), weight_decay=1e-2, fused=True
        )
        # On CPUs two single-threaded halves of a batch meet once per step; two threads inside each
        # operation meet thousands of times, which is slow where other work shares the cores.
        self.workers = workers if device.type == "cpu" else 1
        self.pool = ThreadPoolExecutor(self.workers)
        self.alphas_bar = build_scheduler().alphas_cumprod.to(device)
        self.path, self.log = out / "denoiser.pt", out / "denoiser.jsonl"
        self.seed, self.rate, self.batch, self.late = seed, rate, batch, late
        self.step_number, self.seen, self.seconds = 0, 0, 0.0

    def load(self) -> None:
        """Continue from the checkpoint, if there is one."""
        if not self.path.exists():
            return
        state = load_checkpoint(self.path)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        # unpack.py has no state of an optimizer to give; the leg's warm-up makes up for it
        if "optimizer" in state:
            self.optimizer.load_state_dict(state["optimizer"])
        self.step_number, self.seen = state["step"], state["seen"]
        self.seconds = state["seconds"]

    def save(self) -> None:
        """Write the checkpoint atomically."""
        save_atomic(
            {
                "model": self.model.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "step": self.step_number,
                "seen": self.seen,
                "seconds": self.seconds,
            },
            self.path,
        )

    def step(self, time_left: float = 1.0) -> Tensor:
        """One optimizer step; returns the batch's mean loss, []. `time_left` as `Rate.at`."""
        started = time.monotonic()
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate.at(self.step_number, time_left)
        results = list(self.pool.map(self._gradients, range(self.workers)))
        for parameter, *parts in zip(
            self.parameters, *(gradients for _, gradients in results), strict=True
        ):
            parameter.grad = sum(parts[1:], parts[0]) / self.workers
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.average.update(self.model, self.step_number)
        self.step_number += 1
        self.seen += self.batch
        self.seconds += time.monotonic() - started
        # not read here: a GPU would have to catch up
        return torch.stack([loss for loss, _ in results]).mean()

    def _gradients(self, worker: int) -> tuple[Tensor, Sequence[Tensor]]:
        """Loss and gradients of one worker's share of the step's batch."""
        size = self.batch // self.workers
        seed = (self.seed, self.step_number * self.workers + worker)
        batch = draw_batch(self.shelf, self.rows, self.empty, seed, size, size // 2, self.late)
        loss = denoising_loss(self.model, batch, self.alphas_bar).mean()
        gradients = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
        return loss.detach(), gradients

    @torch.no_grad()
    def held_out_loss(self, batches: int = 4) -> dict[str, float]:
        """Loss of the averaged weights on held-out airlines, with and without contours."""
        trained = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self.model.load_state_dict(self.average.state_dict(), strict=False)
        totals = {"with_contour": 0.0, "text_only": 0.0}
        for number in range(batches):
            for name, shown in (("with_contour", self.batch), ("text_only", 0)):
                seed = (self.seed + 1, number)
                batch = draw_batch(self.shelf, self.held_rows, self.empty, seed, self.batch, shown)
                loss = denoising_loss(self.model, batch, self.alphas_bar).mean().item()
                totals[name] += loss / batches
        self.model.load_state_dict(trained, strict=False)
        return totals


def train(trainer: Trainer, until: int, minutes: float, by_clock: bool = False) -> None:
    """Train to step `until` or for `minutes`, with a checkpoint every three minutes.

    `by_clock`: the rate falls to nothing with the minutes.
    """
    trainer.load()
    began = saved = logged = time.monotonic()
    recent: list[Tensor] = []
    while trainer.step_number < until and (now := time.monotonic()) - began < minutes * 60:
        left = 1 - (now - began) / (minutes * 60) if by_clock else 1.0
        recent.append(trainer.step(left))
        now = time.monotonic()
        if trainer.step_number % 25 == 0:
            loss = torch.stack(recent).mean().item()
            speed = len(recent) * trainer.batch / (time.monotonic() - logged)
            row = {"step": trainer.step_number, "loss": round(loss, 5)}
            append_log(trainer.log, row | {"img_per_s": round(speed, 1)})
            recent, logged = [], time.monotonic()
        if trainer.step_number % 250 == 0:
            append_log(trainer.log, {"step": trainer.step_number} | trainer.held_out_loss())
            logged = time.monotonic()
        if now - saved > 180:
            trainer.save()
            saved = time.monotonic()
    trainer.save()


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=int, default=Rate.start)
    parser.add_argument("--until", type=int, default=Rate.until)
    parser.add_argument("--minutes", type=float, default=1e6)
    parser.add_argument("--rate", type=float, default=Rate.peak)
    parser.add_argument("--by-clock", action="store_true", help="the rate falls with --minutes")
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--device", type=torch.device, default=CPU)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=WORKERS, help="threads, on a CPU")
    parser.add_argument("--averaged", type=float, default=AVERAGED, help="decay of the average")
    parser.add_argument("--warm-up", type=int, default=WARM_UP, help="steps")
    parser.add_argument("--late", type=float, default=0.0, help="more of the noisiest tenth")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = True
    arguments.out.mkdir(parents=True, exist_ok=True)
    rate = Rate(arguments.rate, arguments.start, arguments.until, arguments.warm_up)
    path = arguments.out / "denoiser.pt"
    sizes = sizes_of(load_checkpoint(path)["model"]) if path.exists() else Sizes()
    trainer = Trainer(
        arguments.cache,
        arguments.out,
        arguments.seed,
        rate,
        arguments.batch,
        sizes,
        arguments.device,
        arguments.workers,
        arguments.averaged,
        arguments.late,
    )
    train(trainer, arguments.until, arguments.minutes, arguments.by_clock)


if __name__ == "__main__":
    main()
