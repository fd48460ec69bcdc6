"""The command line: registers the subcommands."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from higfa_cli import __version__
from higfa_cli.cli import doctor, init, predict, recipes, run, stage, synthesize
from higfa_cli.cli.guard import Guarded, guarded_main
from higfa_cli.cli.options import spelled_out

#: What `higfa --help` lists below which heading: commands, each with an example.
_GROUPS = {
    "Before": (
        ("init", init.command, "--root my-photos --out birds.yaml"),
        ("doctor", doctor.command, "birds.yaml"),
    ),
    "Stages in their order": (
        ("contours", stage.contours, "birds.yaml --max-bad 5%"),
        ("finetune-guide", stage.finetune_guide, "birds.yaml"),
        ("synthesize", synthesize.command, "birds.yaml --preview 8"),
        ("filter", stage.filter_, "birds.yaml --set filter.confidence=0.5"),
        ("train-downstream", stage.train_downstream, "birds.yaml --arm real"),
        ("report", stage.report, "birds.yaml"),
    ),
    "All of them": (
        ("run", run.run, "birds.yaml --until synthesize"),
        ("status", run.status, "birds.yaml"),
    ),
    "After": (
        ("predict", predict.predict, "birds.yaml new-photo.jpg"),
        ("export", predict.export, "birds.yaml --format onnx --out birds-model"),
    ),
}


class Grouped(Guarded):
    """The commands in groups and in their order."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """One section per group; what is in none comes last."""
        names = {title: [name for name, *_ in rows] for title, rows in _GROUPS.items()}
        named = {name for group in names.values() for name in group}
        names["Recipes"] = [name for name in self.list_commands(ctx) if name not in named]
        for title, group in names.items():
            with formatter.section(title):
                formatter.write_dl(
                    [(name, self.commands[name].get_short_help_str(limit=70)) for name in group]
                )


app = typer.Typer(
    cls=Grouped,
    help="Draws training pictures under text, contour and classifier guidance, and tests whether "
    "they help.",
    epilog="Example: higfa run pocket",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _group in _GROUPS.values():
    for _name, _command, _example in _group:
        app.command(_name, epilog=f"Example: higfa {_name} {_example}")(spelled_out(_command))
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
