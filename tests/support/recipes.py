"""Recipes for tests: files, and those for drawing alone from flat names."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from higfa_cli.models.diffusion import DiffusionModel
from higfa_cli.models.loading import load_pipeline
from higfa_cli.recipe.keys import section_keys
from higfa_cli.recipe.schema import Recipe
from higfa_cli.recipe.strict_yaml import dump_yaml

NETWORK = {"backbone": "test_resnet.r160_in1k", "pretrained": False, "image_size": 32}
# Edges of the shapes that tests draw.
EDGES = {"canny_low": 8.0, "canny_high": 20.0}
# Of these sections no two have a key of the same name.
_SECTION_OF = {
    key.partition(".")[2]: section
    for section in ("model", "guidance", "sampling", "pictures", "run")
    for key in section_keys(section)
}


def drawing_keys(**names: Any) -> dict[str, dict[str, Any]]:
    """The recipe's sections that hold these keys; `prompts` is one itself."""
    sections: dict[str, dict[str, Any]] = {}
    for name, value in names.items():
        if name == "prompts":
            sections[name] = value
        else:
            sections.setdefault(_SECTION_OF[name], {})[name] = value
    return sections


def write_recipe(path: Path, model: tuple[str | Path, str | Path], /, **sections: Any) -> Path:
    """A recipe over the folder `photos` beside it, with tiny networks and one arm, on the CPU.

    Of `sections` keys are added to those here; anything but a section is set. Returns `path`.
    """
    tree: dict[str, Any] = {
        "name": path.stem,
        "size": 32,
        "data": {"root": "photos"},
        "guide": dict(NETWORK),
        "model": {"base": str(model[0]), "controlnet": str(model[1])},
        "arms": {"higfa": {}},
        "run": {"device": "cpu"},
        "downstream": dict(NETWORK),
    }
    for name, value in sections.items():
        added = isinstance(value, dict) and name != "arms"
        tree[name] = tree.get(name, {}) | value if added else value
    path.write_text(dump_yaml(tree), encoding="utf-8")
    return path


def drawing_recipe(
    model: str | Path, controlnet: str | Path, size: int = 64, **names: Any
) -> Recipe:
    """A recipe whose photos nobody will ask for."""
    keys = drawing_keys(base=str(model), controlnet=str(controlnet), **names)
    return Recipe.model_validate({"name": "t", "data": {"root": "d"}, "size": size, **keys})


def load_model(recipe: Recipe, prompts: Iterable[str], base: Path = Path()) -> DiffusionModel:
    """The recipe's model on the CPU."""
    return load_pipeline(recipe, base, torch.device("cpu"), prompts)
