"""Standard streams that are closed, full, or of an encoding that cannot say everything."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Any, TextIO

STDOUT = "standard output"


def prepare() -> None:
    """Make stdin, stdout and stderr usable, however the program was started.

    A closed one reads and writes nothing: else the next file opened would take its number, and
    whatever a library prints would end up in that file. Characters that an encoding lacks are
    written as escapes. An error of stdout names it.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number: this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
    raw, errors = _Stdout(sys.stdout.fileno(), "wb", closefd=False), sys.stdout.errors
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=sys.stdout.encoding,
        errors="backslashreplace" if errors == "strict" else errors,
        line_buffering=raw.isatty(),
    )


class _Stdout(io.FileIO):
    def write(self, data: Any) -> int | None:  # type: ignore[override]
        try:
            return super().write(data)
        except OSError as error:
            error.filename = STDOUT
            raise


def flush_failure(stream: TextIO) -> OSError | None:
    """Why `stream` cannot take what was written to it; None where it can."""
    try:
        stream.flush()
    except OSError as error:
        return error
    return None


def abandon(stream: TextIO) -> None:
    """Send the rest of `stream` nowhere, so that flushing it at exit cannot fail again."""
    # Streams of tests have no file number.
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


class Forgiving:
    """A text stream whose failures are ignored: for progress, which no run must die of."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, or not."""
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, or lose what was written."""
        if flush_failure(self._stream):
            abandon(self._stream)
