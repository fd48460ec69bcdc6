"""One process at a time in a folder of artifacts."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from higfa_cli.errors import UserError

BUSY = 75


@contextmanager
def folder_lock(directory: Path) -> Iterator[None]:
    """Hold the lock of `directory`; the lock file lies beside it, so the folder may be replaced.

    Raises UserError (exit code 75) naming the holder's process and host when it is taken.
    """
    holder = directory.parent / f".{directory.name}.lock.json"
    lock = FileLock(directory.parent / f".{directory.name}.lock", timeout=0)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{directory} is in use by {_describe(holder)}; wait until it ends, "
            "or choose another --workspace",
            exit_code=BUSY,
        ) from None
    except OSError as error:
        raise UserError(
            f"{directory} cannot be locked: {error.strerror}; choose another --workspace"
        ) from None
    try:
        holder.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _describe(holder: Path) -> str:
    # The holder writes this note just after it takes the lock: it may not be there yet.
    with contextlib.suppress(OSError, ValueError, KeyError):
        note = json.loads(holder.read_text())
        return f"process {note['pid']} on {note['host']}"
    return "another process"
