"""Signals of the programs that tests start."""

from __future__ import annotations

import signal


def heed_signals() -> None:
    """Let signals end a child, though tests may run under `nohup` or in a shell's background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
