"""More latent channels for a generator that has been trained: between unpack.py and prepare.py.

    python -m tools.pocket.train.widen --web WEB --cache CACHE --run RUN --channels 48

Appends directions to CACHE's patch basis, and to RUN's denoiser, ControlNet and decoder the inputs
and outputs of these channels, zero at first: what was learnt of the old channels is kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tools.pocket.train.autoencoder import PatchBasis, extend_basis
from tools.pocket.train.checkpoint import load_checkpoint, save_atomic
from tools.pocket.train.webdata import held_out, load_stack, read_web

PICTURES, SIDE = 4000, 64
# Names of the layers that read latents, and of those that write them.
INPUTS = ("unet.conv_in.weight", "controlnet.conv_in.weight", "layers.0.weight")
OUTPUTS = ("unet.conv_out.weight", "unet.conv_out.bias")


def widened(name: str, value: Tensor, channels: int) -> Tensor:
    """A parameter with zeros for the channels that are new; others as they are."""
    if name in INPUTS and value.shape[1] < channels:
        return _padded(value, 1, channels)
    if name in OUTPUTS and value.shape[0] < channels:
        return _padded(value, 0, channels)
    return value


def _padded(value: Tensor, dimension: int, size: int) -> Tensor:
    shape = list(value.shape)
    shape[dimension] = size - shape[dimension]
    return torch.cat([value, value.new_zeros(shape)], dim=dimension)


def widen_checkpoint(path: Path, channels: int) -> None:
    """Replace a trainer's checkpoint by its widened one, without the optimizer's state."""
    state: dict[str, Any] = load_checkpoint(path)
    state.pop("optimizer", None)
    for part in ("model", "average", "decoder"):
        if part in state:
            state[part] = {n: widened(n, v, channels) for n, v in state[part].items()}
    save_atomic(state, path)


def widen_basis(web_folder: Path, cache: Path, channels: int) -> None:
    """Extend CACHE/basis.npz by what the learnt pictures of WEB have beyond it."""
    web = read_web(web_folder)
    learn = np.flatnonzero(~held_out(web, seed=0))
    chosen = learn[np.linspace(0, len(learn) - 1, min(PICTURES, len(learn))).astype(int)]
    pictures = load_stack((web[i].path for i in chosen), SIDE).permute(0, 2, 3, 1).numpy()
    basis = PatchBasis.load(cache / "basis.npz")
    extend_basis(basis, pictures, channels).save(cache / "basis.npz")


def main() -> None:
    """Read the command line and widen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--web", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--channels", type=int, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    widen_basis(asked.web, asked.cache, asked.channels)
    for name in ("denoiser.pt", "decoder.pt"):
        widen_checkpoint(asked.run / name, asked.channels)


if __name__ == "__main__":
    main()
