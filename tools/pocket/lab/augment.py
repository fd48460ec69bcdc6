"""What a judge must not rely on: colours, exact place and scale, and sharpness."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# Standard deviations, or shares of the pictures that are changed.
COLOUR_MIX, COLOUR_SHARE, PERMUTED = 0.25, 0.8, 0.5
GAIN, OFFSET = 0.2, 0.1
ANGLE, LOG_SCALE, SHIFT = 0.06, 0.06, 0.05
BLURRED, LARGEST_BLUR = 0.5, 0.8
NOISE = 0.03


def augment(pictures: Tensor) -> Tensor:
    """uint8 [N, 3, H, W] -> float [N, 3, H, W] in 0..255, from torch's global random state.

    Mirrored by half, with liveries no airline has, moved a little, and half of them blurred.
    """
    x = moved(repainted(mirrored(pictures.float() / 255)))
    x = torch.where((torch.rand(len(x)) < BLURRED)[:, None, None, None], blurred(x), x)
    x = x + NOISE * torch.rand(len(x), 1, 1, 1) * torch.randn_like(x)
    return x.clamp(0, 1) * 255


def mirrored(x: Tensor) -> Tensor:
    """Every second picture or so turned left to right."""
    return torch.where((torch.rand(len(x)) < 0.5)[:, None, None, None], x.flip(-1), x)


def repainted(x: Tensor) -> Tensor:
    """Colours mixed by a random matrix near the identity, swapped, brightened and darkened."""
    n = len(x)
    off = (torch.rand(n) < COLOUR_SHARE)[:, None, None]
    mix = torch.eye(3) + off * COLOUR_MIX * torch.randn(n, 3, 3)
    mix = mix / mix.sum(dim=2, keepdim=True).clamp(min=0.3)
    order = torch.rand(n, 3).argsort(dim=1)
    order = torch.where((torch.rand(n) < PERMUTED)[:, None], order, torch.arange(3))
    x = torch.einsum("nij,njhw->nihw", mix, x)
    x = x.gather(1, order[:, :, None, None].expand_as(x))
    return x * (1 + GAIN * torch.randn(n, 1, 1, 1)) + OFFSET * torch.randn(n, 1, 1, 1)


def moved(x: Tensor) -> Tensor:
    """A random similarity: turned, scaled and shifted a little, borders repeated."""
    n, ratio = len(x), x.shape[2] / x.shape[3]
    angle, scale = torch.randn(n) * ANGLE, torch.exp(torch.randn(n) * LOG_SCALE)
    matrix = torch.zeros(n, 2, 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = scale * angle.cos()
    matrix[:, 0, 1] = -scale * angle.sin() * ratio
    matrix[:, 1, 0] = scale * angle.sin() / ratio
    matrix[:, :, 2] = torch.randn(n, 2) * SHIFT
    grid = functional.affine_grid(matrix, list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, padding_mode="border", align_corners=False)


def blurred(x: Tensor) -> Tensor:
    """A 3x3 binomial-like blur whose strength is random for every picture."""
    strength = LARGEST_BLUR * torch.rand(len(x), 1, 1, 1)
    padded = functional.pad(x, (1, 1, 1, 1), mode="replicate")
    return x + strength * (functional.avg_pool2d(padded, 3, stride=1) - x)
