"""The one placeholder of prompt templates, and slips in it."""

from __future__ import annotations

import re

WORDS = "{words}"


def typo(template: str) -> str | None:
    """The first `{name}` of a template that is not `{words}`: it would be drawn literally."""
    found = (match.group() for match in re.finditer(r"\{\s*\w+\s*\}", template))
    return next((one for one in found if one != WORDS), None)
