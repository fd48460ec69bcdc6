"""The guidance: every number and choice of the method. Needs no torch.

The metadata of a field says what it means and which values it may have (ge, gt, le); the recipe's
section `guidance` is made of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from higfa_cli.method.protocols import Level

Composition = Literal["three_term", "joint"]
Confidence = Literal["probability", "margin"]
Modulation = Literal["constant", "rising", "falling"]


@dataclass(frozen=True)
class TextStrength:
    """s_T, the text guidance strength."""

    scale: float = field(
        default=4.0, metadata={"ge": 0, "description": "S_T: fixed strength before the switch."}
    )
    floor: float = field(
        default=1.0,
        metadata={"ge": 0, "description": "f_T: strength that the modulation falls back to."},
    )


@dataclass(frozen=True)
class ContourStrength:
    """s_C, the contour guidance strength."""

    scale: float = field(
        default=1.5, metadata={"ge": 0, "description": "S_C: fixed strength before the switch."}
    )
    floor: float = field(
        default=1.0,
        metadata={"ge": 0, "description": "f_C: strength that the modulation falls back to."},
    )


@dataclass(frozen=True)
class ClassifierStrength:
    """s_K, the classifier guidance, and how confidence modulates all three strengths."""

    scale: float = field(
        default=1.0,
        metadata={
            "ge": 0,
            "description": "S_K. At 0 the guide is still read and modulates text and contour; "
            "`switch: 1` turns it off.",
        },
    )
    gamma: float = field(
        default=1.0, metadata={"ge": 0, "description": "Exponent: s_K = S_K (1 - p)^gamma."}
    )
    confidence: Confidence = field(
        default="probability",
        metadata={"description": "p_y, or the margin p_y - max over other classes, clipped at 0."},
    )
    modulation: Modulation = field(
        default="rising",
        metadata={
            "description": "a(p): 1; p^power (text and contour yield as p falls); or (1-p)^power "
            "(they yield as p rises)."
        },
    )
    power: float = field(default=1.0, metadata={"gt": 0, "description": "Exponent of a(p)."})
    gradient: Literal["x0", "x_t"] = field(
        default="x0",
        metadata={
            "description": "`x0`: eps held fixed (cheap); `x_t`: exact, through the denoiser."
        },
    )
    read: Literal["conditional", "composed"] = field(
        default="conditional",
        metadata={
            "description": "Which prediction the guide reads: plain conditional or composed (at "
            "S_T and S_C)."
        },
    )
    grad_norm: Literal["none", "rms"] = field(
        default="rms",
        metadata={"description": "`rms`: each image's gradient scaled to the rms of its eps."},
    )
    switch: float = field(
        default=0.7,
        metadata={
            "ge": 0,
            "le": 1,
            "description": "tau: progress u = i/N at which the guide switches on (1: never).",
        },
    )
    switch_sigma: float | None = field(
        default=None,
        metadata={
            "ge": 0,
            "le": 1,
            "description": "tau as a noise level instead: the guide is on where sigma <= this.",
        },
    )


@dataclass(frozen=True)
class Guidance:
    """Text + contour + classifier guidance."""

    composition: Composition = field(
        default="three_term",
        metadata={"description": "How the branches combine (docs/method.md)."},
    )
    text: TextStrength = TextStrength()
    contour: ContourStrength = ContourStrength()
    classifier: ClassifierStrength = ClassifierStrength()

    @property
    def consulted(self) -> bool:
        """Whether any step may consult the guide."""
        return self.classifier.switch_sigma is not None or self.classifier.switch < 1

    def guided(self, level: Level) -> bool:
        """Whether the guide is on at this level: u >= tau, or sigma <= tau as a noise level.

        Never at pure noise, which says nothing of the picture that a guide could read.
        """
        if level.alpha == 0:
            return False
        if self.classifier.switch_sigma is not None:
            return level.sigma <= self.classifier.switch_sigma
        return level.progress >= self.classifier.switch

    def switched(self, tau: float) -> Guidance:
        """The same with the guide on from progress `tau`; 1 keeps it off."""
        return replace(self, classifier=replace(self.classifier, switch=tau, switch_sigma=None))
