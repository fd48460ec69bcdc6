"""What every section of a recipe is made of: its base class, and types of values with bounds."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from higfa_cli.errors import RecipeError

#: A recipe, or a part of one, as JSON and YAML hold it.
Tree = dict[str, JsonValue]

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
# The bounds are far above what is of use: they stop slips and jokes before memory does.
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Side = Annotated[int, Field(ge=1, le=8192)]
Percentage = Annotated[str, Field(pattern=r"^(100|\d{1,2}(\.\d+)?)%$")]


class Section(BaseModel):
    """A group of recipe keys: immutable, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def set_value(tree: Tree, key: str, value: JsonValue) -> None:
    """Put a value at a dotted key, making the sections on the way."""
    *sections, leaf = key.split(".")
    for section in sections:
        if tree.get(section) is None:
            tree[section] = {}
        inner = tree[section]
        if not isinstance(inner, dict):
            raise RecipeError(f"cannot set `{key}`: `{section}` is not a section in the recipe")
        tree = inner
    tree[leaf] = value
