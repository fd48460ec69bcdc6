"""The recipe's dotted keys, and the nearest valid one to a mistake."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, get_type_hints

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from higfa_cli.recipe.schema import Recipe
from higfa_cli.text import nearest

#: Key or section of earlier recipes -> where it is now.
_MOVED = {
    "device": "run.device",
    "contours.size": "size",
    "synthesize.size": "size",
    "synthesize.model": "model.base",
    "synthesize.controlnet": "model.controlnet",
    "synthesize.revision": "model.revision",
    "synthesize.controlnet_revision": "model.controlnet_revision",
    "synthesize.variant": "model.variant",
    "synthesize.gradient_autoencoder": "model.gradient_autoencoder",
    "synthesize.gradient_autoencoder_revision": "model.gradient_autoencoder_revision",
    "synthesize.dtype": "model.dtype",
    "synthesize.memory.tiling": "model.tiling",
    "synthesize.memory": "run.memory",
    "synthesize.batch_size": "run.batch_size",
    "synthesize.local_files_only": "run.local_files_only",
    "synthesize.scheduler": "sampling.scheduler",
    "synthesize.steps": "sampling.steps",
    "synthesize.conditioning_scale": "sampling.conditioning_scale",
    "synthesize.conditioning_interval": "sampling.conditioning_interval",
    "synthesize.per_contour": "pictures.per_contour",
    "synthesize.gallery": "pictures.gallery",
    "synthesize.composition": "guidance.composition",
    "synthesize.text": "guidance.text",
    "synthesize.contour": "guidance.contour",
    "synthesize.classifier": "guidance.classifier",
    "synthesize.prompts": "prompts",
}


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
    return {
        old + key.removeprefix(new): key
        for old, new in _MOVED.items()
        for key in recipe_keys()
        if key == new or key.startswith(f"{new}.")
    }


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
    if inside := [new for old, new in _MOVED.items() if old.startswith(f"{wrong}.")]:
        sections = dict.fromkeys(f"`{new.partition('.')[0]}`" for new in inside)
        return f"`{wrong}` is no section any more; its keys are in {', '.join(sections)}"
    if near := nearest_key(wrong):
        return f"unknown key `{wrong}`; did you mean `{near}`?"
    section = wrong.rpartition(".")[0]
    valid = ", ".join(f"`{key}`" for key in section_keys(section) or section_keys(""))
    return f"unknown key `{wrong}`; valid keys are {valid}"
