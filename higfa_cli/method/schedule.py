"""Strengths as functions of progress and confidence.

Before the switch text and contour are fixed and strong, and the guide is not evaluated; after
it the strengths of all three follow the guide's confidence. The paper publishes that idea; the
form below is this project's reading of it, and `modulation` is the one place to put another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from higfa_cli.method import equations
from higfa_cli.method.guidance import Confidence, Guidance, Modulation
from higfa_cli.method.protocols import Branch

#: a(p, power): how text and contour follow confidence. `rising`: they yield as p falls;
#: `falling`: they yield as p rises.
MODULATIONS: dict[Modulation, Callable[[Tensor, float], Tensor]] = {
    "constant": lambda p, power: torch.ones_like(p),
    "rising": lambda p, power: p**power,
    "falling": lambda p, power: (1 - p) ** power,
}
#: The confidence p, [B] in [0, 1], of logits [B, K] and labels [B].
CONFIDENCES: dict[Confidence, Callable[[Tensor, Tensor], Tensor]] = {
    "probability": equations.probability,
    "margin": equations.margin,
}


class Strengths(NamedTuple):
    """s_T, s_C and s_K of every image, each [B] and non-negative."""

    text: Tensor
    contour: Tensor
    classifier: Tensor


def fixed(guidance: Guidance, like: Tensor) -> Strengths:
    """u < tau: s_T = S_T, s_C = S_C, s_K = 0, for a batch of the size of `like` [B]."""
    ones = torch.ones_like(like)
    return Strengths(guidance.text.scale * ones, guidance.contour.scale * ones, 0 * ones)


def modulated(guidance: Guidance, p: Tensor) -> Strengths:
    """u >= tau: s = f + (S - f) a(p) for text and contour, s_K = S_K (1-p)^gamma; p [B]."""
    text, contour, classifier = guidance.text, guidance.contour, guidance.classifier
    a = MODULATIONS[classifier.modulation](p, classifier.power)
    return Strengths(
        text=text.floor + (text.scale - text.floor) * a,
        contour=contour.floor + (contour.scale - contour.floor) * a,
        classifier=classifier.scale * (1 - p) ** classifier.gamma,
    )


def read_branch(guidance: Guidance) -> Branch:
    """The plain conditional: every condition that the guidance uses at all."""
    contour = guidance.contour
    uses_contour = guidance.composition == "joint" or contour.scale > 0 or contour.floor > 0
    return Branch.TEXT_CONTOUR if uses_contour else Branch.TEXT


def read_branches(guidance: Guidance) -> tuple[Branch, ...]:
    """Branches of the prediction that the guide reads: the plain conditional, or all of them."""
    if guidance.classifier.read == "conditional":
        return (read_branch(guidance),)
    return branches(guidance, guided=False)


def branches(guidance: Guidance, guided: bool) -> tuple[Branch, ...]:
    """Branches that have weight for at least one confidence: a choice for the whole batch.

    Text and contour strengths are affine in a(p), so a weight that is zero at both ends
    of a's range is zero for every image.
    """
    text, contour = guidance.text, guidance.contour
    ends = [(text.scale, contour.scale)]
    if guided and guidance.classifier.modulation != "constant":
        ends.append((text.floor, contour.floor))
    weights = [equations.branch_weights(guidance.composition, *end) for end in ends]
    return tuple(branch for branch in weights[0] if any(w[branch] != 0 for w in weights))
