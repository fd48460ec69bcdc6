"""The pocket's autoencoder: a closed-form linear encoder inside a stock `AutoencoderTiny`.

The encoder is a principal component analysis (PCA) of 8x8x3 patches. Stride-2 convolutions whose
kernels copy pixels gather each patch into channels, and the last convolutions project it. Nothing
in it is learned by gradient, so the denoiser's latents never change while the decoder trains.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import nn

PATCH = 8
LATENT_CHANNELS = 32
SCALING_FACTOR = 3.0
ENCODER_CHANNELS = 64
DECODER_CHANNELS = 64
DECODER_BLOCKS = (4, 3, 1, 0)
WHITENING_POWER = 0.6


@dataclass(frozen=True)
class PatchBasis:
    """A linear code of 8x8x3 patches whose values lie in [0, 1].

    A patch q (8, 8, 3) has the scaled latents z = scales * (directions . (q - mean)).

    mean: (8, 8, 3). directions: (channels, 8, 8, 3), orthonormal. scales: (channels,).
    """

    mean: np.ndarray
    directions: np.ndarray
    scales: np.ndarray

    def save(self, path: Path) -> None:
        np.savez(path, mean=self.mean, directions=self.directions, scales=self.scales)

    @classmethod
    def load(cls, path: Path) -> PatchBasis:
        with np.load(path) as stored:
            return cls(stored["mean"], stored["directions"], stored["scales"])


def cut_patches(images: np.ndarray) -> np.ndarray:
    """Images (n, height, width, 3) to patches (n * height/8 * width/8, 8, 8, 3)."""
    n, height, width, colours = images.shape
    grid = images.reshape(n, height // PATCH, PATCH, width // PATCH, PATCH, colours)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(-1, PATCH, PATCH, colours)


def fit_basis(images: np.ndarray, channels: int = LATENT_CHANNELS) -> PatchBasis:
    """PCA of the patches of uint8 images (n, height, width, 3), partially whitened.

    Component k is divided by std_k ** 0.6: full whitening would make the denoiser spend its
    capacity on the faintest components. A common factor then makes the mean std over the
    channels 1. Signs are fixed so that the result does not depend on the linear algebra library.
    """
    patches = cut_patches(images).reshape(-1, PATCH * PATCH * 3).astype(np.float64) / 255
    mean = patches.mean(axis=0)
    covariance = np.cov(patches, rowvar=False)
    values, vectors = np.linalg.eigh(covariance)
    order = np.argsort(values)[::-1][:channels]
    directions = vectors[:, order].T
    largest = np.abs(directions).argmax(axis=1)
    directions *= np.sign(directions[np.arange(channels), largest])[:, None]
    stds = np.sqrt(np.maximum(values[order], 1e-12))
    scales = stds**-WHITENING_POWER
    scales /= (stds * scales).mean()
    shape = (PATCH, PATCH, 3)
    return PatchBasis(mean.reshape(shape), directions.reshape(channels, *shape), scales)


def extend_basis(basis: PatchBasis, images: np.ndarray, channels: int) -> PatchBasis:
    """`basis` with further directions, up to `channels`; those that it has stay as they are.

    The new ones are the PCA of what the old ones leave of the patches of uint8 images
    (n, height, width, 3), scaled by the rule of `fit_basis`. So a denoiser of the old latents finds
    them again as the first of the new ones.
    """
    patches = cut_patches(images).reshape(-1, PATCH * PATCH * 3).astype(np.float64) / 255
    mean, old = patches.mean(axis=0), basis.directions.reshape(len(basis.scales), -1)
    values = patches - mean
    common = float(np.mean(basis.scales * (values @ old.T).std(axis=0) ** WHITENING_POWER))
    # float16 left shipped directions not quite orthonormal: the new ones must not repeat them
    inside = np.linalg.qr(old.T)[0]
    left = values - values @ inside @ inside.T
    variances, vectors = np.linalg.eigh(left.T @ left / len(left))
    order = np.argsort(variances)[::-1][: channels - len(old)]
    new = vectors[:, order].T
    new *= np.sign(new[np.arange(len(new)), np.abs(new).argmax(axis=1)])[:, None]
    scales = common * np.sqrt(variances[order]) ** -WHITENING_POWER
    directions = np.concatenate([basis.directions, new.reshape(-1, PATCH, PATCH, 3)])
    # The old mean is kept where the old directions see it; the new ones see the patches' own.
    seen = inside @ inside.T
    centre = seen @ basis.mean.ravel() + mean - seen @ mean
    return PatchBasis(
        centre.reshape(PATCH, PATCH, 3), directions, np.concatenate([basis.scales, scales])
    )


def build_autoencoder(basis: PatchBasis, width: int = DECODER_CHANNELS) -> AutoencoderTiny:
    """`AutoencoderTiny` (f8) whose encoder is `basis`; its decoder of `width` channels is new.

    encode(x), x (n, 3, height, width) in [-1, 1], gives z / SCALING_FACTOR. The division keeps
    the decoder's tanh clamp at +-3 mostly linear.
    """
    channels = len(basis.scales)
    autoencoder = AutoencoderTiny(
        encoder_block_out_channels=(ENCODER_CHANNELS,) * 4,
        decoder_block_out_channels=(width,) * 4,
        num_encoder_blocks=(0, 0, 0, 0),
        num_decoder_blocks=DECODER_BLOCKS,
        latent_channels=channels,
        scaling_factor=SCALING_FACTOR,
    )
    _set_encoder(autoencoder.encoder.layers, basis)
    _start_decoder(autoencoder.decoder.layers, min(channels, width // 2))
    autoencoder.encoder.requires_grad_(False)
    return autoencoder


def tap_of(y: int, x: int) -> tuple[slice, int, int]:
    """Where the third convolution finds pixel (y, x) of a patch.

    Returns the input channels of its three colours, as the first two convolutions gather them, and
    the kernel's row and column.
    """
    first = ((y // 2 % 2) * 2 + x // 2 % 2) * 12 + ((y % 2) * 2 + x % 2) * 3
    return slice(first, first + 3), 1 + y // 4, 1 + x // 4


@torch.no_grad()
def _set_encoder(layers: nn.Sequential, basis: PatchBasis) -> None:
    """Write the basis into conv_in, three stride-2 convolutions and conv_out.

    A 3x3 kernel with stride 2 and padding 1 reads rows 2i-1, 2i, 2i+1 for output row i, so its
    taps 1 and 2 see exactly the 2x2 cell (2i, 2i+1).
    """
    conv_in, gather2, gather4, project, conv_out = (layer for layer in layers)
    for layer in layers:
        layer.weight.zero_()
        if layer.bias is not None:
            layer.bias.zero_()
    for colour in range(3):
        conv_in.weight[colour, colour, 1, 1] = 1
    for gather, width in ((gather2, 3), (gather4, 12)):
        for dy in range(2):
            for dx in range(2):
                for c in range(width):
                    gather.weight[(dy * 2 + dx) * width + c, c, 1 + dy, 1 + dx] = 1
    directions = torch.from_numpy(basis.directions).float()
    for y in range(PATCH):
        for x in range(PATCH):
            colours, row, column = tap_of(y, x)
            project.weight[: len(directions), colours, row, column] = directions[:, y, x]
    raw_scales = torch.from_numpy(basis.scales / SCALING_FACTOR)
    centre = torch.from_numpy((basis.directions * basis.mean).sum(axis=(1, 2, 3)))
    for k, scale in enumerate(raw_scales):
        conv_out.weight[k, k, 1, 1] = scale
    conv_out.bias.copy_(-centre * raw_scales)


@torch.no_grad()
def _start_decoder(layers: nn.Sequential, pairs: int) -> None:
    """Start as an almost linear path: relu(+z) and relu(-z) run through identity blocks.

    From a default initialisation the small decoder first has to find out how to carry its input
    to full resolution; from here it starts with that solved.
    """
    first = layers[0]
    first.weight.mul_(0.1)
    first.bias.zero_()
    for k in range(pairs):
        first.weight[k, k, 1, 1] += 1
        first.weight[pairs + k, k, 1, 1] -= 1
    convolutions = [layer for layer in layers[1:] if isinstance(layer, nn.Conv2d)]
    for convolution in convolutions[:-1]:
        convolution.weight.mul_(0.3)
        for c in range(convolution.out_channels):
            convolution.weight[c, c, 1, 1] += 1
    for block in layers:
        if hasattr(block, "fuse"):
            block.conv[-1].weight.zero_()
            block.conv[-1].bias.zero_()
    convolutions[-1].bias.fill_(0.5)


@torch.no_grad()
def encode_uint8(autoencoder: AutoencoderTiny, images: np.ndarray) -> torch.Tensor:
    """uint8 images (n, height, width, 3) to scaled latents z (n, channels, height/8, width/8)."""
    device = next(autoencoder.parameters()).device
    pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    return autoencoder.encode(pixels).latents * autoencoder.config.scaling_factor
