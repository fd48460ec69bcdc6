"""A loaded model, of whatever family, and what is drawn with it before any method comes in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from higfa_cli.method.protocols import Branch, Level
from higfa_cli.models.autoencoder import Autoencoder
from higfa_cli.models.denoiser import Conditions, ControlledDenoiser
from higfa_cli.models.families.family import Family
from higfa_cli.models.scheduler import SchedulerSolver
from higfa_cli.models.text import TextStates, stack
from higfa_cli.recipe.drawing import Sampling


@dataclass(frozen=True)
class Prompts:
    """The family's tokenizers, and the encoded prompts."""

    tokenizers: tuple[Any, ...]
    encoded: Mapping[str, TextStates]

    def batch(self, prompts: Sequence[str], device: torch.device) -> TextStates:
        """States of a batch. Raises KeyError for a prompt that was not encoded at loading."""
        text = stack([self.encoded[prompt] for prompt in prompts])
        return text.map(lambda states: states.to(device))


@dataclass(frozen=True)
class DiffusionModel:
    """Denoising network, ControlNet, autoencoders and scheduler config; knows no method.

    `size` is the side of the square picture, pixels.
    `gradient_autoencoder` is `autoencoder` itself unless the recipe names a tiny one. `offloads`
    move the denoiser into main memory; it comes back when it is next called.
    """

    family: Family
    prompts: Prompts
    network: Any
    controlnet: Any
    autoencoder: Autoencoder
    gradient_autoencoder: Autoencoder
    scheduler_config: Any
    sampling: Sampling
    size: int
    device: torch.device
    offloads: Sequence[Any] = ()

    def with_sampling(self, sampling: Sampling) -> DiffusionModel:
        """The same weights, sampled in another way."""
        return replace(self, sampling=sampling)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """[C, h, w] of one x0."""
        side = self.size // self.autoencoder.factor
        return (self.autoencoder.channels, side, side)

    def encode(self, images: Tensor, shifted: bool = True) -> Tensor:
        """Images [B, 3, S, S] in [-1, 1] -> x0; `shifted` as in `Autoencoder.encode`."""
        self._make_room()
        return self.autoencoder.encode(images.to(self.device), shifted)

    def decode(self, x0: Tensor) -> Tensor:
        """x0 -> images in about [-1, 1]; differentiable."""
        self._make_room()
        return self.autoencoder.decode(x0)

    def decode_for_guide(self, x0: Tensor) -> Tensor:
        """x0 -> images in about [-1, 1]; differentiable, by the gradient's autoencoder."""
        self._make_room()
        return self.gradient_autoencoder.decode(x0)

    def conditions(self, prompts: Sequence[str], negative: str, contours: Tensor) -> Conditions:
        """Conditions of a batch; contours [B, 1, S, S] in [0, 1], white edges on black."""
        contours = contours.to(self.device).expand(-1, 3, -1, -1)
        return Conditions(
            text=self.prompts.batch(prompts, self.device),
            negative=self.prompts.batch([negative] * len(prompts), self.device),
            contours=self.family.condition(contours, self.controlnet, self),
            size=self.size,
            sampling=self.sampling,
        )

    def denoiser(self, conditions: Conditions) -> ControlledDenoiser:
        """e(.) of one batch."""
        return ControlledDenoiser(
            self.network, self.controlnet, self.family, conditions, self.prediction_type
        )

    @property
    def prediction_type(self) -> str:
        """What the network predicts: epsilon, v_prediction or flow."""
        return self.family.prediction_type(self.scheduler_config)

    def solver(self, steps: int) -> SchedulerSolver:
        """The recipe's solver with N = steps. Raises RecipeError for one of another family."""
        return self.family.solver(self.sampling.scheduler, self.scheduler_config, steps)

    def _make_room(self) -> None:
        for hook in self.offloads:
            hook.offload()


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
        prompts, seeds: one per image.
        contours: [B, 1, S, S] in [0, 1].
        level: a level of the model's solver.

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
