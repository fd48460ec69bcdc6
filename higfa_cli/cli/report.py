"""`higfa report`."""

from __future__ import annotations

from higfa_cli.cli.options import StageFlags
from higfa_cli.cli.stage import stage_command


def command(flags: StageFlags) -> None:
    """Write tables, pictures and a verdict.

    Markdown, CSV, LaTeX and one HTML page.
    """
    stage_command("report", flags)
