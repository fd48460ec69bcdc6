"""Errors as users see them: one line on stderr and an exit code."""

from __future__ import annotations

import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from higfa_cli.errors import UserError

INTERRUPTED = 130
DEBUG = "HIGFA_DEBUG"


class Guarded(TyperGroup):
    """A command group that turns exceptions into one line and an exit code.

    With HIGFA_DEBUG=1 in the environment, exceptions keep their traceback.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        debug = os.environ.get(DEBUG) == "1"
        try:
            return super().invoke(ctx)
        except UserError as error:
            if debug:
                raise
            _complain(str(error))
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            _complain("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # The reader (`| head`) has gone: nothing is left to say, and flushing at exit would
            # complain again.
            sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
            raise typer.Exit(1) from None
        except Exception as error:
            if debug or _is_typers_own(error):
                raise
            kind = type(error).__name__
            _complain(f"{kind}: {error} (set {DEBUG}=1 for the traceback)")
            raise typer.Exit(1) from None


def _is_typers_own(error: Exception) -> bool:
    """Usage errors, exits and aborts, which Typer itself reports (and has moved over time)."""
    return any(base.__module__.split(".")[0] in ("click", "typer") for base in type(error).__mro__)


def _complain(message: str) -> None:
    typer.echo("error: " + " ".join(message.split()), err=True)
