"""Prompt banks: many scenes for one kind of subject, shipped or the user's own."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from higfa_cli.data.layouts.common import class_label
from higfa_cli.data.prompts import read_strings
from higfa_cli.errors import UserError
from higfa_cli.recipe.data import Prompts
from higfa_cli.recipe.placeholders import WORDS, typo
from higfa_cli.recipe.refs import resolve_ref
from higfa_cli.text import or_nearest

BANKS = ("aircraft", "birds", "cars", "dogs", "flowers", "pets", "textures")
KEY = "prompts.bank"
_EXAMPLE = f'write it as in "a photo of a {WORDS}, at dusk"'
_SHAPES = "write a list of templates, or `class:` with a list below it for every class"


@dataclass(frozen=True)
class Bank:
    """A bank file: templates of every class or, in `per_class`, of each class its own."""

    path: Path
    shared: tuple[str, ...]
    per_class: Mapping[str, tuple[str, ...]]
    negative: str


def templates_for(
    prompts: Prompts, classes: Sequence[str], base: Path
) -> Mapping[str, tuple[str, ...]]:
    """Class -> its prompt templates: the bank's, or `prompts.templates` where no bank is named.

    `prompts.bank` is one of BANKS, else a YAML file relative to `base` (the recipe's folder): a
    list of templates; a mapping with `templates` and, if wanted, `negative`; or a mapping
    class -> list, in which `{words}` is optional because the class is fixed already.
    Raises UserError naming the file and the class or the template: an unknown bank, a broken
    file, a template without `{words}`, a class without templates, a class the data has not.
    """
    if prompts.bank is None:
        return dict.fromkeys(classes, prompts.templates)
    bank = _load(prompts.bank, base)
    if bank.shared:
        return dict.fromkeys(classes, bank.shared)
    for name in bank.per_class:
        if name not in classes:
            raise UserError(
                f"prompt bank {bank.path}: unknown class `{name}`, which the data has not; "
                f"correct or remove it{or_nearest(name, classes)}"
            )
    for name in classes:
        if name not in bank.per_class:
            raise UserError(
                f"class `{name}` has no templates in prompt bank {bank.path}; "
                f"add `{json.dumps(name, ensure_ascii=False)}:` with a list below it"
            )
    return {name: bank.per_class[name] for name in classes}


def prompts_for(
    prompts: Prompts, words: Mapping[str, str], base: Path
) -> Mapping[str, tuple[str, ...]]:
    """Class -> its finished prompts: `templates_for` with the class's words filled in, literally.

    `words` holds every class of the data. Raises UserError as `templates_for` does.
    """
    return {
        name: tuple(template.replace(WORDS, words[name]) for template in templates)
        for name, templates in templates_for(prompts, tuple(words), base).items()
    }


def negative_for(prompts: Prompts, base: Path) -> str:
    """The negative prompt: the recipe's own (even when empty), else the bank's, else none ("").

    Raises UserError as `templates_for` does for a bank that cannot be read.
    """
    if prompts.negative is not None:
        return prompts.negative
    return "" if prompts.bank is None else _load(prompts.bank, base).negative


def _load(name: str, base: Path) -> Bank:
    path = _path(name, base)
    raw = read_strings(path, "prompt bank", KEY)
    if isinstance(raw, dict) and "templates" in raw:
        for key in raw:
            if key not in ("templates", "negative"):
                raise UserError(
                    f"prompt bank {path}: `{key}` does not belong beside `templates`; keep "
                    f"`templates` and `negative`, or {_SHAPES}{or_nearest(key, ['negative'])}"
                )
        negative = raw.get("negative", "")
        if not isinstance(negative, str):
            raise UserError(f"prompt bank {path}: `negative` must be one text; write it as such")
        return Bank(path, _templates(raw["templates"], path, ""), {}, negative.strip())
    if isinstance(raw, dict) and raw:
        return Bank(path, (), _per_class(raw, path), "")
    return Bank(path, _templates(raw, path, ""), {}, "")


def _path(name: str, base: Path) -> Path:
    if name in BANKS:
        return Path(str(resources.files("higfa_cli"))) / "data" / "banks" / f"{name}.yaml"
    found = resolve_ref(name, base, KEY)
    if isinstance(found, Path):
        return found
    near = difflib.get_close_matches(name, BANKS, n=3) or BANKS
    raise UserError(
        f"{KEY}: `{name}` is neither a shipped bank (nearest: {', '.join(near)}) nor a file "
        f"(looked in {base}); correct {KEY}"
    )


def _per_class(raw: Mapping[Any, Any], path: Path) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for key, value in raw.items():
        if key == "negative" and isinstance(value, str):
            raise UserError(
                f"prompt bank {path}: `negative` is not read from a list per class; "
                "move it to the recipe, prompts.negative"
            )
        name = class_label(key)
        if name in found:
            raise UserError(f"prompt bank {path}: class `{name}` occurs twice; keep one")
        found[name] = _templates(value, path, name)
    return found


def _templates(raw: Any, path: Path, cls: str) -> tuple[str, ...]:
    """The templates of one list; `cls` is empty for the list of every class."""
    where = f"prompt bank {path}" + (f", class `{cls}`" if cls else "")
    if not isinstance(raw, list):
        raise UserError(f"{where}: there is no list of templates; {_SHAPES}")
    if not raw:
        raise UserError(f"{where}: the list of templates is empty; add one")
    for number, template in enumerate(raw, start=1):
        if not isinstance(template, str):
            raise UserError(f"{where}: template {number} is not text; put it in quotes")
        if not template.strip():
            raise UserError(f"{where}: template {number} is empty; write or remove it")
        if wrong := typo(template):
            raise UserError(
                f"{where}: template {number} (`{template}`): {wrong} is no placeholder and would "
                f"be drawn as it stands; write {WORDS}"
            )
        if not cls and WORDS not in template:
            raise UserError(f"{where}: template {number} (`{template}`) has no {WORDS}; {_EXAMPLE}")
    return tuple(template.strip() for template in raw)
