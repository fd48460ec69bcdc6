"""Section `arms`: sets of pictures of the same contours and seeds, each with keys of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from higfa_cli.recipe.section import Tree

Changes = Mapping[str, JsonValue]

#: The arm without new pictures.
REAL = "real"
#: The paper's arm, and the control that lacks nothing but the guide.
HIGFA = "higfa"
TEXT_CONTOUR = "text+contour"
#: Sections that an arm may change: what a picture is of, and with which model, is the same in all.
CHANGEABLE = ("guidance", "sampling", "prompts", "filter")
#: What is drawn for the gallery alone: a few pictures of plain text.
GALLERY = "gallery"

_UNGUIDED: Changes = {
    "guidance.classifier.switch": 1.0,
    "guidance.classifier.switch_sigma": None,
}
#: Plain text guidance at S_T.
TEXT_ONLY: Changes = {
    "guidance.composition": "three_term",
    "guidance.contour.scale": 0.0,
    "guidance.contour.floor": 0.0,
    **_UNGUIDED,
}
_NAME = re.compile(r"[a-z0-9][a-z0-9+_-]{0,39}")


def default_arms() -> dict[str, Tree]:
    """The method, and text and contour alone."""
    return {TEXT_CONTOUR: dict(_UNGUIDED), HIGFA: {}}


def trained_as(name: str) -> str:
    """What an arm is called beside the photos alone, where it trains."""
    return f"{REAL}+{name}"


def main_arm(names: Sequence[str]) -> str:
    """The arm that is looked at where one is: the method's, or the last."""
    return HIGFA if HIGFA in names else names[-1]


def name_problem(name: str) -> str | None:
    """Why an arm cannot be called so; None where it can."""
    if name in (REAL, GALLERY):
        return f"`{name}` has a meaning of its own; choose another name"
    if not _NAME.fullmatch(name):
        return (
            "a name is of a-z, 0-9, `+`, `_` and `-`, at most 40, and starts with one of a-z, 0-9"
        )
    return None
