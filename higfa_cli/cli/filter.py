"""`higfa filter`."""

from __future__ import annotations

from higfa_cli.cli.options import StageFlags
from higfa_cli.cli.stage import stage_command


def command(flags: StageFlags) -> None:
    """Choose which of the pictures may train.

    Rejected ones stay on disk; their reasons and measures are in filter/selection.jsonl.
    """
    stage_command("filter", flags)
