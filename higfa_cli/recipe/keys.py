"""The recipe's dotted keys: the nearest valid one to a mistake, and `--set a.b.c=VALUE`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, JsonValue
from pydantic.fields import FieldInfo

from higfa_cli.errors import RecipeError
from higfa_cli.recipe.schema import Recipe
from higfa_cli.recipe.section import Tree, set_value
from higfa_cli.recipe.strict_yaml import parse_yaml
from higfa_cli.text import nearest

#: Keys of earlier recipes that are called otherwise now; those of `synthesize` have been parted.
_RENAMED = {
    "device": "run.device",
    "contours.size": "size",
    "synthesize.size": "size",
    "synthesize.model": "model.base",
    "synthesize.memory.tiling": "model.tiling",
}
_PARTED = ("model", "run", "sampling", "pictures", "guidance")


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


def takes_several_types(key: str) -> bool:
    """Whether a valid key's value may be of one type or another (text or nothing counts)."""
    return get_origin(recipe_keys()[key].annotation) in (Union, UnionType)


def section_keys(section: str) -> list[str]:
    """Dotted keys directly below a section ("" is the top)."""
    start = f"{section}." if section else ""
    return [k for k in recipe_keys() if k.startswith(start) and "." not in k[len(start) :]]


def nearest_key(wrong: str) -> str | None:
    """The valid key that an unknown dotted key most likely meant, or None."""
    if spelt := _spelt(wrong):
        return spelt
    if old := nearest(wrong, _old_keys(), 0.9):
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
    """Keys and sections of earlier recipes that have moved -> where they are now."""
    moved = dict(_RENAMED)
    for section in _PARTED:
        for key in recipe_keys():
            if key.startswith(f"{section}."):
                moved.setdefault(f"synthesize{key.removeprefix(section)}", key)
    prompts = [key for key in recipe_keys() if key.partition(".")[0] == "prompts"]
    return moved | {f"synthesize.{key}": key for key in prompts}


def old_keys(tree: Mapping[str, object], prefix: str = "") -> list[str]:
    """Dotted keys of a recipe that have moved, or whose section is no more, in its order."""
    keys = []
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            keys += old_keys(value, f"{key}.")
        elif key in _old_keys() or key.startswith("synthesize."):
            keys.append(key)
    return keys


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
    if wrong in _old_keys():
        return f"`{wrong}` is now `{_old_keys()[wrong]}`; rename it"
    if inside := [new for old, new in _old_keys().items() if old.startswith(f"{wrong}.")]:
        sections = dict.fromkeys(f"`{new.partition('.')[0]}`" for new in inside)
        return f"`{wrong}` is no section any more; its keys are in {', '.join(sections)}"
    if near := nearest_key(wrong):
        return f"unknown key `{wrong}`; did you mean `{near}`?"
    section = wrong.rpartition(".")[0]
    valid = ", ".join(f"`{key}`" for key in section_keys(section) or section_keys(""))
    return f"unknown key `{wrong}`; valid keys are {valid}"


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
    options = get_args(annotation) if takes_several_types(key) else (annotation,)
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
