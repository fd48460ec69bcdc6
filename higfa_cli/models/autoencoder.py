"""Autoencoders of diffusers' families behind one encode / decode in the sampler's own x0."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Autoencoder(nn.Module):
    """D(.) and its inverse between images in [-1, 1] and the sampler's x0.

    Works with AutoencoderKL (mode of the posterior) and AutoencoderTiny, in float32 whatever
    the denoiser's precision: the classifier's gradient underflows in half precision, and
    SDXL's autoencoder overflows in it.

    Args:
        vae: a diffusers autoencoder with `scaling_factor` (and, if set, `shift_factor`).
    """

    def __init__(self, vae: Any) -> None:
        super().__init__()
        if vae.dtype != torch.float32:
            vae = vae.to(torch.float32)
        self.vae: Any = vae.eval().requires_grad_(False)
        self.scale = float(vae.config.scaling_factor)
        self.shift = float(getattr(vae.config, "shift_factor", None) or 0.0)
        self.factor: int = 2 ** (len(vae.config.block_out_channels) - 1)

    def encode(self, images: Tensor) -> Tensor:
        """Images [B, 3, S, S] in [-1, 1] -> x0 [B, C, S/f, S/f]."""
        out = self.vae.encode(images.float())
        latents = out.latent_dist.mode() if hasattr(out, "latent_dist") else out.latents
        return (latents - self.shift) * self.scale

    def decode(self, x0: Tensor) -> Tensor:
        """x0 -> images [B, 3, S, S], about [-1, 1] but not clamped; differentiable."""
        return self.vae.decode(x0.float() / self.scale + self.shift, return_dict=False)[0]
