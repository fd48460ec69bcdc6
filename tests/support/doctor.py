"""`higfa doctor` as it is typed, and its answer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from higfa_cli.cli.app import app
from tests.support.recipes import drawing_keys, write_recipe
from tests.support.shapes import write_class_folders

#: The checks, in their order.
CHECKS = [
    "recipe",
    "data",
    "prompts",
    "model files",
    "model",
    "device",
    "dtype",
    "memory",
    "disk",
    "time",
]


def small_recipe(folder: Path, model: Path, controlnet: Path, **drawing: Any) -> Path:
    write_class_folders(folder / "photos" / "train", 2, 0)
    return write_recipe(
        folder / "tiny.yaml", (model, controlnet), **drawing_keys(**{"steps": 4} | drawing)
    )


def copied(models: dict[str, tuple[Path, Path]], folder: Path) -> tuple[Path, Path]:
    for source in models["sd"]:
        shutil.copytree(source, folder / source.name)
    return folder / "sd", folder / "controlnet"


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["doctor", *map(str, words)])


def examine(*words: str | Path, exit_code: int = 0) -> dict[str, Any]:
    result = run(*words, "--json")
    assert result.exit_code == exit_code, result.output
    answer: dict[str, Any] = json.loads(result.stdout)
    assert answer["ok"] == (exit_code == 0)
    return answer


def row(answer: dict[str, Any], check: str) -> dict[str, Any]:
    return next(one for one in answer["checks"] if one["check"] == check)
