"""What the sampling loop needs from the outside: a denoiser, a guide and a solver.

Coordinates are those of an affine path throughout: x_t = alpha x0 + sigma eps. In diffusion models
alpha = sqrt(alpha_bar_t) and sigma = sqrt(1 - alpha_bar_t), in flow matching alpha = 1 - sigma.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

from torch import Tensor


class Branch(Enum):
    """One conditioning of the denoiser e(.)."""

    UNCOND = "e(x)"
    TEXT = "e(c_T)"
    CONTOUR = "e(c_C)"
    TEXT_CONTOUR = "e(c_T,c_C)"

    @property
    def has_text(self) -> bool:
        return self in (Branch.TEXT, Branch.TEXT_CONTOUR)

    @property
    def has_contour(self) -> bool:
        return self in (Branch.CONTOUR, Branch.TEXT_CONTOUR)


@dataclass(frozen=True)
class Level:
    """One step of the solver's discretisation.

    Attributes:
        index: i, counted from 0 at pure noise.
        progress: u = i / N in [0, 1).
        timestep: what the denoiser is conditioned on.
        alpha: weight of x0, in [0, 1]; 0 is pure noise, where no guide is asked.
        sigma: weight of eps, in [0, 1].
    """

    index: int
    progress: float
    timestep: float
    alpha: float
    sigma: float


class Prediction(NamedTuple):
    """One prediction in both forms, each [B, ...], so that no later step divides by alpha.

    They always satisfy x_t = alpha x0 + sigma eps.
    """

    x0: Tensor
    eps: Tensor


class Denoiser(Protocol):
    """e(.): predictions of several branches at one noise level, batched into one call."""

    def predict(
        self, x_t: Tensor, level: Level, branches: Sequence[Branch]
    ) -> dict[Branch, Prediction]: ...


class Guide(Protocol):
    """The fine-grained classifier behind the decoder: x0 [B, ...] -> logits / temperature [B, K].

    Must treat the images of a batch independently (batch norm in eval mode).
    """

    def logits(self, x0: Tensor) -> Tensor: ...


class Solver(Protocol):
    """A sampler in coordinates of its own."""

    @property
    def levels(self) -> Sequence[Level]: ...

    def start(self, noise: Tensor) -> Tensor:
        """Unit normal noise [B, ...] -> the solver's first state."""

    def to_x_t(self, x: Tensor, level: Level) -> Tensor:
        """The solver's state -> x_t."""

    def step(self, prediction: Prediction, x: Tensor, level: Level) -> Tensor:
        """One step from `level` to the next."""

    def restart(self) -> None:
        """Forget earlier predictions: the next step is first order."""
