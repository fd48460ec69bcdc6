"""The recipe's dotted keys, and the nearest valid one to a mistake."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, get_type_hints

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from higfa_cli.recipe.moved import MOVED, new_key, new_sections
from higfa_cli.recipe.schema import Recipe
from higfa_cli.text import nearest


def _fields(annotation: Any) -> dict[str, FieldInfo]:
    """Keys of a section, a pydantic model or a plain dataclass; of another type, none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation.model_fields
    if not is_dataclass(annotation):
        return {}
    types = get_type_hints(annotation)
    return {
        field.name: FieldInfo.from_annotated_attribute(types[field.name], field)
        for field in fields(annotation)
    }


def _walk(section: Any, prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in _fields(section).items():
        yield f"{prefix}{name}", field
        yield from _walk(field.annotation, f"{prefix}{name}.")


@cache
def recipe_keys() -> dict[str, FieldInfo]:
    """Every dotted key of the schema, sections included, with its type and description."""
    return dict(_walk(Recipe, ""))


def is_section(key: str) -> bool:
    """Whether a valid key holds further keys."""
    return bool(_fields(recipe_keys()[key].annotation))


def section_keys(section: str) -> list[str]:
    """Dotted keys directly below a section ("" is the top)."""
    start = f"{section}." if section else ""
    return [k for k in recipe_keys() if k.startswith(start) and "." not in k[len(start) :]]


def nearest_key(wrong: str) -> str | None:
    """The valid key that an unknown dotted key most likely meant, or None."""
    if spelt := _spelt(wrong):
        return spelt
    old = nearest(wrong, _old_keys(), 0.9)
    if old is not None:
        return _old_keys()[old]
    section, _, leaf = wrong.rpartition(".")
    same_leaf = [key for key in recipe_keys() if key.rpartition(".")[2] == leaf]
    inside = [key for key in same_leaf if section and key.startswith(f"{section}.")]
    if inside or same_leaf:
        return (inside or same_leaf)[0]
    # In a section that exists, the whole dotted name would only match that section.
    return None if section_keys(section) else nearest(wrong, recipe_keys(), 0.6)


@cache
def _old_keys() -> dict[str, str]:
    """Leaf keys of earlier recipes that have moved -> their keys now."""
    return {
        old + key.removeprefix(new): key
        for old, new in MOVED.items()
        for key in recipe_keys()
        if not is_section(key) and (key == new or key.startswith(f"{new}."))
    }


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
    """The sentence about an unknown key: its new name, the nearest, or those of its section."""
    moved = new_key(wrong)
    if moved in recipe_keys():
        return f"`{wrong}` is now `{moved}`; rename it"
    if sections := new_sections(wrong):
        now = ", ".join(f"`{section}`" for section in sections)
        return f"`{wrong}` is no section any more; its keys are in {now}"
    near = nearest_key(moved or wrong)
    if near:
        return f"unknown key `{wrong}`; did you mean `{near}`?"
    section = wrong.rpartition(".")[0]
    valid = ", ".join(f"`{key}`" for key in section_keys(section) or section_keys(""))
    return f"unknown key `{wrong}`; valid keys are {valid}"
