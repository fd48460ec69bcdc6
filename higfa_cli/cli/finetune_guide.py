"""`higfa finetune-guide`."""

from __future__ import annotations

from higfa_cli.cli.options import StageFlags
from higfa_cli.cli.stage import stage_command


def command(flags: StageFlags) -> None:
    """Train and calibrate the guide classifier."""
    stage_command("finetune-guide", flags)
