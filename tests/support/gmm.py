"""A Gaussian mixture in float64 whose denoiser and classifier are known in closed form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from higfa_cli.method import equations
from higfa_cli.method.protocols import Branch, Level, Prediction

MEANS = torch.tensor([[2.0, 0.5], [-1.5, 1.0], [0.3, -2.0]], dtype=torch.float64)
STD = 0.4
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


def log_joint(x_t: Tensor, level: Level) -> Tensor:
    """log [w_k N(x_t; alpha m_k, (alpha^2 s^2 + sigma^2) I)] up to a constant, [B, K]."""
    variance = level.alpha**2 * STD**2 + level.sigma**2
    squared = (x_t[:, None, :] - level.alpha * MEANS).square().sum(-1)
    return WEIGHTS.log() - squared / (2 * variance)


def posterior(x_t: Tensor, level: Level, target: Tensor | None) -> Tensor:
    """p(k | x_t), or 1 for the target, [B, K]."""
    if target is None:
        return log_joint(x_t, level).softmax(-1)
    return torch.nn.functional.one_hot(target, len(MEANS)).double()


def exact_eps(x_t: Tensor, level: Level, target: Tensor | None = None) -> Tensor:
    """-sigma grad log p(x_t), or -sigma grad log p(x_t | y), without autograd, [B, 2]."""
    variance = level.alpha**2 * STD**2 + level.sigma**2
    mean = posterior(x_t, level, target) @ MEANS
    return level.sigma * (x_t - level.alpha * mean) / variance


def exact_x0(x_t: Tensor, level: Level, target: Tensor | None = None) -> Tensor:
    """E[x0 | x_t], or E[x0 | x_t, y], [B, 2]; defined at alpha = 0."""
    variance = level.alpha**2 * STD**2 + level.sigma**2
    mean = posterior(x_t, level, target) @ MEANS
    return mean + level.alpha * STD**2 / variance * (x_t - level.alpha * mean)


class MixtureDenoiser:
    """e(.) of the whole mixture for every branch; through eps, v or the velocity of a flow."""

    def __init__(self, form: str) -> None:
        self.form = form

    def predict(
        self, x_t: Tensor, level: Level, branches: Sequence[Branch]
    ) -> dict[Branch, Prediction]:
        eps = exact_eps(x_t, level)
        if self.form == "eps":
            prediction = equations.from_eps(x_t, eps, level)
        elif self.form == "flow":
            prediction = equations.from_flow(x_t, eps - exact_x0(x_t, level), level)
        else:
            x0 = (x_t - level.sigma * eps) / level.alpha
            v = level.alpha * eps - level.sigma * x0
            prediction = equations.from_v(x_t, v, level)
        return dict.fromkeys(branches, prediction)


class MixtureGuide:
    """p(y | x_t) as a function of x0_hat alone: the Tweedie map is inverted by Newton's method.

    The map x_t -> x0_hat is a diffeomorphism here (its Jacobian is alpha/sigma^2 times a
    posterior covariance); one implicit step gives autograd the exact derivative of the inverse.
    """

    def __init__(self, level: Level | None = None) -> None:
        self.level = level

    def logits(self, x0: Tensor) -> Tensor:
        assert self.level is not None
        level = self.level
        x_t = invert_tweedie(x0.detach(), level)
        jacobian = tweedie_jacobian(x_t, level)
        residual = closed_tweedie(x_t, level) - x0
        x_t = x_t - torch.linalg.solve(jacobian, residual[..., None]).squeeze(-1)
        return log_joint(x_t, level)


def closed_tweedie(x_t: Tensor, level: Level) -> Tensor:
    return (x_t - level.sigma * exact_eps(x_t, level)) / level.alpha


def tweedie_jacobian(x_t: Tensor, level: Level) -> Tensor:
    """d x0_hat / d x_t in closed form, [B, 2, 2]."""
    variance = level.alpha**2 * STD**2 + level.sigma**2
    r = log_joint(x_t, level).softmax(-1)
    mean = r @ MEANS
    centred = MEANS - mean[:, None, :]
    covariance = torch.einsum("bk,bki,bkj->bij", r, centred, centred)
    eye = torch.eye(2, dtype=torch.float64)
    d_eps = level.sigma / variance * (eye - level.alpha**2 / variance * covariance)
    return (eye - level.sigma * d_eps) / level.alpha


def invert_tweedie(x0: Tensor, level: Level) -> Tensor:
    """x_t with closed_tweedie(x_t) = x0, by damped Newton, to about 1e-14."""
    x_t = level.alpha * x0
    for _ in range(200):
        residual = closed_tweedie(x_t, level) - x0
        if residual.abs().max() < 1e-14:
            break
        step = torch.linalg.solve(tweedie_jacobian(x_t, level), residual[..., None]).squeeze(-1)
        damping = torch.ones(len(x_t), 1, dtype=torch.float64)
        for _ in range(30):
            worse = (closed_tweedie(x_t - damping * step, level) - x0).norm(
                dim=-1, keepdim=True
            ) > residual.norm(dim=-1, keepdim=True)
            if not worse.any():
                break
            damping = torch.where(worse, damping / 2, damping)
        x_t = x_t - damping * step
    return x_t
