"""Autoencoders of diffusers' families behind one encode / decode in the sampler's own x0."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from higfa_cli.recipe.drawing import Memory


class Autoencoder(nn.Module):
    """D(.) and its inverse between images in [-1, 1] and the sampler's x0.

    Works with AutoencoderKL (mode of the posterior) and AutoencoderTiny, in float32 whatever
    the denoiser's precision: the classifier's gradient underflows in half precision, and
    SDXL's autoencoder overflows in it.

    Args:
        vae: a diffusers autoencoder with `scaling_factor` (and, if set, `shift_factor` or
            `latents_mean` and `latents_std`).
        memory: the recipe's; None leaves the autoencoder as it is.
        tiling: decode large pictures in overlapping tiles.
    """

    def __init__(self, vae: Any, memory: Memory | None = None, tiling: bool = False) -> None:
        super().__init__()
        if vae.dtype != torch.float32:
            vae = vae.to(torch.float32)
        self.vae: Any = vae.eval().requires_grad_(False)
        # AutoencoderTiny's counts upsamplings, AutoencoderKL's blocks less one: the same number.
        self.factor: int = 2 ** (len(vae.config.block_out_channels) - 1)
        self.channels: int = vae.config.latent_channels
        scale, shift = _affine(vae.config)
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)
        self.scale: Tensor
        self.shift: Tensor
        if memory is not None and memory.slicing:
            vae.enable_slicing()
        if memory is not None and memory.gradient_checkpointing:
            vae.enable_gradient_checkpointing()
        if memory is not None and memory.channels_last:
            vae.to(memory_format=torch.channels_last)
        if tiling:
            vae.enable_tiling()

    def encode(self, images: Tensor, shifted: bool = True) -> Tensor:
        """Images [B, 3, S, S] in [-1, 1] -> x0 [B, C, S/f, S/f]; `shifted`: less the shift."""
        out = self.vae.encode(images.float())
        latents = out.latent_dist.mode() if hasattr(out, "latent_dist") else out.latents
        return (latents - self.shift if shifted else latents) / self.scale

    def decode(self, x0: Tensor) -> Tensor:
        """x0 -> images [B, 3, S, S], about [-1, 1] but not clamped; differentiable."""
        return self.vae.decode(x0.float() * self.scale + self.shift, return_dict=False)[0]


def _affine(config: Any) -> tuple[Tensor, Tensor]:
    """latents = x0 * scale + shift, each [1, C or 1, 1, 1], as the stock pipelines compute them."""
    factor = float(config.scaling_factor)
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is not None and std is not None:
        scale = torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1) / factor
        return scale, torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1)
    shift = float(getattr(config, "shift_factor", None) or 0.0)
    return torch.full((1, 1, 1, 1), 1.0 / factor), torch.full((1, 1, 1, 1), shift)
