"""What commands print: human lines, or exactly one JSON object, on stdout; progress on stderr."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import AbstractContextManager, contextmanager
from typing import IO, Any, TypeGuard, TypeVar, cast

import typer

from higfa_cli.cli.streams import Forgiving
from higfa_cli.text import duration, inert

T = TypeVar("T")


# Without a terminal: seconds after which a line is due at any rate, and at the next tenth.
LONGEST_SILENCE, SHORTEST_SILENCE = 30.0, 10.0


class TerminalProgress:
    """Progress on stderr: notes as lines, and bars; plain lines where stderr is no terminal."""

    def __init__(self, quiet: bool = False) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._quiet = quiet
        # rich asks no more of a file than this; its own answer to a closed pipe ends the program.
        file = cast(IO[str], Forgiving(sys.stderr))
        self._console = Console(
            file=file, markup=False, highlight=False, emoji=False, soft_wrap=True
        )
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=quiet or not self._console.is_terminal,
        )

    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        """Yield `items` under a bar; a bar inside another is a second line."""
        if total is None and isinstance(items, Sized):
            total = len(items)
        outermost = not self._bars.tasks
        task = self._bars.add_task(inert(description), total=total)
        if outermost:
            self._bars.start()
        told = _Lines(self.note, description, total)
        silent = self._quiet or self._console.is_terminal
        try:
            with contextlib.nullcontext() if silent else told.every(LONGEST_SILENCE):
                for item in items:
                    yield item
                    self._bars.advance(task)
                    told.advance(silent)
        finally:
            self._bars.remove_task(task)
            if outermost:
                self._bars.stop()

    def note(self, message: str) -> None:
        """One human line, unless quiet."""
        if not self._quiet:
            self._console.print(inert(message))


class _Lines:
    """How far work is, as lines for a log."""

    def __init__(self, say: Callable[[str], None], description: str, total: int | None) -> None:
        self._say, self._description, self._total = say, description, total
        self._count, self._started = 0, time.monotonic()
        self._last = self._started

    def advance(self, silent: bool) -> None:
        """One more is done; a line at every tenth of the work, unless one was just written."""
        self._count += 1
        count, total = self._count, self._total
        tenth = total is not None and count * 10 // total > (count - 1) * 10 // total
        if not silent and tenth and time.monotonic() - self._last >= SHORTEST_SILENCE:
            self._tell()

    @contextmanager
    def every(self, seconds: float) -> Iterator[None]:
        """A line whenever so many seconds have passed without one, until the end."""
        done = threading.Event()

        def watch() -> None:
            while not done.wait(max(0.01, self._last + seconds - time.monotonic())):
                if time.monotonic() - self._last >= seconds:
                    self._tell()

        threading.Thread(target=watch, daemon=True).start()
        try:
            yield
        finally:
            done.set()

    def _tell(self) -> None:
        self._last = time.monotonic()
        parts = [
            f"{self._count:,}" if self._total is None else f"{self._count:,} of {self._total:,}"
        ]
        if self._count:
            each = (self._last - self._started) / self._count
            parts.append(f"{duration(each)} each" if each >= 1 else f"{1 / each:.1f} per second")
            if self._total is not None:
                parts.append(f"{duration(each * (self._total - self._count))} left")
        self._say(f"{self._description}: {', '.join(parts)}")


def stdout_for_result(as_json: bool) -> AbstractContextManager[Any]:
    """While work goes on: with --json, whatever a library prints goes to stderr instead."""
    return contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()


def print_json(result: Mapping[str, object]) -> None:
    """The one JSON object: ASCII, for any terminal and encoding."""
    # The one control character that JSON leaves as it is.
    typer.echo(json.dumps(result, indent=1, default=str).replace("\x7f", "\\u007f"))


def print_line(text: str) -> None:
    """One human line."""
    typer.echo(inert(text))


def print_result(title: str, result: Mapping[str, object], as_json: bool) -> None:
    """The JSON object, or the title and the result below it."""
    if as_json:
        print_json(result)
    else:
        print_line(title)
        print_mapping(result)


def print_mapping(
    result: Mapping[str, object], indent: str = "  ", nothing: str = "not known"
) -> None:
    """A result as `key: value` lines; lists of objects become tables, sentences lines of their own.

    Empty objects are left out. `nothing` is what None is called: in a result, a number that could
    not be had.
    """
    for key, value in result.items():
        label = f"{indent}{key.replace('_', ' ')}"
        if isinstance(value, Mapping):
            if value:
                print_line(f"{label}:")
                # A recipe's None is a key that nobody set.
                print_mapping(value, indent + "  ", "not set" if key == "parameters" else nothing)
        elif value is None:
            print_line(f"{label}: {nothing}")
        elif _is_rows(value):
            print_line(f"{label}:")
            print_table(value)
        elif _is_prose(value):
            print_line(f"{label}:")
            for sentence in value:
                print_line(f"{indent}  {sentence}")
        else:
            print_line(f"{label}: {_shown(value)}")


def print_table(rows: Sequence[Mapping[str, object]]) -> None:
    """Rows as a table; columns in order of appearance, those with objects inside left to --json."""
    from rich.console import Console
    from rich.table import Table

    nested = {name for row in rows for name, value in row.items() if isinstance(value, Mapping)}
    columns = [name for name in dict.fromkeys(n for row in rows for n in row) if name not in nested]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(inert(name.replace("_", " ")), overflow="fold")
    for row in rows:
        table.add_row(*(inert(_shown(row.get(name, ""))) for name in columns))
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        # A file has no width; folding a table at 80 columns would only break paths.
        console.width = 1000
    with console.capture() as captured:
        console.print(table)
    # The last column comes padded to its width.
    for line in captured.get().splitlines():
        typer.echo(line.rstrip())


def _is_rows(value: object) -> TypeGuard[Sequence[Mapping[str, object]]]:
    return (
        isinstance(value, Sequence)
        and bool(value)
        and all(isinstance(row, Mapping) for row in value)
    )


def _is_prose(value: object) -> TypeGuard[Sequence[object]]:
    """Several texts, with commas of their own: between commas they would run together."""
    return (
        isinstance(value, (list, tuple))
        and len(value) > 1
        and any(isinstance(text, str) and ", " in text for text in value)
    )


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)) and not any(isinstance(x, Mapping) for x in value):
        return ", ".join(map(_shown, value)) or "none"
    if isinstance(value, (Mapping, list, tuple)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
