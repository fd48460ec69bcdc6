"""Strengths as functions of progress and confidence.

Before the switch text and contour are fixed and strong, and the guide is not evaluated; after
it the strengths of all three follow the guide's confidence. The paper publishes that idea; the
form below is this project's reading of it, and `modulation` is the one place to put another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from higfa_cli.method import equations
from higfa_cli.method.equations import Composition
from higfa_cli.method.protocols import Branch, Level

#: a(p, power): how text and contour follow confidence. `rising`: they yield as p falls;
#: `falling`: they yield as p rises.
MODULATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "constant": lambda p, power: torch.ones_like(p),
    "rising": lambda p, power: p**power,
    "falling": lambda p, power: (1 - p) ** power,
}


class Strengths(NamedTuple):
    """s_T, s_C and s_K of every image, each [B] and non-negative."""

    text: Tensor
    contour: Tensor
    classifier: Tensor


@dataclass(frozen=True)
class StrengthSchedule:
    """All constants of hierarchical guidance (README: strengths).

    Attributes:
        composition: `three_term` or `joint`.
        text, text_floor: S_T and f_T.
        contour, contour_floor: S_C and f_C.
        classifier, gamma: S_K and the exponent of (1 - p).
        confidence: `probability` or `margin` of the target class.
        modulation, power: a(p), a name in MODULATIONS, and its exponent.
        gradient: `x0` (eps held fixed) or `x_t` (through the denoiser).
        read: which prediction the guide reads, `conditional` or `composed` (at S_T and S_C).
        grad_norm: `none` or `rms`.
        switch: tau in [0, 1]; 1 keeps the guide off for the whole run.
        switch_sigma: tau as a noise level; takes the place of `switch` when given.
    """

    composition: Composition = "three_term"
    text: float = 4.0
    text_floor: float = 1.0
    contour: float = 1.5
    contour_floor: float = 1.0
    classifier: float = 1.0
    gamma: float = 1.0
    confidence: Literal["probability", "margin"] = "probability"
    modulation: Literal["constant", "rising", "falling"] = "rising"
    power: float = 1.0
    gradient: Literal["x0", "x_t"] = "x0"
    read: Literal["conditional", "composed"] = "conditional"
    grad_norm: Literal["none", "rms"] = "rms"
    switch: float = 0.7
    switch_sigma: float | None = None

    def guided(self, level: Level) -> bool:
        """Whether the guide is on at this level: u >= tau, or sigma <= tau as a noise level.

        Never at pure noise, which says nothing of the picture that a guide could read.
        """
        if level.alpha == 0:
            return False
        if self.switch_sigma is not None:
            return level.sigma <= self.switch_sigma
        return level.progress >= self.switch

    def confidence_of(self, logits: Tensor, target: Tensor) -> Tensor:
        """The confidence p that modulates the strengths, [B] in [0, 1]."""
        measure = equations.margin if self.confidence == "margin" else equations.probability
        return measure(logits, target)

    def fixed(self, like: Tensor) -> Strengths:
        """u < tau: s_T = S_T, s_C = S_C, s_K = 0, for a batch of the size of `like` [B]."""
        one = torch.ones_like(like)
        return Strengths(self.text * one, self.contour * one, 0 * one)

    def modulated(self, p: Tensor) -> Strengths:
        """u >= tau: s = f + (S - f) a(p) for text and contour, s_K = S_K (1-p)^gamma; p [B]."""
        a = MODULATIONS[self.modulation](p, self.power)
        return Strengths(
            text=self.text_floor + (self.text - self.text_floor) * a,
            contour=self.contour_floor + (self.contour - self.contour_floor) * a,
            classifier=self.classifier * (1 - p) ** self.gamma,
        )

    def read_branch(self) -> Branch:
        """The plain conditional: every condition that the schedule uses at all."""
        uses_contour = self.composition == "joint" or self.contour > 0 or self.contour_floor > 0
        return Branch.TEXT_CONTOUR if uses_contour else Branch.TEXT

    def branches(self, guided: bool) -> tuple[Branch, ...]:
        """Branches that have weight for at least one confidence: a choice for the whole batch.

        Text and contour strengths are affine in a(p), so a weight that is zero at both ends
        of a's range is zero for every image.
        """
        ends = [(self.text, self.contour)]
        if guided and self.modulation != "constant":
            ends.append((self.text_floor, self.contour_floor))
        s_text, s_contour = (torch.tensor(s, dtype=torch.float64) for s in zip(*ends, strict=True))
        weights = equations.branch_weights(self.composition, s_text, s_contour)
        return tuple(branch for branch, w in weights.items() if bool((w != 0).any()))
