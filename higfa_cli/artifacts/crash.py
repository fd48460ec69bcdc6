"""For tests of recovery alone: ends the process, as `kill -9` would, at a chosen durable step."""

from __future__ import annotations

import itertools
import os
import signal

STOP_AT = "HIGFA_TEST_STOP_AT"
_steps = itertools.count(1)


def crash_point() -> None:
    """Kill this process at the N-th call where HIGFA_TEST_STOP_AT=N is set; otherwise nothing.

    Called around every write, rename, journal line and removal: wherever a crash leaves the
    folder in another state.
    """
    wanted = os.environ.get(STOP_AT)
    if wanted is not None and next(_steps) == int(wanted):
        os.kill(os.getpid(), signal.SIGKILL)
