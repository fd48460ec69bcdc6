"""A stage at work: what it has finished so far, and the journals that say so after a kill.

A journal has one line per finished file, by the participant that wrote it: nobody else appends.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from higfa_cli.artifacts.artifact import Artifact
from higfa_cli.artifacts.atomic import append_line, write_text
from higfa_cli.artifacts.fingerprint import hash_file
from higfa_cli.artifacts.safe_paths import why_outside

# Half-done work that a resumed run goes on from; gone once the stage is done.
SCRATCH = ".scratch"


class JournalRow(Artifact):
    """A finished file, and the seconds that making it took where they were counted."""

    file_name: str
    sha256: str
    seconds: float | None = None

    @property
    def line(self) -> str:
        return json.dumps(self.plain())


Finished = dict[str, JournalRow]


@dataclass
class StageRun:
    """A stage at work: where to write, and what to tell the record.

    `finished`: outputs of an earlier, unfinished run of the same inputs that are still whole, or
    of other participants. `device` is what the stage really ran on. `part` names the participant
    where several share the work.
    """

    directory: Path
    device: str
    finished: Mapping[str, JournalRow] = field(default_factory=dict)
    part: str | None = None
    counts: Artifact | None = None
    _outputs: Finished = field(default_factory=dict)

    @property
    def kept(self) -> dict[str, str]:
        """Whole outputs of earlier runs, or of other participants: name -> sha256."""
        return {name: row.sha256 for name, row in self.finished.items()}

    def is_kept(self, name: str) -> bool:
        """Whether an output is among the `kept`."""
        return name in self.finished

    def output(self, path: Path, seconds: float | None = None) -> None:
        """Register a finished file below the stage's folder as an output.

        `seconds` that making it took are kept over a resumption.
        Raises UserError when the file is absent, ValueError when it lies elsewhere.
        """
        name = path.relative_to(self.directory).as_posix()
        row = JournalRow(file_name=name, sha256=hash_file(path), seconds=seconds)
        self._outputs[name] = row
        # A line lost to a power failure costs only that file's work.
        append_line(journal(self.directory, self.part), row.line)

    def keep(self, name: str) -> None:
        """Register an output that is `kept`."""
        self._outputs[name] = self.finished[name]

    def digest(self, name: str) -> str:
        """sha256 of a registered output."""
        return self._outputs[name].sha256

    def scratch(self, name: str) -> Path:
        """Where half-done work may lie until the stage is done."""
        return self.directory / SCRATCH / name

    @property
    def outputs(self) -> dict[str, str]:
        """Outputs registered so far: relative POSIX path -> sha256."""
        return {name: row.sha256 for name, row in self._outputs.items()}

    @property
    def seconds(self) -> dict[str, float]:
        """What was counted per output."""
        rows = self._outputs.items()
        return {name: row.seconds for name, row in rows if row.seconds is not None}


def journal(directory: Path, part: str | None = None) -> Path:
    """The journal of the run, or of one of several participants."""
    return directory / (".outputs.jsonl" if part is None else f".outputs.{part}.jsonl")


def journals(directory: Path) -> list[Path]:
    """All participants' journals."""
    return sorted(directory.glob(".outputs*.jsonl"))


def read_journal(path: Path) -> Finished:
    """Name -> row; the last line of a killed run may be cut short, and is left out."""
    rows = []
    # A pipe in its place would block.
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError, RecursionError):
            rows.append(JournalRow.model_validate(json.loads(line)))
    # Not by its own word alone: the journal may be a stranger's.
    return {row.file_name: row for row in rows if not why_outside(path.parent, row.file_name)}


def write_journal(path: Path, rows: Iterable[JournalRow]) -> None:
    """Replace a journal."""
    write_text(path, "".join(row.line + "\n" for row in rows))


def unchanged(directory: Path, rows: Mapping[str, JournalRow]) -> Finished:
    """The rows whose files are as they were written."""
    return {
        name: row
        for name, row in rows.items()
        if (directory / name).is_file() and hash_file(directory / name) == row.sha256
    }
