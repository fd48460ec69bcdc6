"""Class words and prompts: what the text encoder is told about a class."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from higfa_cli.errors import RecipeError, UserError
from higfa_cli.recipe.strict_yaml import parse_texts

# The words of ten thousand classes; the parser takes seconds for as much.
MOST_BYTES = 1_000_000


def default_words(name: str) -> str:
    """Words for a class without a words file: the name, with separators made spaces.

    `737-800` and `DC-10` keep their dash (a digit stands beside it); a leading `001.` (CUB) or
    `n02085620-` (WordNet, as in Stanford Dogs) goes.
    """
    name = re.sub(r"^(?:\d+\.(?=\D)|n\d{8}-(?=.))", "", name)
    name = name.replace("_", " ")
    name = re.sub(r"(?<!\d)-(?!\d)", " ", name)
    return " ".join(name.split())


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"key `{twice}` appears twice")
    return found


def read_strings(path: Path, title: str, key: str) -> Any:
    """The content of a YAML (or .json) file; every scalar of YAML is text, no key occurs twice.

    Raises UserError naming the file (as `title`) when it is broken, and the recipe's `key` when
    it cannot be read.
    """
    try:
        # A pipe would block, and a device may have no end.
        if not path.is_file():
            raise FileNotFoundError
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{title} {path} has more than {MOST_BYTES:,} bytes; correct {key}")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{title} {path} cannot be read; correct {key}") from error
    try:
        if path.suffix == ".json":
            return json.loads(text, object_pairs_hook=_without_repetition)
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


def load_words(path: Path) -> dict[str, str]:
    """Class name -> words from a YAML or JSON mapping.

    Raises UserError naming the file when it is missing, broken, or not a mapping of text to text.
    """
    raw = read_strings(path, "class words file", "data.class_words")
    if not isinstance(raw, dict) or not all(
        isinstance(item, str) for pair in raw.items() for item in pair
    ):
        raise UserError(
            f"class words file {path} is not a mapping; write one line `class: words` per class"
        )
    return {unicodedata.normalize("NFC", name): words.strip() for name, words in raw.items()}


def words_for(classes: Sequence[str], path: Path | None) -> Mapping[str, str]:
    """Words of every class: from the file, or `default_words` where there is no file.

    Raises UserError naming the first class that the file leaves without words.
    """
    if path is None:
        return {name: default_words(name) or name for name in classes}
    known = load_words(path)
    for name in classes:
        if not known.get(name):
            raise UserError(
                f"class `{name}` has no words in {path}; add a line `{json.dumps(name)}: ...`"
            )
    return {name: known[name] for name in classes}
