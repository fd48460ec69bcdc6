"""A stage at work: what it has finished, and what an earlier run of the same inputs left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from higfa_cli.artifacts.artifact import Artifact
from higfa_cli.artifacts.fingerprint import hash_file
from higfa_cli.artifacts.journal import Entry, append, journal

# Half-done work that a resumed run goes on from; gone once the stage is done.
SCRATCH = ".scratch"


@dataclass
class StageRun:
    """A stage at work: where to write, and what to tell the record.

    `kept` maps the outputs of an earlier, unfinished run of the same inputs that are still whole
    to their sha256 (empty unless resuming). `device` is what the stage really ran on. `part`
    names the participant where several share the work.
    """

    directory: Path
    device: str
    entries: Mapping[str, Entry] = field(default_factory=dict)
    part: str | None = None
    counts: Artifact | None = None
    _outputs: dict[str, Entry] = field(default_factory=dict)

    @property
    def kept(self) -> dict[str, str]:
        """Whole outputs of earlier runs, or of other participants: name -> sha256."""
        return {name: entry.sha256 for name, entry in self.entries.items()}

    def is_kept(self, name: str) -> bool:
        """Whether an output is among the `kept`."""
        return name in self.entries

    def output(self, path: Path, seconds: float | None = None) -> None:
        """Register a finished file below the stage's folder as an output.

        `seconds` that making it took are kept over a resumption.
        Raises UserError when the file is absent, ValueError when it lies elsewhere.
        """
        name = path.relative_to(self.directory).as_posix()
        self._outputs[name] = Entry(hash_file(path), seconds)
        append(journal(self.directory, self.part), name, self._outputs[name])

    def keep(self, name: str) -> None:
        """Register an output that is `kept`."""
        self._outputs[name] = self.entries[name]

    def digest(self, name: str) -> str:
        """sha256 of a registered output."""
        return self._outputs[name].sha256

    def scratch(self, name: str) -> Path:
        """Where half-done work may lie until the stage is done."""
        return self.directory / SCRATCH / name

    @property
    def outputs(self) -> dict[str, str]:
        """Outputs registered so far: relative POSIX path -> sha256."""
        return {name: entry.sha256 for name, entry in self._outputs.items()}

    @property
    def seconds(self) -> dict[str, float]:
        """What was counted per output."""
        timed = ((name, entry.seconds) for name, entry in self._outputs.items())
        return {name: seconds for name, seconds in timed if seconds is not None}


def unchanged(directory: Path, entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """The entries whose files are as they were written."""
    return {
        name: entry
        for name, entry in entries.items()
        if (directory / name).is_file() and hash_file(directory / name) == entry.sha256
    }
