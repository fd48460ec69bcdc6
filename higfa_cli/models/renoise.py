"""Photos as the guide will meet them: noised, denoised and decoded."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from higfa_cli.method.protocols import Branch, Level
from higfa_cli.models.diffusion import DiffusionModel


def seeded_noise(seeds: Sequence[int], shape: Sequence[int], device: torch.device) -> Tensor:
    """Unit normal noise [B, *shape]; each image's own seed, so neighbours do not matter."""
    return torch.stack(
        [torch.randn(*shape, generator=torch.Generator().manual_seed(s)) for s in seeds]
    ).to(device)


@torch.no_grad()
def noise_and_denoise(
    model: DiffusionModel,
    images: Tensor,
    prompts: Sequence[str],
    contours: Tensor,
    level: Level,
    seeds: Sequence[int],
) -> Tensor:
    """D(x0_hat) of the plain conditional branch at one level, as the guide will see it.

    Args:
        model: the loaded diffusion model.
        images: [B, 3, S, S] in [-1, 1], S = model.size.
        prompts: one per image.
        contours: [B, 1, S, S] in [0, 1].
        level: a level of the model's solver.
        seeds: one per image.

    Returns:
        Images [B, 3, S, S] in about [-1, 1].
    """
    x0 = model.encode(images)
    eps = seeded_noise(seeds, x0.shape[1:], x0.device)
    x_t = level.alpha * x0 + level.sigma * eps
    denoiser = model.denoiser(model.conditions(prompts, "", contours))
    branch = Branch.TEXT_CONTOUR
    return model.decode_for_guide(denoiser.predict(x_t, level, (branch,))[branch].x0)


@torch.no_grad()
def reconstruct(model: DiffusionModel, images: Tensor) -> Tensor:
    """D(E(images)): what the guide's decoder makes of a photo without any noise."""
    return model.decode_for_guide(model.encode(images))
