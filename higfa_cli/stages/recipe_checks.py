"""What can be said of a recipe before its data and models are there. Imports no torch."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from higfa_cli.data.prompts import load_words, negative_for
from higfa_cli.recipe.refs import POCKET, existing_path, resolve_ref
from higfa_cli.recipe.schema import Recipe


def check_recipe(recipe: Recipe, base: Path) -> None:
    """Raise UserError unless the texts and parts that the recipe names are there.

    Args:
        recipe: a valid recipe.
        base: its folder.
    """
    check_texts(recipe, base)
    _check_pocket(recipe, base)


def check_texts(recipe: Recipe, base: Path) -> None:
    """Raise UserError unless prompt bank and class words can be read.

    Which classes they must have only the data can say.
    """
    negative_for(recipe.prompts.model_copy(update={"negative": None}), base)
    words = recipe.data.class_words
    if words is None or _is_of_absent_pocket(words):
        return
    load_words(existing_path(words, base, "data.class_words"))


def _check_pocket(recipe: Recipe, base: Path) -> None:
    refs = {
        "data.root": recipe.data.root,
        "model.base": recipe.model.base,
        "model.controlnet": recipe.model.controlnet,
        "model.gradient_autoencoder": recipe.model.gradient_autoencoder,
    }
    for key, ref in refs.items():
        if ref is not None and ref.startswith("pocket:") and not _is_of_absent_pocket(ref):
            resolve_ref(ref, base, key)


def _is_of_absent_pocket(ref: str) -> bool:
    """Whether a reference is right, but its package is not installed: no fault of the recipe."""
    name = ref.removeprefix("pocket:")
    known = name != ref and name in POCKET
    return known and importlib.util.find_spec("higfa_pocket") is None
