"""Ways to draw: an arm is a name, the keys of the recipe that it changes, and perhaps a guide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Sections that say how a picture is drawn, and that an arm may change.
DRAWN = {"size", "model", "guidance", "sampling", "prompts"}

_UNGUIDED = {"guidance.classifier.switch": 1.0, "guidance.classifier.switch_sigma": None}


@dataclass(frozen=True)
class Arm:
    """One way to draw.

    `settings`: recipe key of a section in DRAWN -> value. `guide`: another guide's checkpoint than
    the workspace's.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    guide: Path | None = None


TEXT_ONLY = Arm(
    "text only",
    {**_UNGUIDED, "guidance.contour.scale": 0.0, "guidance.contour.floor": 0.0},
)
TEXT_CONTOUR = Arm("text + contour", _UNGUIDED)
HIGFA = Arm("HiGFA")
FIXED = Arm(
    "fixed strength",
    {"guidance.classifier.gamma": 0.0, "guidance.classifier.modulation": "constant"},
)
FIRST_STEP = Arm(
    "from the first step",
    {"guidance.classifier.switch": 0.0, "guidance.classifier.switch_sigma": None},
)
