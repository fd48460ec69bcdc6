"""`higfa filter`."""

from __future__ import annotations

from higfa_cli.cli.options import ArmFlag, StageFlags
from higfa_cli.cli.stage import stage_command


def command(flags: StageFlags, arm: ArmFlag = None) -> None:
    """Choose which of the pictures of each arm may train.

    Rejected ones stay on disk; their reasons and measures are in filter/ARM/selection.jsonl.
    """
    stage_command("filter", flags, arms=arm or ())
