"""More latent channels for a generator that has been trained: between unpack.py and prepare.py.

    python -m tools.pocket.train.widen --web WEB --cache CACHE --run RUN --channels 64 --width 96

Appends directions to CACHE's patch basis, and to RUN's denoiser, ControlNet and decoder the inputs
and outputs of these channels, zero at first: what was learnt of the old channels is kept. A decoder
of more channels (--width) carries the new latents up to the last layer, which learns to read them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

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


def wider_decoder(state: Mapping[str, Tensor], latents: int, width: int) -> dict[str, Tensor]:
    """A decoder's state with `width` channels that draws as before.

    Channel k of the new ones is the k-th last latent plus one (so that ReLU lets it through),
    copied from layer to layer; nothing else reads it yet.
    """
    old = len(state["layers.0.weight"])
    wide = {}
    for name, value in state.items():
        for dimension in range(min(2, value.dim())):
            if value.shape[dimension] == old and not (name == "layers.0.weight" and dimension):
                value = _padded(value, dimension, width)
        wide[name] = value.clone()
    new = torch.arange(old, width)
    wide["layers.0.weight"][new, latents - 1 - (new - old), 1, 1] = 1
    wide["layers.0.bias"][new] = 1
    for name, value in wide.items():
        inside_a_block = ".conv." in name
        if value.dim() == 4 and name != "layers.0.weight" and not inside_a_block:
            rows = new[new < len(value)]
            value[rows, rows, 1, 1] = 1
    for name in [n for n in wide if ".conv.0.weight" in n or ".conv.2.weight" in n]:
        nn.init.kaiming_uniform_(wide[name][old:])
    return wide


def widen_checkpoint(path: Path, channels: int, width: int = 0) -> None:
    """Replace a trainer's checkpoint by its widened one, without the optimizer's state."""
    state: dict[str, Any] = load_checkpoint(path)
    state.pop("optimizer", None)
    for part in ("model", "average", "decoder"):
        if part in state:
            state[part] = {n: widened(n, v, channels) for n, v in state[part].items()}
    if width:
        for part in ("average", "decoder"):
            torch.manual_seed(0)
            state[part] = wider_decoder(state[part], channels, width)
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
    parser.add_argument("--width", type=int, default=0, help="of the decoder; 0: as it is")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    widen_basis(asked.web, asked.cache, asked.channels)
    widen_checkpoint(asked.run / "denoiser.pt", asked.channels)
    widen_checkpoint(asked.run / "decoder.pt", asked.channels, asked.width)


if __name__ == "__main__":
    main()
