"""`higfa export`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from higfa_cli.cli.options import RecipeFlags
from higfa_cli.cli.predict import ModelFlag, find_model


class Format(StrEnum):
    """File formats."""

    safetensors = "safetensors"
    onnx = "onnx"


def command(
    flags: RecipeFlags,
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    format_: Annotated[Format, typer.Option("--format", help="File format.")],
    model: ModelFlag = None,
) -> None:
    """Write a trained model for use elsewhere."""
    from higfa_cli.cli.output import print_json, print_line, print_mapping, stdout_for_result

    with stdout_for_result(flags.as_json):
        path, _ = find_model(model, flags)
        from higfa_cli.stages.export import export

        result = export(path, out, format_.value)
    if flags.as_json:
        print_json(result)
    else:
        print_line(f"exported {path}")
        print_mapping(result)
