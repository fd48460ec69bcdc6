"""What a denoiser is shown: batches of latents, captions, contours, noise and levels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from tools.pocket.train.contours import degrade
from tools.pocket.train.networks import LEVELS
from tools.pocket.train.prepare import Cache

CAPTION_DROPOUT = 0.12
NAMED = 3


@dataclass(frozen=True)
class Batch:
    """Latents (n, c, h, w), tokens (n, 32), contours of the first m, timesteps and noise."""

    latents: Tensor
    tokens: Tensor
    contours: Tensor
    timesteps: Tensor
    noise: Tensor


def drop_captions(tokens: Tensor, empty: Tensor, generator: torch.Generator) -> Tensor:
    """Tokens (n, 32) with each row replaced by the empty prompt's with probability 0.12."""
    draws = torch.rand(len(tokens), generator=generator, device=tokens.device)
    dropped = draws < CAPTION_DROPOUT
    return torch.where(dropped[:, None], empty, tokens)


@dataclass(frozen=True)
class Shelf:
    """What batches are taken from, as tensors on the device that trains; shapes as in `Cache`."""

    latents: Tensor
    tokens: Tensor
    contours: Tensor

    @classmethod
    def of(cls, cache: Cache, device: torch.device) -> Shelf:
        """A cache's arrays: read where they lie on the CPU, moved to any other device."""
        names = ("latents", "tokens", "contours")
        return cls(*(torch.from_numpy(getattr(cache, name)).to(device) for name in names))


def draw_batch(
    shelf: Shelf,
    rows: Tensor,
    empty: Tensor,
    seed: tuple[int, int],
    size: int,
    shown: int,
    late: float = 0.0,
) -> Batch:
    """A batch that depends on `seed` = (run, draw) alone; its first `shown` rows have contours.

    late: share of rows whose level is drawn from the noisiest tenth.
    """
    device = shelf.latents.device
    generator = torch.Generator(device).manual_seed(seed[0] * 10_000_019 + seed[1])
    draw = partial(torch.randint, size=(size,), generator=generator, device=device)
    chosen = rows[draw(len(rows))]
    copies = draw(shelf.latents.shape[1])
    latents = shelf.latents[chosen, copies].float()
    tokens = drop_captions(shelf.tokens[chosen].long(), empty, generator)
    timesteps = draw(LEVELS)
    noise = torch.randn(latents.shape, generator=generator, device=device)
    # drawn last: the rest of a batch is the same with and without contours
    contours = shelf.contours[chosen[:shown], copies[:shown]]
    contours = degraded(contours, generator)
    if late:
        moved = torch.rand(size, generator=generator, device=device) < late
        timesteps = torch.where(moved, LEVELS - 1 - timesteps // 10, timesteps)
    return Batch(latents, tokens, contours, timesteps, noise)


def degraded(contours: Tensor, generator: torch.Generator) -> Tensor:
    """uint8 contours (m, h, w) as a ControlNet is shown them: (m, 3, h, w) in [0, 1]."""
    return degrade(contours[:, None].float() / 255, generator).expand(-1, 3, -1, -1)


def training_rows(cache: Cache) -> np.ndarray:
    """Row numbers to draw from: those whose caption names a variant stand in them three times.

    Captions of a family or a maker teach what aircraft look like, but not which is which.
    """
    learn = np.flatnonzero(~cache.held_out)
    return np.concatenate([learn, np.repeat(learn[cache.named[learn]], NAMED - 1)])
