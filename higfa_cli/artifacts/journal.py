"""What a stage at work has finished so far: one line per file, by the participant that wrote it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from higfa_cli.artifacts.atomic import append_line, write_text
from higfa_cli.artifacts.records import JournalRow
from higfa_cli.artifacts.safe_paths import why_outside

JOURNAL = ".outputs.jsonl"


@dataclass(frozen=True)
class Entry:
    """A finished file: its sha256, and the seconds that making it took where they were counted."""

    sha256: str
    seconds: float | None = None

    def line(self, name: str) -> str:
        """As the journal holds it."""
        row = JournalRow(file_name=name, sha256=self.sha256, seconds=self.seconds)
        return json.dumps(row.plain())


def journal(directory: Path, part: str | None = None) -> Path:
    """The journal of the run, or of one of several participants: nobody else appends to it."""
    return directory / (JOURNAL if part is None else f".outputs.{part}.jsonl")


def journals(directory: Path) -> list[Path]:
    """All participants' journals."""
    return sorted(directory.glob(".outputs*.jsonl"))


def read_journal(path: Path) -> dict[str, Entry]:
    """Name -> entry; the last line of a killed run may be cut short, and is left out."""
    entries: dict[str, Entry] = {}
    # A pipe in its place would block.
    lines = path.read_bytes().splitlines() if path.is_file() else []
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            row = JournalRow.model_validate(json.loads(line))
            entries[row.file_name] = Entry(row.sha256, row.seconds)
    # Not by its own word alone: the journal may be a stranger's.
    return {name: entry for name, entry in entries.items() if not why_outside(path.parent, name)}


def append(path: Path, name: str, entry: Entry) -> None:
    """Add a line. A line lost to a power failure costs only that file's work."""
    append_line(path, entry.line(name))


def write_journal(path: Path, entries: Mapping[str, Entry]) -> None:
    """Replace a journal."""
    write_text(path, "".join(entry.line(name) + "\n" for name, entry in entries.items()))
