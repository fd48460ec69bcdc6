"""The arms of the laboratory: higfa's own, and others that they are held against."""

from __future__ import annotations

import re

from higfa_cli.recipe.arms import HIGFA, TEXT_CONTOUR, TEXT_ONLY, Changes, default_arms

TEXT, FIXED, FIRST_STEP = "text-only", "fixed-strength", "first-step"
SCALE = "guidance.classifier.scale"
ARMS: dict[str, Changes] = {
    TEXT: TEXT_ONLY,
    **default_arms(),
    FIXED: {"guidance.classifier.gamma": 0.0, "guidance.classifier.modulation": "constant"},
    FIRST_STEP: {"guidance.classifier.switch": 0.0, "guidance.classifier.switch_sigma": None},
}
#: Arm -> what pages and pictures call it.
TITLES = {
    TEXT: "text only",
    TEXT_CONTOUR: "text + contour",
    HIGFA: "HiGFA",
    FIXED: "fixed strength",
    FIRST_STEP: "from the first step",
}


def arm_name(*words: object) -> str:
    """A name as an arm of a recipe may have it."""
    return re.sub(r"[^a-z0-9+_-]+", "-", "-".join(map(str, words)).lower()).strip("-")
