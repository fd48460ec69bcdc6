"""`--set a.b.c=VALUE`: changes to a recipe before it is validated."""

from __future__ import annotations

from collections.abc import Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin

from higfa_cli.errors import RecipeError
from higfa_cli.recipe.keys import is_section, recipe_keys, section_keys, unknown_key
from higfa_cli.recipe.strict_yaml import parse_yaml


def check_key(key: str, flag: str) -> None:
    """Raises RecipeError unless `key` is a leaf key of the recipe; `flag` names the source."""
    if key not in recipe_keys():
        raise RecipeError(f"{flag}: {unknown_key(key)}")
    if is_section(key):
        inside = ", ".join(f"`{name}`" for name in section_keys(key))
        raise RecipeError(f"{flag}: `{key}` is a section; set one of its keys: {inside}")


def parse_value(key: str, text: str, flag: str) -> Any:
    """The value of a valid leaf key, written as a YAML scalar or list.

    Keys that hold text take the words as they are, so that names like 737 need no quotes.
    """
    options = _alternatives(recipe_keys()[key].annotation)
    if str not in options:
        return parse_yaml(text, flag)
    if type(None) in options and text in ("null", "~"):
        return None
    quoted = len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'"
    return parse_yaml(text, flag) if quoted else text


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, or the type itself: `list of text` is not text."""
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def parse_override(override: str) -> tuple[str, Any]:
    """Split and check one `KEY=VALUE`. Raises RecipeError naming the flag and the remedy."""
    flag = f"--set {override}"
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals:
        raise RecipeError(f"{flag}: write KEY=VALUE, for example --set sampling.steps=20")
    check_key(key, flag)
    return key, parse_value(key, text.strip(), flag)


def apply_overrides(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, str]:
    """Change `tree` in place; the later override of a key wins.

    Returns the text of the override that set each key. Raises RecipeError for a bad override.
    """
    set_by: dict[str, str] = {}
    for override in overrides:
        key, value = parse_override(override)
        set_value(tree, key, value)
        set_by[key] = f"--set {override}"
    return set_by


def set_value(tree: dict[str, Any], key: str, value: Any) -> None:
    """Put a value at a dotted key, making the sections on the way."""
    *sections, leaf = key.split(".")
    for section in sections:
        inner = tree.get(section)
        if inner is None:
            inner = tree[section] = {}
        if not isinstance(inner, dict):
            raise RecipeError(f"cannot set `{key}`: `{section}` is not a section in the recipe")
        tree = inner
    tree[leaf] = value
