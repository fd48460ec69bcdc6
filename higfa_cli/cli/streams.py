"""Standard streams that are closed, full, or of an encoding that cannot say everything."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Any, Literal, TextIO

STDOUT = "standard output"


def prepare() -> None:
    """Make stdin, stdout and stderr usable, however the program was started.

    A closed one reads and writes nothing: else the next file opened would take its number, and
    whatever a library prints would end up in that file. Characters that an encoding lacks are
    written as escapes.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number: this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdin is None:
        sys.stdin = _nothing("r")
    sys.stdout = _nothing("w") if sys.stdout is None else _named(sys.stdout)
    if sys.stderr is None:
        sys.stderr = _nothing("w")


class _Stdout(io.FileIO):
    """The raw file below stdout; its errors say whose they are."""

    def write(self, data: Any) -> int | None:  # type: ignore[override]
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OSError(error.errno, error.strerror, STDOUT) from None


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

    @property
    def encoding(self) -> str:
        """As of the stream."""
        return self._stream.encoding

    def isatty(self) -> bool:
        """As of the stream."""
        return self._stream.isatty()

    def write(self, text: str) -> int:
        """Write, or not."""
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, or lose what was written."""
        if flush_failure(self._stream):
            abandon(self._stream)


def _named(stdout: TextIO) -> TextIO:
    stdout.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Stdout(stdout.fileno(), "wb", closefd=False)),
        encoding=stdout.encoding,
        errors="backslashreplace" if stdout.errors == "strict" else stdout.errors,
        line_buffering=stdout.isatty(),
    )


def _nothing(mode: Literal["r", "w"]) -> TextIO:
    return open(os.devnull, mode, encoding="utf-8")  # noqa: PTH123
