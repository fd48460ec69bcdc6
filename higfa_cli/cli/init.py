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
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Write a recipe for your own photos.

    With class words for the prompts and a seeded split.
    """
    with stdout_for_result(as_json):
        from higfa_cli.stages.init_project import init_project

        result = init_project(root, out, name, val, test, seed, force, TerminalProgress(quiet))
    print_result(f"wrote {out}", result, as_json)
