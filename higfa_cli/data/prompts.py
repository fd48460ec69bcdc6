"""Class words and prompt banks: what the text encoder reads about a class."""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from pydantic import JsonValue

from higfa_cli.data.layouts.common import class_label, read_text
from higfa_cli.errors import RecipeError, UserError
from higfa_cli.recipe.data import WORDS, Prompts, template_problem
from higfa_cli.recipe.refs import resolve_ref
from higfa_cli.recipe.strict_yaml import parse_texts
from higfa_cli.text import or_nearest

# The words of ten thousand classes; the parser takes seconds for as much.
MOST_BYTES = 1_000_000
BANKS = ("aircraft", "birds", "cars", "dogs", "flowers", "pets", "textures")
_KEY = "prompts.bank"
_SHAPES = "write a list of templates, or `class:` with a list below it for every class"


def default_words(name: str) -> str:
    """Words for a class without a words file: the name, with separators made spaces.

    `737-800` and `DC-10` keep their dash (a digit stands beside it); a leading `001.` (CUB) or
    `n02085620-` (WordNet, as in Stanford Dogs) goes.
    """
    name = re.sub(r"^(?:\d+\.(?=\D)|n\d{8}-(?=.))", "", name)
    name = name.replace("_", " ")
    name = re.sub(r"(?<!\d)-(?!\d)", " ", name)
    return " ".join(name.split())


def _read_strings(path: Path, title: str, key: str) -> JsonValue:
    """The content of a YAML (or .json) file; every scalar of YAML is text, no key occurs twice.

    Raises UserError naming the file (as `title`) when it is broken, and the recipe's `key` when
    it cannot be read.
    """
    text = read_text(path, f"correct {key}", MOST_BYTES)
    try:
        if path.suffix == ".json":
            content: JsonValue = json.loads(text, object_pairs_hook=_without_repetition)
            return content
        return parse_texts(text, f"{title} {path}")
    except RecursionError:
        raise UserError(f"{title} {path}: nested too deeply; write it flatter") from None
    except RecipeError as error:
        # Not a fault of the recipe, as its exit code would say.
        raise UserError(
            f"{error} (text that begins with `{{` or holds `: ` needs quotes)"
        ) from None
    except ValueError as error:
        raise UserError(f"{title} {path} is broken ({error}); correct it") from error


def _without_repetition(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    for key, count in Counter(key for key, _ in pairs).items():
        if count > 1:
            raise ValueError(f"key `{key}` appears twice")
    return dict(pairs)


def load_words(path: Path) -> dict[str, str]:
    """Class name -> words from a YAML or JSON mapping.

    Raises UserError naming the file when it is missing, broken, or not a mapping of text to text.
    """
    raw = _read_strings(path, "class words file", "data.class_words")
    items = raw.items() if isinstance(raw, dict) else ()
    words = {name: value.strip() for name, value in items if isinstance(value, str)}
    if not isinstance(raw, dict) or len(words) < len(raw):
        raise UserError(
            f"class words file {path} is not a mapping; write one line `class: words` per class"
        )
    return {class_label(name): value for name, value in words.items()}


def words_for(classes: Sequence[str], path: Path | None) -> Mapping[str, str]:
    """Words of every class: from the file, or `default_words` where there is no file.

    Raises UserError naming the first class that the file leaves without words.
    """
    if path is None:
        return {name: default_words(name) or name for name in classes}
    words = load_words(path)
    for name in classes:
        if not words.get(name):
            raise UserError(
                f"class `{name}` has no words in {path}; add a line `{json.dumps(name)}: ...`"
            )
    return {name: words[name] for name in classes}


@dataclass(frozen=True)
class _Bank:
    """A bank file: templates of every class or, in `per_class`, of each class its own."""

    path: Path
    shared: tuple[str, ...] = ()
    per_class: Mapping[str, tuple[str, ...]] | None = None
    negative: str = ""


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
    if bank.per_class is None:
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


def _load(name: str, base: Path) -> _Bank:
    path = _bank_path(name, base)
    raw, origin = _read_strings(path, "prompt bank", _KEY), f"prompt bank {path}"
    if not isinstance(raw, dict) or not raw:
        return _Bank(path, _templates(raw, origin))
    negative = raw.get("negative", "")
    if "templates" not in raw:
        if isinstance(negative, str) and "negative" in raw:
            raise UserError(
                f"{origin}: `negative` is not read from a list per class; "
                "move it to the recipe, prompts.negative"
            )
        labels = Counter(map(class_label, raw))
        if twice := [label for label, count in labels.items() if count > 1]:
            raise UserError(f"{origin}: class `{twice[0]}` occurs twice; keep one")
        lists = {class_label(key): value for key, value in raw.items()}
        per_class = {cls: _templates(value, origin, cls) for cls, value in lists.items()}
        return _Bank(path, per_class=per_class)
    for key in raw.keys() - {"templates", "negative"}:
        raise UserError(
            f"{origin}: `{key}` does not belong beside `templates`; keep "
            f"`templates` and `negative`, or {_SHAPES}{or_nearest(key, ['negative'])}"
        )
    if not isinstance(negative, str):
        raise UserError(f"{origin}: `negative` must be one text; write it as such")
    return _Bank(path, _templates(raw["templates"], origin), negative=negative.strip())


def _bank_path(name: str, base: Path) -> Path:
    if name in BANKS:
        return Path(str(resources.files("higfa_cli"))) / "data" / "banks" / f"{name}.yaml"
    path = resolve_ref(name, base, _KEY)
    if isinstance(path, Path):
        return path
    near = difflib.get_close_matches(name, BANKS, n=3) or BANKS
    raise UserError(
        f"{_KEY}: `{name}` is neither a shipped bank (nearest: {', '.join(near)}) nor a file "
        f"(looked in {base}); correct {_KEY}"
    )


def _templates(raw: JsonValue, origin: str, cls: str | None = None) -> tuple[str, ...]:
    """The templates of one list; of every class where `cls` is None."""
    if cls is not None:
        origin += f", class `{cls}`"
    if not isinstance(raw, list):
        raise UserError(f"{origin}: there is no list of templates; {_SHAPES}")
    if not raw:
        raise UserError(f"{origin}: the list of templates is empty; add one")
    templates = []
    for number, template in enumerate(raw, start=1):
        if not isinstance(template, str):
            raise UserError(f"{origin}: template {number} is not text; put it in quotes")
        if problem := template_problem(template, optional=cls is not None):
            raise UserError(f"{origin}: template {number} (`{template}`) {problem}")
        templates.append(template.strip())
    return tuple(templates)
