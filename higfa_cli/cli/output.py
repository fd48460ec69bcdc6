"""What commands print: human lines, or exactly one JSON object, on stdout; progress on stderr."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import AbstractContextManager
from typing import IO, Any, TypeGuard, TypeVar, cast

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from higfa_cli.cli.streams import Forgiving
from higfa_cli.text import HAZARD, inert

T = TypeVar("T")


class TerminalProgress:
    """Progress on stderr: notes as lines, and bars where stderr is a terminal."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        # rich asks no more of a file than this; its own answer to a closed pipe ends the program.
        file = cast(IO[str], Forgiving(sys.stderr))
        self._console = Console(file=file, highlight=False, emoji=False, soft_wrap=True)
        self._bars = Progress(
            TextColumn("{task.description}"),
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
        task = self._bars.add_task(_plain(description), total=total)
        if outermost:
            self._bars.start()
        try:
            for item in items:
                yield item
                self._bars.advance(task)
        finally:
            self._bars.remove_task(task)
            if outermost:
                self._bars.stop()

    def note(self, message: str) -> None:
        """One human line, unless quiet."""
        if not self._quiet:
            self._console.print(_plain(message))


def stdout_for_result(as_json: bool) -> AbstractContextManager[Any]:
    """While work goes on: with --json, whatever a library prints goes to stderr instead."""
    return contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()


def print_json(result: Mapping[str, object]) -> None:
    """The one JSON object."""
    text = json.dumps(result, ensure_ascii=False, indent=1, default=str)
    # What JSON leaves as it is, a terminal may obey. The escape reads back as the character.
    text = "\n".join(HAZARD.sub(_escaped, line) for line in text.split("\n"))
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        # A narrow locale, or a file name that is not text: JSON has escapes of its own.
        text = json.dumps(result, indent=1, default=str)
    sys.stdout.write(text + "\n")


def print_line(text: str) -> None:
    """One human line; nothing in it is markup."""
    _stdout().print(_plain(text))


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
    nested = {name for row in rows for name, value in row.items() if isinstance(value, Mapping)}
    columns = [name for name in dict.fromkeys(n for row in rows for n in row) if name not in nested]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(_plain(name.replace("_", " ")), overflow="fold")
    for row in rows:
        table.add_row(*(_plain(_shown(row.get(name, ""))) for name in columns))
    console = _stdout()
    with console.capture() as captured:
        console.print(table)
    # The last column comes padded to its width.
    for line in captured.get().splitlines():
        sys.stdout.write(line.rstrip() + "\n")


def _plain(text: str) -> str:
    """Text in which nothing is markup, nor a command to the terminal."""
    return escape(inert(text))


def _escaped(match: re.Match[str]) -> str:
    return f"\\u{ord(match.group()):04x}"


def _stdout() -> Console:
    # A new one each time: stdout may be redirected in between.
    console = Console(highlight=False, emoji=False, soft_wrap=True)
    if not console.is_terminal:
        # A file has no width; folding a table at 80 columns would only break paths.
        console.width = 1000
    return console


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


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence) and not any(isinstance(x, Mapping) for x in value):
        return ", ".join(map(_shown, value)) or "none"
    if isinstance(value, (Mapping, Sequence)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
