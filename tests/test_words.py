"""What messages say: no name of the program's inside, and remedies that exist."""

from __future__ import annotations

import re

import pytest

from higfa_cli.cli.guard import _described
from higfa_cli.errors import RecipeError
from higfa_cli.forecast.doctor import failed
from higfa_cli.recipe.keys import recipe_keys
from higfa_cli.recipe.load import load_recipe, override_recipe

#: Words of pydantic, Python and JSON that nobody writes in a recipe.
INSIDE = re.compile(
    r"constrained|function-|literal\[|tuple|dictionary|instance of|dataclass|pydantic|valid array|"
    r"an object|after validation|pattern|\b[A-Z]\w*Error\b"
)
ODD = (1.0, "x", [], {"a": 1})


@pytest.mark.fault(
    "words",
    "a recipe's key holds a value of another kind",
    "one line with the key as it is written and what it takes; no validator's name",
)
def test_no_validator_is_named_whatever_a_key_holds() -> None:
    recipe = load_recipe("pocket").recipe
    refused = 0
    for key in recipe_keys():
        for value in ODD:
            try:
                override_recipe(recipe, {key: value})
            except RecipeError as error:
                refused += 1
                message = re.sub(r"\(got .*", "", str(error))
                assert not INSIDE.search(message), message
                for name in re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)", message):
                    shown = name in recipe_keys() or name.startswith("arms.")
                    assert shown or "unknown key" in message, message
    assert refused > 200


@pytest.mark.parametrize(
    ("key", "value", "takes"),
    [
        ("data.max_bad", "1.0", "a whole number or a percentage such as 10% (got 1.0)"),
        ("data.max_bad", "ten", 'a whole number or a percentage such as 10% (got "ten")'),
        ("run.batch_size", "1.5", "a whole number or 'auto' (got 1.5)"),
        ("contours.transforms.scale", "[1]", "the list is too short; write all its values"),
    ],
)
def test_a_key_of_two_kinds_names_both(key: str, value: str, takes: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("pocket", [f"{key}={value}"])
    assert str(caught.value).endswith(takes), str(caught.value)
    assert f"`{key}`" in str(caught.value)


@pytest.mark.fault(
    "words",
    "higfa itself is at fault",
    "one line that says so, with the version; no class of the program is named",
)
@pytest.mark.parametrize(
    "error", [KeyError("x"), RuntimeError("Given groups=1"), AssertionError(), MemoryError()]
)
def test_a_fault_of_higfa_says_so(error: Exception) -> None:
    message = _described(error)
    assert not INSIDE.search(message) and "\n" not in message
    assert "a fault of higfa 0." in message or "memory is full" in message
    row = failed("memory", error)
    assert "a fault of higfa" in row.detail and not INSIDE.search(row.detail)
