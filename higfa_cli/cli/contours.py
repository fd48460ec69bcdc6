"""`higfa contours`."""

from __future__ import annotations

from higfa_cli.cli.options import StageFlags
from higfa_cli.cli.stage import stage_command


def command(flags: StageFlags) -> None:
    """Extract and transform contours of photos."""
    stage_command("contours", flags)
