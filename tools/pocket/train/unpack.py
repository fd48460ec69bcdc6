"""The inverse of export.py: trainers' files from a shipped package, so that training can go on.

    python -m tools.pocket.train.unpack --package pocket/higfa_pocket --cache CACHE --run RUN

Run it before prepare.py. CACHE receives the package's patch basis, tokenizer and text encoder, RUN
one checkpoint each for denoiser and decoder (without optimizer states, which are not shipped).
Refuses to replace checkpoints that are there.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTokenizer

from tools.pocket.train.autoencoder import PATCH, SCALING_FACTOR, PatchBasis, tap_of
from tools.pocket.train.checkpoint import save_atomic

UNET = "sd/unet/diffusion_pytorch_model.safetensors"
CONTROLNET = "controlnet/diffusion_pytorch_model.safetensors"
VAE = "sd/vae/diffusion_pytorch_model.safetensors"
TEXT = "sd/text_encoder/model.safetensors"
HISTORY = "training.json"


def weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file as float32."""
    return {name: value.float() for name, value in load_file(path).items()}


def basis_of(vae: dict[str, Tensor]) -> PatchBasis:
    """The patch basis inside a shipped autoencoder's weights; undoes `build_autoencoder`.

    The mean is only known along the directions, which is all that an encoder needs.
    """
    project, out, bias = (
        vae[f"encoder.layers.{name}"].double().numpy()
        for name in ("3.weight", "4.weight", "4.bias")
    )
    channels = len(bias)
    scales = out[range(channels), range(channels), 1, 1] * SCALING_FACTOR
    directions = np.zeros((channels, PATCH, PATCH, 3))
    for y in range(PATCH):
        for x in range(PATCH):
            colours, row, column = tap_of(y, x)
            directions[:, y, x] = project[:channels, colours, row, column]
    centre = -bias * SCALING_FACTOR / scales
    # float16 left the directions not quite orthonormal
    mean = np.linalg.pinv(directions.reshape(channels, -1)) @ centre
    return PatchBasis(mean.reshape(PATCH, PATCH, 3), directions, scales)


def unpack(package: Path, cache: Path, run: Path) -> dict[str, Any]:
    """Write the trainers' files; returns the package's training history.

    Raises:
        FileExistsError: a trainer has a checkpoint in `run` already.
    """
    history: dict[str, Any] = json.loads((package.parent / HISTORY).read_text(encoding="utf-8"))
    for name in ("denoiser.pt", "decoder.pt"):
        if (run / name).exists():
            raise FileExistsError(f"{run / name}: would be replaced; move it away first")
    cache.mkdir(parents=True, exist_ok=True)
    vae, text = weights(package / VAE), weights(package / TEXT)
    basis_of(vae).save(cache / "basis.npz")
    CLIPTokenizer.from_pretrained(
        package / "sd" / "tokenizer", local_files_only=True
    ).save_pretrained(cache / "tokenizer")
    save_atomic({"text_encoder": text}, cache / "text_encoder.pt")
    parts = {"text_encoder": text}
    parts |= {"unet": weights(package / UNET), "controlnet": weights(package / CONTROLNET)}
    model = {f"{part}.{name}": value for part, own in parts.items() for name, value in own.items()}
    average = {name: value for name, value in model.items() if not name.startswith("text_encoder.")}
    save_atomic({"model": model, "average": average} | history["denoiser"], run / "denoiser.pt")
    decoder = {
        name.removeprefix("decoder."): value
        for name, value in vae.items()
        if name.startswith("decoder.")
    }
    save_atomic({"decoder": decoder, "average": decoder} | history["decoder"], run / "decoder.pt")
    return history


def main() -> None:
    """Read the command line and unpack."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--package", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps(unpack(asked.package, asked.cache, asked.run)))


if __name__ == "__main__":
    main()
