"""e(.): denoising network and ControlNet of any family as the sampling loop's denoiser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from higfa_cli.method.protocols import Branch, Level, Prediction
from higfa_cli.models.families.family import Family, Inputs
from higfa_cli.models.scheduler import conversion
from higfa_cli.models.text import TextStates, concat
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
        size: side of the pictures, pixels.
        sampling: how strongly, and in which part of the run, the ControlNet is heard.
    """

    text: TextStates
    negative: TextStates
    contours: Tensor
    size: int
    sampling: Sampling

    def controlled(self, level: Level) -> bool:
        """Whether step i lies whole in the interval, as in the stock pipelines."""
        (start, end), steps = self.sampling.conditioning_interval, self.sampling.steps
        return level.index / steps >= start and (level.index + 1) / steps <= end


class ControlledDenoiser:
    """e(.) of one batch: every asked branch in one call, the ControlNet only where it counts.

    Args:
        network, controlnet: diffusers modules in one dtype.
        family: how they are called.
        conditions: the batch's conditions.
        prediction_type: what the network predicts, as `conversion` takes it.
    """

    def __init__(
        self,
        network: Any,
        controlnet: Any,
        family: Family,
        conditions: Conditions,
        prediction_type: str,
    ) -> None:
        self.network, self.controlnet, self.family = network, controlnet, family
        self.conditions = conditions
        self.convert = conversion(prediction_type)

    def predict(
        self, x_t: Tensor, level: Level, branches: Sequence[Branch]
    ) -> dict[Branch, Prediction]:
        """x_t [B, C, h, w] -> a prediction per branch, in x_t's dtype."""
        # Contour branches come last, so that their residuals are one contiguous block.
        ordered = sorted(branches, key=lambda b: b.has_contour)
        c = self.conditions
        text = concat([c.text if b.has_text else c.negative for b in ordered])
        x = _enter(torch.cat([x_t] * len(ordered)), self.network.dtype)
        with_contour = sum(b.has_contour for b in ordered) if c.controlled(level) else 0
        inputs = Inputs(x, level.timestep, text, c.size)
        residuals = self._residuals(inputs, with_contour)
        output = self.family.denoise(self.network, inputs, residuals)
        parts = _leave(output, x_t.dtype).chunk(len(ordered))
        return {b: self.convert(x_t, part, level) for b, part in zip(ordered, parts, strict=True)}

    def _residuals(self, inputs: Inputs, with_contour: int) -> list[list[Tensor]]:
        """ControlNet residuals, zero for the branches without a contour; none if none has one."""
        if with_contour == 0:
            return []
        c = self.conditions
        count = len(c.contours) * with_contour
        condition = torch.cat([c.contours] * with_contour).to(inputs.x.dtype)
        residuals = self.family.residuals(
            self.controlnet, inputs.last(count), condition, c.sampling.conditioning_scale
        )
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
