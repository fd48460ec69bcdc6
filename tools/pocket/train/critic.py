"""Tells drawn from rendered pictures by frozen features: what the decoder is polished against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class Critic(nn.Module):
    """Maps of scores from frozen features, one small head a stage (Sauer et al. 2021,
    arXiv 2111.01007): such a critic learns in some hundred steps what is wrong, and not in ten
    thousand.
    """

    def __init__(self, channels: Sequence[int], width: int = 48) -> None:
        super().__init__()

        def layer(first: int, last: int, stride: int) -> nn.Module:
            return spectral_norm(nn.Conv2d(first, last, 3, stride, 1))

        self.heads = nn.ModuleList(
            nn.Sequential(
                layer(own, width, 1),
                nn.LeakyReLU(0.2),
                layer(width, width, 2),
                nn.LeakyReLU(0.2),
                nn.Conv2d(width, 1, 3, 1, 1),
            )
            for own in channels
        )
        for number, own in enumerate(channels):
            self.register_buffer(f"size{number}", torch.ones(1, own, 1, 1))

    @torch.no_grad()
    def fit_sizes(self, features: Sequence[Tensor]) -> None:
        """Have every channel come in at a standard deviation of 1, as rendered pictures have it."""
        for number, found in enumerate(features):
            getattr(self, f"size{number}").copy_(found.std(dim=(0, 2, 3), keepdim=True) + 1e-4)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        return [
            head(found / getattr(self, f"size{number}"))
            for number, (head, found) in enumerate(zip(self.heads, features, strict=True))
        ]


def mean_score(maps: Sequence[Tensor]) -> Tensor:
    """The mean over the stages, []."""
    return torch.stack([one.mean() for one in maps]).mean()


def hinge(maps: Sequence[Tensor], sign: float) -> Tensor:
    """How far scores are from being above 1 (sign 1) or below -1 (sign -1), []."""
    return torch.stack([(1 - sign * one).relu().mean() for one in maps]).mean()
