"""What a stage depends on, and whether its folder still holds against that."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from higfa_cli.artifacts.artifact import read_model
from higfa_cli.artifacts.fingerprint import canonical_json, contents_of, hash_file, hash_json
from higfa_cli.artifacts.records import RecordedInputs, RunRecord
from higfa_cli.artifacts.safe_paths import why_outside
from higfa_cli.artifacts.stage_run import Finished, JournalRow, journals, read_journal
from higfa_cli.artifacts.workspace import RECORD
from higfa_cli.errors import UserError
from higfa_cli.text import inert

_REASONS = 4
# Files of many that are named as changed.
_NAMED = 3
# Characters of a value that is shown.
_SHOWN = 40


@dataclass(frozen=True)
class StageInputs:
    """Everything a stage's result depends on.

    `parameters`: the recipe fields that the stage reads, and its own version number.
    `files`: logical name ("data/train", "contours/manifest.jsonl") -> content hash.
    """

    parameters: Mapping[str, object]
    files: Mapping[str, str]

    @cached_property
    def key(self) -> str:
        """sha256 over parameters and file hashes."""
        return hash_json({"parameters": self.parameters, "files": self.files})

    @cached_property
    def recorded(self) -> RecordedInputs:
        """As a record holds them."""
        parameters = json.loads(canonical_json(self.parameters))
        contents = {n: of for n, digest in self.files.items() if (of := contents_of(digest))}
        files = dict(self.files)
        return RecordedInputs(key=self.key, parameters=parameters, files=files, contents=contents)


@dataclass(frozen=True)
class StageState:
    """Whether a stage's artifacts hold, and if not, why (parameters and files by name)."""

    kind: Literal["fresh", "stale", "partial", "missing"]
    reasons: tuple[str, ...] = ()


def stage_state(directory: Path, inputs: StageInputs) -> StageState:
    """Compare a stage's folder with what its inputs are now; contents count, times do not.

    fresh: finished with these inputs, every output as it was written. stale: other inputs, or an
    output was changed. partial: not finished, or an output is gone. missing: never run.
    """
    if not (directory / RECORD).is_file():
        return StageState("missing", ("not run yet",))
    record = record_of(directory)
    if record is None:
        return StageState("partial", (f"{RECORD} is broken",))
    changes = _differences(record.inputs, inputs.recorded)
    if changes:
        return StageState("stale", _capped(changes))
    if record.status == "failed":
        return StageState("partial", (f"failed: {record.error}",))
    if record.outputs is None:
        return StageState("partial", ("not finished: still running, or killed",))
    paths = {name: directory / name for name in record.outputs}
    gone = [
        name for name, path in paths.items() if why_outside(directory, name) or not path.is_file()
    ]
    if gone:
        return StageState("partial", _capped([f"{name} is gone" for name in gone]))
    changed = [name for name, path in paths.items() if hash_file(path) != record.outputs[name]]
    if changed:
        return StageState("stale", _capped([f"{name} was changed" for name in changed]))
    return StageState("fresh")


def _differences(old: RecordedInputs, new: RecordedInputs) -> list[str]:
    """What differs between recorded inputs and these, parameters first."""
    before, after = _flat(old.parameters), _flat(new.parameters)
    reasons = []
    for key in sorted(before.keys() | after.keys()):
        if before.get(key, ...) != after.get(key, ...):
            values = [
                json.dumps(flat[key], ensure_ascii=False) if key in flat else "(absent)"
                for flat in (before, after)
            ]
            short = max(map(len, values)) <= _SHOWN
            reasons.append(f"{key}: {' -> '.join(values)}" if short else f"{key} has other content")
    for name in sorted(old.files.keys() | new.files.keys()):
        if name not in new.files:
            reasons.append(f"{name} is no longer an input")
        elif name not in old.files:
            reasons.append(f"{name} is a new input")
        elif old.files[name] != new.files[name]:
            changed = _changes(old.contents.get(name, {}), new.contents.get(name, {}))
            reasons.append(f"{name} has other content{changed}")
    return reasons


def _changes(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """Which of many files changed; "" where that was not noted."""
    both = sorted(before.keys() | after.keys())
    names = [name for name in both if before.get(name) != after.get(name)]
    shown = [
        name + (" is gone" if name not in after else " changed" if name in before else " is new")
        for name in names[:_NAMED]
    ]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f": {', '.join(map(inert, shown))}{more}" if before and names else ""


def _flat(tree: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _capped(reasons: list[str]) -> tuple[str, ...]:
    if len(reasons) <= _REASONS:
        return tuple(reasons)
    return (*reasons[:_REASONS], f"and {len(reasons) - _REASONS} more")


def read_record(directory: Path) -> RunRecord:
    """A stage's record. Raises UserError when it is absent, broken or of something else."""
    return read_model(directory / RECORD, RunRecord)


def record_of(directory: Path) -> RunRecord | None:
    """A stage's record; None where `read_record` has none."""
    with contextlib.suppress(UserError):
        return read_record(directory)
    return None


def recorded(directory: Path) -> Finished:
    """Outputs that the folder's record and journals name."""
    rows: Finished = {}
    if (record := record_of(directory)) is not None:
        for name, digest in (record.outputs or {}).items():
            if why_outside(directory, name) is None:
                seconds = record.output_seconds.get(name)
                rows[name] = JournalRow(file_name=name, sha256=digest, seconds=seconds)
    for path in journals(directory):
        rows |= read_journal(path)
    return rows


def recorded_outputs(directory: Path) -> dict[str, str]:
    """`recorded`: relative path -> sha256."""
    return {name: row.sha256 for name, row in recorded(directory).items()}
