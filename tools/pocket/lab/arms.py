"""Ways to draw: an arm is a name, the keys of the recipe that it changes, and perhaps a guide.

Those that higfa itself compares change what the package's arms of these names change.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from higfa_cli.recipe import arms
from higfa_cli.recipe.arms import Changes

# Sections that say how a picture is drawn, and that an arm may change.
DRAWN = {"size", "model", "guidance", "sampling", "prompts"}


@dataclass(frozen=True)
class Arm:
    """One way to draw; `guide`: another checkpoint than the workspace's."""

    name: str
    settings: Changes = field(default_factory=dict)
    guide: Path | None = None


TEXT_ONLY = Arm("text only", arms.TEXT_ONLY)
TEXT_CONTOUR = Arm("text + contour", arms.default_arms()[arms.TEXT_CONTOUR])
HIGFA = Arm("HiGFA")
FIXED = Arm(
    "fixed strength",
    {"guidance.classifier.gamma": 0.0, "guidance.classifier.modulation": "constant"},
)
FIRST_STEP = Arm(
    "from the first step",
    {"guidance.classifier.switch": 0.0, "guidance.classifier.switch_sigma": None},
)
