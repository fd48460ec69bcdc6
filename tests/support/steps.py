"""Ends the process, as `kill -9` would, before a chosen durable step: every one is a kill point.

A step is whatever leaves a folder in another state: a file opened for writing, a sync, a rename, a
removal, a new folder. What is written into an open file may be lost with the process.
"""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Callable
from functools import wraps
from typing import Any

DURABLE = ("replace", "fsync", "unlink", "rmdir", "mkdir")


def stop_before(step: int) -> Callable[[], int]:
    """Count the durable steps of this process from 1, and kill it before `step` (0: never).

    Returns what tells how many there have been.
    """
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1
        if steps == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(real)
        def call(*arguments: Any, **options: Any) -> Any:
            count()
            return real(*arguments, **options)

        return call

    for name in DURABLE:
        setattr(os, name, counted(getattr(os, name)))
    opened = io.open

    def open_file(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if set(mode) & set("wax+"):
            count()
        return opened(file, mode, *arguments, **options)

    # As `pathlib` opens its files.
    io.open = open_file
    return lambda: steps
