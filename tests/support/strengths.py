"""Guidance for tests, from flat names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from higfa_cli.method.guidance import Guidance


def strengths(base: Guidance | None = None, **names: Any) -> Guidance:
    """`base` (the defaults) with S_T, f_T, S_C, f_C and S_K by the names text, text_floor, contour,
    contour_floor and classifier; other names are of the composition or of the classifier."""
    guidance = base or Guidance()
    parts: dict[str, dict[str, Any]] = {"text": {}, "contour": {}, "classifier": {}}
    for name, value in names.items():
        if name == "composition":
            guidance = replace(guidance, composition=value)
        elif name in parts:
            parts[name]["scale"] = value
        elif name.endswith("_floor"):
            parts[name.removesuffix("_floor")]["floor"] = value
        else:
            parts["classifier"][name] = value
    changed = {name: replace(getattr(guidance, name), **keys) for name, keys in parts.items()}
    return replace(guidance, **changed)
