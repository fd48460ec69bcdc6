"""`higfa contours`."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from higfa_cli.cli.options import StageFlags
from higfa_cli.cli.stage import stage_command
from higfa_cli.errors import UserError


def command(
    flags: StageFlags,
    strict: Annotated[
        bool, typer.Option("--strict", help="A photo that cannot be used is an error.")
    ] = False,
    max_bad: Annotated[
        str | None,
        typer.Option(
            help="Most photos that may be left out; same as --set data.max_bad=N|P%.",
            metavar="N|P%",
        ),
    ] = None,
) -> None:
    """Check all photos, and extract and transform contours of them.

    Photos that cannot be used are listed with their reasons in contours/rejected.jsonl, and every
    later stage leaves them out.
    """
    if strict and max_bad is not None:
        raise UserError("give one of --strict and --max-bad", exit_code=2)
    if strict:
        max_bad = "0"
    if max_bad is not None:
        flags = replace(flags, set_=[*(flags.set_ or []), f"data.max_bad={max_bad}"])
    stage_command("contours", flags)
