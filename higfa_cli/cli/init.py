"""`higfa init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from higfa_cli.cli.options import JsonFlag, QuietFlag
from higfa_cli.cli.output import TerminalProgress, print_result, stdout_for_result


def command(
    root: Annotated[Path, typer.Option(help="Your photos: a folder of class folders.")],
    out: Annotated[Path, typer.Option(help="The recipe to write.")] = Path("recipe.yaml"),
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of the experiment (else the recipe's, of recipe.yaml the folder's)."
        ),
    ] = None,
    val: Annotated[float, typer.Option(min=0.0, max=1.0, help="Validation fraction.")] = 0.15,
    test: Annotated[float, typer.Option(min=0.0, max=1.0, help="Test fraction.")] = 0.15,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split.")] = 0,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the files of an earlier init.")
    ] = False,
    flat: Annotated[
        bool,
        typer.Option("--flat", help="Every folder is a class, those named like splits too."),
    ] = False,
    labels: Annotated[
        list[Path] | None,
        typer.Option(help="Table of photos and classes: CSV or JSON lines (may be repeated)."),
    ] = None,
    label_column: Annotated[
        str | None, typer.Option(help="Its column of classes, where several may be it.")
    ] = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Write a recipe for your own photos.

    With class words for the prompts and a seeded split.
    """
    with stdout_for_result(as_json):
        from higfa_cli.init.photos import Draw, Form
        from higfa_cli.init.project import init_project

        draw, form = Draw(val, test, seed), Form(flat, tuple(labels or ()), label_column)
        progress = TerminalProgress(quiet)
        result = init_project(root, out, name, draw, form, force, progress)
    print_result(f"wrote {out}", result, as_json)
