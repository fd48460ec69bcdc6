"""The recipe's dotted keys, and the nearest valid one to a mistake."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from pydantic import BaseModel

from higfa_cli.recipe.schema import Recipe
from higfa_cli.text import nearest


def _walk(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        annotation = field.annotation
        yield key, annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _walk(annotation, f"{key}.")


@cache
def recipe_keys() -> dict[str, Any]:
    """Every dotted key of the schema, sections included, with its type annotation."""
    return dict(_walk(Recipe, ""))


def is_section(key: str) -> bool:
    """Whether a valid key holds further keys."""
    annotation = recipe_keys()[key]
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def section_keys(section: str) -> list[str]:
    """Dotted keys directly below a section ("" is the top)."""
    start = f"{section}." if section else ""
    return [k for k in recipe_keys() if k.startswith(start) and "." not in k[len(start) :]]


def nearest_key(wrong: str) -> str | None:
    """The valid key that an unknown dotted key most likely meant, or None."""
    if spelt := _spelt(wrong):
        return spelt
    section, _, leaf = wrong.rpartition(".")
    same_leaf = [key for key in recipe_keys() if key.rpartition(".")[2] == leaf]
    inside = [key for key in same_leaf if section and key.startswith(f"{section}.")]
    if inside or same_leaf:
        return (inside or same_leaf)[0]
    # In a section that exists, the whole dotted name would only match that section.
    return None if section_keys(section) else nearest(wrong, recipe_keys(), 0.6)


def _spelt(wrong: str) -> str | None:
    """The key that differs from `wrong` by a typo alone, section by section."""
    path = ""
    for part in wrong.split("."):
        near = nearest(part, [key.rpartition(".")[2] for key in section_keys(path)], 0.7)
        if near is None:
            return None
        path = f"{path}.{near}" if path else near
    return path


def unknown_key(wrong: str) -> str:
    """The sentence about an unknown key: the nearest valid one, or those of its section."""
    near = nearest_key(wrong)
    if near:
        return f"unknown key `{wrong}`; did you mean `{near}`?"
    section = wrong.rpartition(".")[0]
    valid = ", ".join(f"`{key}`" for key in section_keys(section) or section_keys(""))
    return f"unknown key `{wrong}`; valid keys are {valid}"
