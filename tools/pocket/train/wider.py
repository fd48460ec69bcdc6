"""A wider denoiser that starts as a narrow one (Chen et al. 2016, arXiv 1511.05641).

    python -m tools.pocket.train.wider --cache CACHE --run RUN --channels 192 160

Every channel of a level that doubles is copied; what read the one reads both, in random shares that
add up to the old weight, so that the two learn apart. Exact where every level doubles; where one
does, the group norms of joined levels see other groups, which some hundred steps mend.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from tools.pocket.train.checkpoint import load_checkpoint, save_atomic
from tools.pocket.train.denoiser import Generator
from tools.pocket.train.networks import Sizes, sizes_of

# Shares of the two copies: one half each, give or take this.
APART = 0.2
NO_MAP = "{name}: {old} channels have no place in {new}"


def origins(old: int, new: int, narrow: Sizes, wide: Sizes, name: str) -> Tensor:
    """For each of `new` channels the one of `old` that it copies, [new].

    Raises ValueError where they are neither the same, nor twice as many, nor joined levels.
    """
    if old == new:
        return torch.arange(old)
    if new == 2 * old:
        return torch.arange(new) // 2
    (a, b), (wide_a, wide_b) = narrow.unet_channels, wide.unet_channels
    for first, last, wide_first, wide_last in ((b, a, wide_b, wide_a), (a, b, wide_a, wide_b)):
        if (first + last, wide_first + wide_last) == (old, new):
            ahead = origins(first, wide_first, narrow, wide, name)
            behind = origins(last, wide_last, narrow, wide, name)
            return torch.cat([ahead, first + behind])
    raise ValueError(NO_MAP.format(name=name, old=old, new=new))


def widened(name: str, value: Tensor, shape: torch.Size, narrow: Sizes, wide: Sizes) -> Tensor:
    """A parameter in its new shape."""
    if name.endswith("time_embedding.linear_1.weight"):
        value = _finer_waves(value, shape[1])
    result = value
    for dimension in range(min(2, value.dim())):
        place = origins(value.shape[dimension], shape[dimension], narrow, wide, name)
        result = result.index_select(dimension, place)
        if dimension == 1:
            result = result * _shares(place, result.shape[0], result.dim())
    # two copies of every number make a product of twice the size; attention divides by sqrt(dim)
    if "to_q.weight" in name and shape[0] == 2 * value.shape[0]:
        result = result / 2**0.5
    return result


def _finer_waves(value: Tensor, count: int) -> Tensor:
    """The first layer after the waves of the time; every second of twice as many is an old one.

    They come as cosines, then sines.
    """
    if value.shape[1] == count:
        return value
    fine = value.new_zeros(len(value), 2, count // 2)
    fine[:, :, ::2] = value.view(len(value), 2, -1)
    return fine.flatten(1)


def _shares(place: Tensor, rows: int, dimensions: int) -> Tensor:
    """Factors [rows, inputs, 1, ...] that add up to 1 over the copies of an input."""
    twice = place.bincount(minlength=int(place.max()) + 1)[place] == 2
    lean = APART * (2 * torch.rand(rows, int(place.max()) + 1) - 1)
    second = torch.cat([torch.zeros(1, dtype=torch.bool), place[1:] == place[:-1]])
    halves = 0.5 + torch.where(second, -1.0, 1.0) * lean[:, place]
    shares = torch.where(twice, halves, torch.ones(()))
    return shares.view(rows, len(place), *[1] * (dimensions - 2))


def widen(
    weights: Mapping[str, Tensor],
    tokenizer: CLIPTokenizer,
    channels: tuple[int, int],
    base: Sizes,
) -> dict[str, Tensor]:
    """All weights of a `Generator` whose levels have `channels`. Raises ValueError as `origins`."""
    narrow = sizes_of(weights, base)
    wide = replace(narrow, unet_channels=channels)
    shapes = {name: value.shape for name, value in Generator(wide, tokenizer).state_dict().items()}
    torch.manual_seed(0)
    return {n: widened(n, weights[n], shape, narrow, wide) for n, shape in shapes.items()}


def main() -> None:
    """Read the command line; replace RUN's denoiser by the wider one, without optimizer state."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--channels", type=int, nargs=2, required=True)
    asked = parser.parse_args()
    path = asked.run / "denoiser.pt"
    state = load_checkpoint(path)
    state.pop("optimizer", None)
    tokenizer = CLIPTokenizer.from_pretrained(asked.cache / "tokenizer", local_files_only=True)
    own = state["model"] | state["average"]
    state["model"] = widen(own, tokenizer, tuple(asked.channels), Sizes())
    state["average"] = {k: v for k, v in state["model"].items() if not k.startswith("text_encoder")}
    save_atomic(state, path)


if __name__ == "__main__":
    main()
