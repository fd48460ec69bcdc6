"""Stage 3a: latents as the denoiser really makes them, for the decoder to learn from.

    python -m tools.pocket.train.redraw --cache CACHE --run RUN --paired 2000 --free 500

Paired ones are latents of learnt pictures, noised to a middle level and denoised again under their
own contour and caption, so that the picture they should decode to is known. Free ones start from
pure noise. Writes CACHE/redrawn.npz: rows, copies (m,), latents float16 (m, c, h, w), paired (m,).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPTokenizer

from tools.pocket.train.batches import Shelf
from tools.pocket.train.checkpoint import load_checkpoint
from tools.pocket.train.denoiser import Generator
from tools.pocket.train.networks import LEVELS, Sizes, build_scheduler, sizes_of
from tools.pocket.train.prepare import Cache
from tools.pocket.train.text import token_ids

BATCH = 32
STEPS = 16
# Timesteps. Below the first the picture is all but kept, above the second its parts move.
MIDDLE = (200, 600)
SCALE = 3.0


def load_generator(cache: Path, run: Path, base: Sizes | None = None) -> Generator:
    """The averaged denoiser and ControlNet, in evaluation mode; `base` as `sizes_of`."""
    state = load_checkpoint(run / "denoiser.pt")
    tokenizer = CLIPTokenizer.from_pretrained(cache / "tokenizer", local_files_only=True)
    model = Generator(sizes_of(state["model"], base), tokenizer)
    model.load_state_dict(state["model"] | state["average"])
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Painter:
    """DDIM under text and contour; `scale` weighs them against neither, 1 being no guidance."""

    model: Generator
    empty: Tensor
    alphas_bar: Tensor

    @torch.no_grad()
    def paint(
        self, noisy: Tensor, tokens: Tensor, contours: Tensor, times: list[int], scale: float
    ) -> Tensor:
        """Latents (n, c, h, w) at times[0] to x0. contours: (n, 1, 8h, 8w) in [0, 1]."""
        x, n = noisy, len(noisy)
        guided = scale != 1
        nothing = self.empty.expand(n, -1)
        words = torch.cat([tokens, nothing]) if guided else tokens
        shown = contours.expand(-1, 3, -1, -1)
        for now, then in zip(times, [*times[1:], None], strict=True):
            alpha, sigma = self._level(now)
            both = torch.cat([x, x]) if guided else x
            times_now = torch.full((len(both),), now, device=x.device)
            v = self.model(both, times_now, words, shown)
            if guided:
                v = v[n:] + scale * (v[:n] - v[n:])
            x0, eps = alpha * x - sigma * v, alpha * v + sigma * x
            if then is None:
                return x0
            alpha, sigma = self._level(then)
            x = alpha * x0 + sigma * eps
        raise ValueError("no times")

    def _level(self, time: int) -> tuple[float, float]:
        alpha_bar = float(self.alphas_bar[time])
        return alpha_bar**0.5, (1 - alpha_bar) ** 0.5

    def noised(self, latents: Tensor, time: int, generator: torch.Generator) -> Tensor:
        """Latents as they are at `time`."""
        alpha, sigma = self._level(time)
        return alpha * latents + sigma * torch.randn(latents.shape, generator=generator)


def trailing(first: int, steps: int) -> list[int]:
    """Times from `first` downwards that are spaced as those of `steps` trailing steps in all."""
    whole = [LEVELS - 1 - round(LEVELS / steps * k) for k in range(steps)]
    return [first, *(time for time in whole if time < first)]


def redraw(
    cache: Cache, painter: Painter, paired: int, free: int, seed: int = 0
) -> dict[str, np.ndarray]:
    """The arrays of redrawn.npz; the first `paired` of them are paired."""
    shelf, device = Shelf.of(cache, torch.device("cpu")), painter.empty.device
    generator = torch.Generator().manual_seed(seed)
    learn = torch.from_numpy(np.flatnonzero(~cache.held_out))
    draw = partial(torch.randint, generator=generator)
    total = paired + free
    rows = learn[draw(len(learn), (total,))]
    copies = draw(shelf.latents.shape[1], (total,))
    is_paired = torch.arange(total) < paired
    found = []
    for kind, scale in ((True, 1.0), (False, SCALE)):
        chosen = torch.nonzero(is_paired == kind)[:, 0]
        for part in chosen.split(BATCH):
            first = int(draw(*MIDDLE, (1,))) if kind else LEVELS - 1
            latents = shelf.latents[rows[part], copies[part]].float()
            contours = shelf.contours[rows[part], copies[part]][:, None].float() / 255
            tokens = shelf.tokens[rows[part]].long()
            # of pure noise a last state has a hundredth of a picture, which must not be this one
            start = painter.noised(latents if kind else 0 * latents, first, generator)
            start, tokens, contours = (part.to(device) for part in (start, tokens, contours))
            x0 = painter.paint(start, tokens, contours, trailing(first, STEPS), scale)
            found.append(x0.half().cpu().numpy())
    return {
        "rows": rows.numpy(),
        "copies": copies.numpy(),
        "latents": np.concatenate(found),
        "paired": is_paired.numpy(),
    }


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """An .npz file, complete or not at all."""
    partial_file = path.with_suffix(".partial.npz")
    own: dict[str, Any] = dict(arrays)
    np.savez(partial_file, **own)
    partial_file.replace(path)


def main() -> None:
    """Read the command line, redraw and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--paired", type=int, default=2000)
    parser.add_argument("--free", type=int, default=500)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = CLIPTokenizer.from_pretrained(asked.cache / "tokenizer", local_files_only=True)
    painter = Painter(
        load_generator(asked.cache, asked.run),
        torch.tensor(token_ids(tokenizer, [""])),
        build_scheduler().alphas_cumprod,
    )
    arrays = redraw(Cache.open(asked.cache), painter, asked.paired, asked.free)
    path = asked.cache / "redrawn.npz"
    save_arrays(path, arrays)
    print(f"{asked.paired} paired and {asked.free} free latents")


if __name__ == "__main__":
    main()
