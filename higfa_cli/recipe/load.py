"""From a recipe file or a built-in name, and overrides, to one frozen `Recipe`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from higfa_cli.errors import RecipeError
from higfa_cli.recipe.arms import CHANGEABLE, Changes
from higfa_cli.recipe.builtin import builtin_text, is_builtin
from higfa_cli.recipe.keys import (
    apply_overrides,
    check_key,
    old_keys,
    recipe_keys,
    takes_several_types,
    unknown_key,
)
from higfa_cli.recipe.schema import Recipe
from higfa_cli.recipe.section import set_value
from higfa_cli.recipe.strict_yaml import LONGEST, parse_yaml
from higfa_cli.text import inert, plain_words

# A character has at most four bytes.
_MOST_BYTES = 4 * LONGEST
# A key that a section does not have, as pydantic calls it in its models and in plain dataclasses.
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


@dataclass(frozen=True)
class LoadedRecipe:
    """A validated recipe, the folder its paths start from (`base`), and where it came from."""

    recipe: Recipe
    base: Path
    origin: str


def load_recipe(ref: str, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Load a recipe by file path or built-in name, with `KEY=VALUE` overrides.

    Raises RecipeError: file absent, bad YAML, unknown key (with the nearest valid one), bad value.
    """
    text, base, origin = _read(ref)
    tree = parse_yaml(text, f"recipe {ref}")
    if not isinstance(tree, dict):
        raise RecipeError(
            f"recipe {ref}: expected keys such as `name:` and `data:`; see the README"
        )
    set_by = apply_overrides(tree, overrides)
    return LoadedRecipe(_validate(tree, f"recipe {ref}", set_by), base, origin)


def override_recipe(recipe: Recipe, values: Changes) -> Recipe:
    """A copy of a recipe with dotted keys set to values. Raises RecipeError when invalid."""
    tree = recipe.model_dump(mode="json")
    for key, value in values.items():
        if key not in recipe_keys():
            raise RecipeError(unknown_key(key))
        set_value(tree, key, value)
    return _validate(tree, f"recipe {recipe.name}", {})


def recipe_schema() -> dict[str, object]:
    """JSON schema of a recipe, for editors."""
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, **Recipe.model_json_schema()}


def _read(ref: str) -> tuple[str, Path, str]:
    """Text, base and origin."""
    try:
        path = Path(ref).expanduser()
        named_like_file = path.suffix.lower() in (".yaml", ".yml") or len(path.parts) > 1
        if not named_like_file and (is_builtin(ref) or not path.is_file()):
            name, text = builtin_text(ref)
            return text, Path.cwd(), f"built-in {name}"
        with path.open("rb") as handle:
            data = handle.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise RecipeError(f"recipe {ref} has more than {_MOST_BYTES:,} bytes; is it a recipe?")
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        raise RecipeError(
            f"recipe {ref} does not exist; write one with `higfa init`, "
            "or pick one of `higfa recipes list`"
        ) from None
    except UnicodeDecodeError:
        raise RecipeError(f"recipe {ref} is not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise RecipeError(
            f"recipe {ref} cannot be read: {error.strerror}; give the path of a recipe file"
        ) from None
    except (ValueError, RuntimeError) as error:
        # A NUL in the path, or the home folder of an unknown user.
        raise RecipeError(f"recipe {ref!r} is no path ({error}); correct it") from None
    resolved = path.resolve()
    return text, resolved.parent, str(resolved)


def _validate(tree: Mapping[str, object], origin: str, set_by: Mapping[str, str]) -> Recipe:
    try:
        _check_text(tree, origin)
        text = json.dumps(tree)
    except (ValueError, RecursionError):
        raise RecipeError(f"{origin}: nested too deeply; write it flatter") from None
    if old := old_keys(tree):
        more = f" (and {len(old) - 1} more)" if len(old) > 1 else ""
        raise RecipeError(f"{origin}: {unknown_key(old[0])}{more}")
    try:
        # Through JSON, because pydantic's strict rules then take a list for a tuple and an int
        # for a float, and still refuse `steps: true` and `steps: "20"`.
        recipe = Recipe.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise _explained(error, origin, set_by) from None
    for name, changes in recipe.arms.items():
        arm = f"{origin}: arm `{name}`"
        for key in changes:
            check_key(key, arm)
            if key.partition(".")[0] not in CHANGEABLE:
                raise RecipeError(
                    f"{arm}: `{key}` is the same in all arms; an arm changes keys of "
                    f"{', '.join(f'`{section}`' for section in CHANGEABLE)}"
                )
        try:
            recipe.arm(name)
        except ValidationError as error:
            raise _explained(error, arm, {}) from None
    return recipe


def _check_text(value: object, origin: str) -> None:
    """Names and paths of a recipe reach terminals, pages and the file system: plain text only."""
    if isinstance(value, str):
        hazards = [char for char in value if inert(char) != char and char not in "\t\n"]
        if hazards:
            raise RecipeError(
                f"{origin}: the character {inert(hazards[0])} in `{inert(value[:40])}` is a "
                "control character; remove it"
            )
    elif isinstance(value, Mapping):
        _check_text([*value.keys(), *value.values()], origin)
    elif isinstance(value, list):
        for inner in value:
            _check_text(inner, origin)


def _explained(error: ValidationError, origin: str, set_by: Mapping[str, str]) -> RecipeError:
    # An unknown key explains most of what else is wrong, a missing one for example.
    problems = sorted(error.errors(), key=lambda problem: problem["type"] not in _UNKNOWN)
    by_key: dict[str, list[ErrorDetails]] = {}
    for problem in problems:
        by_key.setdefault(_key(problem), []).append(problem)
    key, problems = next(iter(by_key.items()))
    source = set_by.get(key.partition("[")[0], origin)
    more = f" (and {len(by_key) - 1} more)" if len(by_key) > 1 else ""
    return RecipeError(f"{source}: {_sentence(key, problems)}{more}")


def _key(problem: ErrorDetails) -> str:
    """The key as a recipe has it: what comes below one of several types is the type's name."""
    key = ""
    for part in problem["loc"]:
        if key in recipe_keys() and takes_several_types(key):
            break
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else str(part)
    return key


def _sentence(key: str, problems: Sequence[ErrorDetails]) -> str:
    """What is wrong with one key; `problems` are of all types that it may have."""
    problem = problems[0]
    if problem["type"] in _UNKNOWN:
        return unknown_key(key)
    if problem["type"] == "missing" and key.endswith("]"):
        return f"`{key.rpartition('[')[0]}`: the list is too short; write all its values"
    if problem["type"] == "missing":
        return f"the key `{key}` is missing; add it"
    first, *others = dict.fromkeys(map(_in_words, problems))
    message = " or ".join([first, *(text.removeprefix("input should be ") for text in others)])
    if not key:
        return message
    if problem["type"] == "string_type" and isinstance(problem["input"], (int, float, bool)):
        message += "; put it in quotes"
    value = json.dumps(problem["input"], ensure_ascii=False)
    shown = value if len(value) <= 60 else value[:57] + "..."
    return f"`{key}`: {message} (got {shown})"


def _in_words(problem: ErrorDetails) -> str:
    """pydantic's sentence, without Python's and JSON's words for what a recipe holds."""
    if problem["type"] == "string_pattern_mismatch" or problem["loc"][-1:] == ("constrained-str",):
        return "a percentage such as 10%"
    return plain_words(problem["msg"])
