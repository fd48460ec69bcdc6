"""`--set a.b.c=VALUE`: changes to a recipe before it is validated."""

from __future__ import annotations

from collections.abc import Sequence
from types import UnionType
from typing import Union, get_args, get_origin

from pydantic import JsonValue

from higfa_cli.errors import RecipeError
from higfa_cli.recipe.keys import is_section, recipe_keys, section_keys, unknown_key
from higfa_cli.recipe.section import Tree, set_value
from higfa_cli.recipe.strict_yaml import parse_yaml


def check_key(key: str, flag: str) -> None:
    """Raises RecipeError unless `key` is a leaf key of the recipe; `flag` names the source."""
    if key not in recipe_keys():
        raise RecipeError(f"{flag}: {unknown_key(key)}")
    if is_section(key):
        inside = ", ".join(f"`{name}`" for name in section_keys(key))
        raise RecipeError(f"{flag}: `{key}` is a section; set one of its keys: {inside}")


def parse_value(key: str, text: str, flag: str) -> JsonValue:
    """The value of a valid leaf key, written as a YAML scalar or list.

    Keys that hold text take the words as they are, so that names like 737 need no quotes.
    """
    annotation = recipe_keys()[key].annotation
    # Of a union its members: `list of text` is not text.
    union = get_origin(annotation) in (Union, UnionType)
    options = get_args(annotation) if union else (annotation,)
    if str not in options:
        return parse_yaml(text, flag)
    if type(None) in options and text in ("null", "~"):
        return None
    quoted = len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'"
    return parse_yaml(text, flag) if quoted else text


def apply_overrides(tree: Tree, overrides: Sequence[str]) -> dict[str, str]:
    """Change `tree` in place by `KEY=VALUE`s; the later one of a key wins.

    Returns the flag that set each key. Raises RecipeError naming the flag and the remedy.
    """
    set_by: dict[str, str] = {}
    for override in overrides:
        flag = f"--set {override}"
        key, equals, text = (part.strip() for part in override.partition("="))
        if not equals:
            raise RecipeError(f"{flag}: write KEY=VALUE, for example --set sampling.steps=20")
        check_key(key, flag)
        set_value(tree, key, parse_value(key, text, flag))
        set_by[key] = flag
    return set_by
