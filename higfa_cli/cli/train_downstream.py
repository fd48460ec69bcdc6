"""`higfa train-downstream`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from higfa_cli.cli.options import StageFlags
from higfa_cli.cli.stage import stage_command


def command(
    flags: StageFlags,
    synthetic: Annotated[
        list[str] | None,
        typer.Option(
            help="One more arm: real + the pictures of this folder of class folders.",
            metavar="[NAME=]DIR",
        ),
    ] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(
            help="Train only this arm; `real` alone needs no synthetic pictures.", metavar="NAME"
        ),
    ] = None,
) -> None:
    """Train without and with the new pictures."""
    given = {"synthetic": synthetic, "arms": arm}
    options: dict[str, Any] = {name: value for name, value in given.items() if value}
    stage_command("train-downstream", flags, **options)
