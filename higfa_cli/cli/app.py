"""The command line: registers the subcommands, each in a file of its own."""

from __future__ import annotations

from typing import Annotated

import typer

from higfa_cli import __version__
from higfa_cli.cli import (
    contours,
    doctor,
    export,
    filter,
    finetune_guide,
    init,
    predict,
    recipes,
    report,
    run,
    status,
    synthesize,
    train_downstream,
)
from higfa_cli.cli.guard import Guarded, guarded_main
from higfa_cli.cli.options import with_stage_flags

app = typer.Typer(
    cls=Guarded,
    help="Draws training pictures under text, contour and classifier guidance, and tests whether "
    "they help.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.command("init")(init.command)
app.command("contours")(with_stage_flags(contours.command))
app.command("finetune-guide")(with_stage_flags(finetune_guide.command))
app.command("synthesize")(with_stage_flags(synthesize.command))
app.command("filter")(with_stage_flags(filter.command))
app.command("train-downstream")(with_stage_flags(train_downstream.command))
app.command("report")(with_stage_flags(report.command))
app.command("run")(run.command)
app.command("status")(status.command)
app.command("doctor")(doctor.command)
app.command("predict")(predict.command)
app.command("export")(export.command)
app.add_typer(recipes.app, name="recipes")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"higfa {__version__}")
        raise typer.Exit


@app.callback()
def _global_flags(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of the `higfa` command."""
    guarded_main(app)
