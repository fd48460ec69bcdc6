"""`higfa export`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from higfa_cli.cli.options import DatasetFlag, JsonFlag, RecipeFlag, SetFlag, WorkspaceFlag
from higfa_cli.cli.predict import ModelFlag, find_model


class Format(StrEnum):
    """File formats."""

    safetensors = "safetensors"
    onnx = "onnx"


def command(
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    format_: Annotated[Format, typer.Option("--format", help="File format.")],
    model: ModelFlag = None,
    recipe: RecipeFlag = None,
    dataset: DatasetFlag = None,
    set_: SetFlag = None,
    workspace: WorkspaceFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Write a trained model for use elsewhere."""
    from higfa_cli.cli.output import print_json, print_line, print_mapping, stdout_for_result

    with stdout_for_result(as_json):
        path, _ = find_model(model, recipe, dataset, set_, workspace, None)
        from higfa_cli.stages.export import export

        result = export(path, out, format_.value)
    if as_json:
        print_json(result)
    else:
        print_line(f"exported {path}")
        print_mapping(result)
