"""e(.): UNet and ControlNet of any family as the sampling loop's denoiser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from higfa_cli.method import equations
from higfa_cli.method.protocols import Branch, Level, Prediction
from higfa_cli.models.families import Family
from higfa_cli.models.text import TextStates, concat

# The exact gradient runs back through the denoiser. In float16 it would underflow: a power of
# two on the way in, taken off on the way out, costs nothing and rounds nothing.
HALF_GRADIENT_SCALE = 2.0**12


@dataclass(frozen=True)
class Conditions:
    """What a batch is conditioned on.

    Attributes:
        text, negative: encoded prompts, [B, L, D] (and pooled [B, P]).
        contours: [B, 3, S, S] in [0, 1], white edges on black.
        conditioning_scale: multiplies the ControlNet's residuals.
        interval: part [start, end] of the run in which the ControlNet is consulted.
        steps: N, by which the interval is measured.
    """

    text: TextStates
    negative: TextStates
    contours: Tensor
    conditioning_scale: float
    interval: tuple[float, float]
    steps: int

    def controlled(self, level: Level) -> bool:
        """Whether step i lies whole in the interval, as in the stock pipelines."""
        start, end = self.interval
        return level.index / self.steps >= start and (level.index + 1) / self.steps <= end


class ControlledDenoiser:
    """e(.) of one batch: every asked branch in one UNet call, the ControlNet only where it counts.

    Args:
        unet, controlnet: diffusers modules in one dtype.
        family: what else they take.
        conditions: the batch's conditions.
        prediction_type: `epsilon` or `v_prediction`.
    """

    def __init__(
        self,
        unet: Any,
        controlnet: Any,
        family: Family,
        conditions: Conditions,
        prediction_type: str,
    ) -> None:
        self.unet, self.controlnet, self.family = unet, controlnet, family
        self.conditions = conditions
        self.convert = equations.from_v if prediction_type == "v_prediction" else equations.from_eps

    def predict(
        self, x_t: Tensor, level: Level, branches: Sequence[Branch]
    ) -> dict[Branch, Prediction]:
        """x_t [B, C, h, w] -> a prediction per branch, in x_t's dtype."""
        # Contour branches come last, so that their residuals are one contiguous block.
        ordered = sorted(branches, key=lambda b: b.has_contour)
        c = self.conditions
        text = concat([c.text if b.has_text else c.negative for b in ordered])
        x = _enter(torch.cat([x_t] * len(ordered)), self.unet.dtype)
        with_contour = sum(b.has_contour for b in ordered) if c.controlled(level) else 0
        residuals = self._residuals(x, text, level, with_contour)
        output = self.unet(
            x,
            level.timestep,
            encoder_hidden_states=text.states,
            return_dict=False,
            **self.family.added(text, self.conditions.contours.shape[-1]),
            **residuals,
        )[0]
        parts = _leave(output, x_t.dtype).chunk(len(ordered))
        return {b: self.convert(x_t, part, level) for b, part in zip(ordered, parts, strict=True)}

    def _residuals(
        self, x: Tensor, text: TextStates, level: Level, with_contour: int
    ) -> dict[str, Any]:
        """ControlNet residuals, zero for the branches without a contour."""
        if with_contour == 0:
            return {}
        size = len(self.conditions.contours) * with_contour
        pooled = None if text.pooled is None else text.pooled[-size:]
        own = TextStates(text.states[-size:], pooled)
        down, mid = self.controlnet(
            x[-size:],
            level.timestep,
            encoder_hidden_states=own.states,
            controlnet_cond=torch.cat([self.conditions.contours] * with_contour).to(x.dtype),
            conditioning_scale=self.conditions.conditioning_scale,
            return_dict=False,
            **self.family.added(own, self.conditions.contours.shape[-1]),
        )
        missing = len(x) - size

        def pad(residual: Tensor) -> Tensor:
            return torch.cat([residual.new_zeros(missing, *residual.shape[1:]), residual])

        return {
            "down_block_additional_residuals": [pad(r) for r in down],
            "mid_block_additional_residual": pad(mid),
        }


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
