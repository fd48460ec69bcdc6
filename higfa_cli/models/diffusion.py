"""A loaded model, of whatever family, and what is drawn with it before any method comes in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from higfa_cli.method.protocols import Branch, Level, Prediction
from higfa_cli.models.autoencoder import Autoencoder
from higfa_cli.models.families.family import Family, Inputs
from higfa_cli.models.scheduler import SchedulerSolver, conversion
from higfa_cli.models.text import TextStates, concat, stack
from higfa_cli.recipe.drawing import Sampling

# The exact gradient runs back through the denoiser. In float16 it would underflow: a power of
# two on the way in, taken off on the way out, costs nothing and rounds nothing.
HALF_GRADIENT_SCALE = 2.0**12


@dataclass(frozen=True)
class Conditions:
    """What a batch is conditioned on.

    Attributes:
        text, negative: encoded prompts, [B, L, D] (and pooled [B, P]).
        contours: what the ControlNet reads of them, [B, ...].
    """

    text: TextStates
    negative: TextStates
    contours: Tensor


@dataclass(frozen=True)
class DiffusionModel:
    """Denoising network, ControlNet, autoencoders and scheduler config; knows no method.

    `prompts` are those that were encoded at loading. `size` is the picture's side, pixels.
    `gradient_autoencoder` is `autoencoder` itself unless the recipe names a tiny one. `offloads`
    move the denoiser into main memory; it comes back when it is next called.
    """

    family: Family
    tokenizers: Sequence[Any]
    prompts: Mapping[str, TextStates]
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
            text=self.texts(prompts),
            negative=self.texts([negative] * len(prompts)),
            contours=self.family.condition(contours, self.controlnet, self),
        )

    def texts(self, prompts: Sequence[str]) -> TextStates:
        """States of a batch. Raises KeyError for a prompt that was not encoded at loading."""
        text = stack([self.prompts[prompt] for prompt in prompts])
        return text.map(lambda states: states.to(self.device))

    def controlled(self, level: Level) -> bool:
        """Whether step i lies whole in the ControlNet's interval, as in the stock pipelines."""
        (start, end), steps = self.sampling.conditioning_interval, self.sampling.steps
        return level.index / steps >= start and (level.index + 1) / steps <= end

    def denoiser(self, conditions: Conditions) -> ControlledDenoiser:
        """e(.) of one batch."""
        return ControlledDenoiser(self, conditions)

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


class ControlledDenoiser:
    """e(.) of one batch: every asked branch in one call, the ControlNet only where it counts."""

    def __init__(self, model: DiffusionModel, conditions: Conditions) -> None:
        self.model, self.conditions = model, conditions
        self.convert = conversion(model.prediction_type)

    def predict(
        self, x_t: Tensor, level: Level, branches: Sequence[Branch]
    ) -> dict[Branch, Prediction]:
        """x_t [B, C, h, w] -> a prediction per branch, in x_t's dtype."""
        # Contour branches come last, so that their residuals are one contiguous block.
        ordered = sorted(branches, key=lambda b: b.has_contour)
        c, model = self.conditions, self.model
        text = concat([c.text if b.has_text else c.negative for b in ordered])
        x = _enter(torch.cat([x_t] * len(ordered)), model.network.dtype)
        with_contour = sum(b.has_contour for b in ordered) if model.controlled(level) else 0
        inputs = Inputs(x, level.timestep, text, model.size)
        residuals = self._residuals(inputs, with_contour)
        output = model.family.denoise(model.network, inputs, residuals)
        parts = _leave(output, x_t.dtype).chunk(len(ordered))
        return {b: self.convert(x_t, part, level) for b, part in zip(ordered, parts, strict=True)}

    def _residuals(self, inputs: Inputs, with_contour: int) -> list[list[Tensor]]:
        """ControlNet residuals, zero for the branches without a contour; none if none has one."""
        if with_contour == 0:
            return []
        model, contours = self.model, self.conditions.contours
        count = len(contours) * with_contour
        condition = torch.cat([contours] * with_contour).to(inputs.x.dtype)
        scale = model.sampling.conditioning_scale
        residuals = model.family.residuals(model.controlnet, inputs.last(count), condition, scale)
        missing = len(inputs.x) - count

        def pad(residual: Tensor) -> Tensor:
            return torch.cat([residual.new_zeros(missing, *residual.shape[1:]), residual])

        return [[pad(residual) for residual in group] for group in residuals]


class _ScaledGradient(torch.autograd.Function):
    """Identity forward; the gradient is multiplied on its way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return grad_outputs[0] * ctx.factor, None


def _enter(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Into the denoiser's precision."""
    if dtype == torch.float16 and x.requires_grad:
        x = _ScaledGradient.apply(x, 1 / HALF_GRADIENT_SCALE)
    return x.to(dtype)


def _leave(output: Tensor, dtype: torch.dtype) -> Tensor:
    """Out of the denoiser's precision, into the loop's."""
    half = output.dtype == torch.float16
    output = output.to(dtype)
    if half and output.requires_grad:
        output = _ScaledGradient.apply(output, HALF_GRADIENT_SCALE)
    return output


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
