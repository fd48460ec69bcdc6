"""The equations of hierarchical guidance, one function each. Pure tensors in and out.

They hold on every path x_t = alpha x0 + sigma eps, but for the conversions that name theirs:
`from_v` and `to_v` are variance preserving (alpha^2 + sigma^2 = 1), `from_flow` and `to_flow` are
linear (alpha + sigma = 1). Strengths are [B] tensors, so that every image has its own.
The idea is HiGFA's (arXiv 2511.12547); the formulas are this project's reading of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor

from higfa_cli.method.guidance import Composition
from higfa_cli.method.protocols import Branch, Level, Prediction

Weight = TypeVar("Weight", float, Tensor)


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """[B] -> [B, 1, ..., 1] with as many dimensions as `like`."""
    return values.to(like).reshape(-1, *([1] * (like.dim() - 1)))


def tweedie(x_t: Tensor, eps: Tensor, level: Level) -> Tensor:
    """x0_hat = (x_t - sigma eps) / alpha: the posterior mean of x0 (Efron 2011, eq. 1.4)."""
    return (x_t - level.sigma * eps) / level.alpha


def from_eps(x_t: Tensor, eps: Tensor, level: Level) -> Prediction:
    """A noise prediction in both forms."""
    return Prediction(x0=tweedie(x_t, eps, level), eps=eps)


def from_v(x_t: Tensor, v: Tensor, level: Level) -> Prediction:
    """v = alpha eps - sigma x0 in both forms (Salimans & Ho 2022, app. D); defined at alpha = 0."""
    return Prediction(
        x0=level.alpha * x_t - level.sigma * v, eps=level.alpha * v + level.sigma * x_t
    )


def to_v(prediction: Prediction, level: Level) -> Tensor:
    """v = alpha eps - sigma x0."""
    return level.alpha * prediction.eps - level.sigma * prediction.x0


def from_flow(x_t: Tensor, u: Tensor, level: Level) -> Prediction:
    """u = eps - x0 in both forms (rectified flow, Liu et al. 2023); defined at alpha = 0."""
    return Prediction(x0=x_t - level.sigma * u, eps=x_t + level.alpha * u)


def to_flow(prediction: Prediction) -> Tensor:
    """u = eps - x0 = d x_t / d sigma, the velocity of the linear path."""
    return prediction.eps - prediction.x0


def branch_weights(
    composition: Composition, s_text: Weight, s_contour: Weight
) -> dict[Branch, Weight]:
    """Weights of the branches, numbers or [B]; they add up to 1 for every image.

    three_term: e(x) + s_T [e(c_T) - e(x)] + s_C [e(c_T,c_C) - e(c_T)]
    joint:      e(c_C) + s_T [e(c_T,c_C) - e(c_C)]; s_C plays no part.
    """
    if composition == "joint":
        return {Branch.CONTOUR: 1 - s_text, Branch.TEXT_CONTOUR: s_text}
    return {
        Branch.UNCOND: 1 - s_text,
        Branch.TEXT: s_text - s_contour,
        Branch.TEXT_CONTOUR: s_contour,
    }


def compose(
    predictions: Mapping[Branch, Prediction], weights: Mapping[Branch, Tensor]
) -> Prediction:
    """Weighted sum of the branches, [B, ...], alike for x0 and eps since the weights add up to 1.

    Branches that were not evaluated must have no weight: the schedule decided so for the
    whole batch. Written as a base branch plus weighted differences, as in the equation, so
    that two equal branches compose to themselves whatever the strengths.
    """
    evaluated = [branch for branch in weights if branch in predictions]
    base, *others = evaluated
    x0, eps = predictions[base]
    out_x0, out_eps = x0, eps
    for branch in others:
        w = per_image(weights[branch], eps)
        out_x0 = out_x0 + w * (predictions[branch].x0 - x0)
        out_eps = out_eps + w * (predictions[branch].eps - eps)
    return Prediction(x0=out_x0, eps=out_eps)


def log_confidence(logits: Tensor, target: Tensor) -> Tensor:
    """log p_phi(y | D(x0_hat)), [B], from tempered logits [B, K] and labels y [B]."""
    return logits.log_softmax(dim=-1).gather(-1, target[:, None]).squeeze(-1)


def probability(logits: Tensor, target: Tensor) -> Tensor:
    """p_y in [0, 1], [B]."""
    return log_confidence(logits, target).exp()


def margin(logits: Tensor, target: Tensor) -> Tensor:
    """p_y - max_{k != y} p_k, clipped at 0 so that it can stand in for p; [B] in [0, 1]."""
    p = logits.softmax(dim=-1)
    rivals = p.scatter(-1, target[:, None], 0.0).amax(dim=-1)
    return (p.gather(-1, target[:, None]).squeeze(-1) - rivals).clamp(min=0.0)


def gradient_fixed_eps(log_p: Tensor, x0: Tensor, level: Level) -> Tensor:
    """g = (1/alpha) grad_{x0_hat} log p: the cheap gradient, eps held fixed; [B, ...].

    The sum over the batch keeps images apart: log p of one does not depend on another's x0.
    """
    return torch.autograd.grad(log_p.sum(), x0)[0] / level.alpha


def gradient_exact(log_p: Tensor, x_t: Tensor) -> Tensor:
    """g = grad_{x_t} log p, through the denoiser branch that was read; [B, ...]."""
    return torch.autograd.grad(log_p.sum(), x_t)[0]


def rms(values: Tensor) -> Tensor:
    """Root mean square over each image's dimensions, [B]."""
    return values.flatten(1).square().mean(dim=1).sqrt()


def normalise_rms(gradient: Tensor, eps: Tensor) -> Tensor:
    """Each image's gradient scaled to the rms of its eps; a zero gradient stays zero."""
    size = rms(gradient)
    factor = torch.where(size > 0, rms(eps) / size.clamp(min=torch.finfo(size.dtype).tiny), 0.0)
    return gradient * per_image(factor, gradient)


def apply_classifier(
    prediction: Prediction, s_classifier: Tensor, gradient: Tensor, level: Level
) -> Prediction:
    """eps_hat = eps - s_K sigma g, and the same in x0: x0_hat += s_K (sigma^2 / alpha) g.

    With the cheap gradient the latter is s_K (sigma/alpha)^2 grad_{x0_hat} log p
    (Dhariwal & Nichol 2021, alg. 2, in both coordinates).
    """
    push = per_image(s_classifier, gradient) * gradient
    return Prediction(
        x0=prediction.x0 + (level.sigma**2 / level.alpha) * push,
        eps=prediction.eps - level.sigma * push,
    )
