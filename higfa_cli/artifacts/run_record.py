"""A stage's folder: what went in, what came out, and whether it still holds.

`run.json` is the record. It is written first ("running") and last ("done"); in between, finished
files are noted in `.outputs.jsonl`, so that a killed run can be resumed or cleared.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from higfa_cli import __version__
from higfa_cli.artifacts.atomic import (
    read_json,
    remove_temporary_files,
    write_json,
    write_text,
)
from higfa_cli.artifacts.fingerprint import canonical_json, hash_file, hash_json
from higfa_cli.artifacts.lock import folder_lock
from higfa_cli.errors import UserError
from higfa_cli.recipe.schema import Recipe
from higfa_cli.recipe.strict_yaml import dump_yaml

RECORD = "run.json"
RESOLVED = "recipe.resolved.yaml"
JOURNAL = ".outputs.jsonl"
_LIBRARIES = (
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "timm",
    "torchmetrics",
    "safetensors",
    "numpy",
    "pillow",
    "opencv-python-headless",
    "pydantic",
)
_REASONS = 4


@dataclass(frozen=True)
class StageInputs:
    """Everything a stage's result depends on.

    `parameters`: the recipe fields that the stage reads, and its own version number.
    `files`: logical name ("data/train", "contours/manifest.jsonl") -> content hash.
    """

    parameters: dict[str, Any]
    files: dict[str, str]

    @cached_property
    def key(self) -> str:
        """sha256 over parameters and file hashes."""
        return hash_json({"parameters": self.parameters, "files": self.files})


@dataclass(frozen=True)
class StageState:
    """Whether a stage's artifacts hold, and if not, why (parameters and files by name)."""

    kind: Literal["fresh", "stale", "partial", "missing"]
    reasons: tuple[str, ...] = ()


@dataclass
class StageRun:
    """A stage at work: where to write, and what to tell the record.

    `kept` maps the outputs of an earlier, unfinished run of the same inputs that are still whole
    to their sha256 (empty unless resuming). `device` is what the stage really ran on.
    """

    directory: Path
    device: str
    kept: Mapping[str, str]
    counts: dict[str, Any] = field(default_factory=dict)
    _outputs: dict[str, str] = field(default_factory=dict)

    def output(self, path: Path) -> None:
        """Register a finished file below the stage's folder as an output.

        Raises UserError when the file is absent, ValueError when it lies elsewhere.
        """
        name = path.relative_to(self.directory).as_posix()
        digest = hash_file(path)
        self._outputs[name] = digest
        with (self.directory / JOURNAL).open("a", encoding="utf-8") as journal:
            journal.write(json.dumps({"file_name": name, "sha256": digest}) + "\n")

    @property
    def outputs(self) -> dict[str, str]:
        """Outputs registered so far: relative POSIX path -> sha256."""
        return dict(self._outputs)


def stage_state(directory: Path, inputs: StageInputs) -> StageState:
    """Compare a stage's folder with what its inputs are now; contents count, times do not.

    fresh: finished with these inputs, every output as it was written. stale: other inputs, or an
    output was changed. partial: not finished, or an output is gone. missing: never run.
    """
    if not (directory / RECORD).is_file():
        return StageState("missing", ("not run yet",))
    try:
        record = _read_record(directory)
    except UserError:
        return StageState("partial", (f"{RECORD} is broken",))
    changes = _differences(record["inputs"], inputs)
    if changes:
        return StageState("stale", _capped(changes))
    if record["status"] == "failed":
        return StageState("partial", (f"failed: {record.get('error', 'unknown error')}",))
    if record["status"] != "done":
        return StageState("partial", ("not finished: still running, or killed",))
    return _outputs_state(directory, record["outputs"])


@contextmanager
def stage_run(
    directory: Path, inputs: StageInputs, recipe: Recipe, resume: bool = False
) -> Iterator[StageRun]:
    """Run a stage in its folder: lock, clear or resume, record.

    Outputs of an earlier run are removed first, unless `resume` and that run had the same inputs:
    then its whole outputs stay (`StageRun.kept`) and changed ones are removed. Only files that
    the earlier record names are removed, and, where that run did not finish, what it left in the
    stage's subfolders. On an error the record says "failed" and the folder stays resumable.
    Raises UserError: folder busy (exit code 75), not writable, or not one of higfa's.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(directory, error) from None
    with folder_lock(directory):
        try:
            kept = _prepare(directory, inputs, resume)
            record = _opening_record(inputs, recipe)
            write_json(directory / RECORD, record)
            write_text(directory / RESOLVED, dump_yaml(recipe.model_dump(mode="json")))
        except OSError as error:
            raise _unwritable(directory, error) from None
        run = StageRun(directory=directory, device=recipe.device, kept=kept)
        try:
            yield run
        except BaseException as error:
            # A record that cannot be written must not hide why the stage failed.
            with contextlib.suppress(OSError):
                _close(run, record | {"status": "failed", "error": _one_line(error)})
            raise
        _close(run, record | {"status": "done", "outputs": run.outputs})
        (directory / JOURNAL).unlink(missing_ok=True)


def _close(run: StageRun, record: dict[str, Any]) -> None:
    ending = {"device": run.device, "counts": run.counts, "ended": _now()}
    write_json(run.directory / RECORD, record | ending)


def recorded_outputs(directory: Path) -> dict[str, str]:
    """Outputs that the folder's record and journal name: relative path -> sha256."""
    outputs: dict[str, str] = {}
    if (directory / RECORD).is_file():
        with contextlib.suppress(UserError):
            outputs.update(_read_record(directory).get("outputs", {}))
    if (directory / JOURNAL).is_file():
        for line in (directory / JOURNAL).read_text(encoding="utf-8").splitlines():
            # The last line of a killed run may be cut short.
            with contextlib.suppress(ValueError, KeyError, TypeError):
                row = json.loads(line)
                outputs[row["file_name"]] = row["sha256"]
    return {name: digest for name, digest in outputs.items() if _inside(name)}


def _prepare(directory: Path, inputs: StageInputs, resume: bool) -> dict[str, str]:
    """Clear or resume the folder; returns the outputs that stay."""
    remove_temporary_files(directory)
    if not (directory / RECORD).is_file():
        if any(directory.iterdir()):
            raise UserError(
                f"{directory} holds files but no {RECORD}, so higfa did not make it; "
                "move it away or choose another --workspace"
            )
        return {}
    try:
        record = _read_record(directory)
    except UserError:
        record = {"status": "broken", "inputs": {"key": ""}}
    outputs = recorded_outputs(directory)
    if resume and record["inputs"].get("key") == inputs.key:
        return _keep_whole(directory, outputs)
    for name in [*outputs, JOURNAL, RESOLVED]:
        (directory / name).unlink(missing_ok=True)
    folders = [item for item in directory.rglob("*") if item.is_dir() and not item.is_symlink()]
    if record["status"] != "done":
        for item in [item for folder in folders for item in folder.iterdir()]:
            if item.is_symlink() or item.is_file():
                item.unlink()
    _remove_empty(folders)
    return {}


def _keep_whole(directory: Path, outputs: Mapping[str, str]) -> dict[str, str]:
    kept: dict[str, str] = {}
    for name, digest in outputs.items():
        path = directory / name
        if not path.is_file():
            continue
        if hash_file(path) == digest:
            kept[name] = digest
        else:
            path.unlink()
    # The finished record is about to be replaced: the journal takes over its outputs.
    lines = [json.dumps({"file_name": name, "sha256": digest}) for name, digest in kept.items()]
    write_text(directory / JOURNAL, "".join(line + "\n" for line in lines))
    return kept


def _remove_empty(folders: list[Path]) -> None:
    for folder in sorted(folders, reverse=True):
        with contextlib.suppress(OSError):
            folder.rmdir()


def _outputs_state(directory: Path, outputs: Mapping[str, str]) -> StageState:
    gone = [name for name in outputs if not (directory / name).is_file()]
    if gone:
        return StageState("partial", _capped([f"{name} is gone" for name in gone]))
    changed = [name for name, digest in outputs.items() if hash_file(directory / name) != digest]
    if changed:
        return StageState("stale", _capped([f"{name} was changed" for name in changed]))
    return StageState("fresh")


def _differences(old: Mapping[str, Any], new: StageInputs) -> list[str]:
    """What differs between recorded inputs and these, parameters first."""
    before = _flat(old["parameters"])
    after = _flat(json.loads(canonical_json(new.parameters)))
    reasons = [
        f"{key}: {_value(before, key)} -> {_value(after, key)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, ...) != after.get(key, ...)
    ]
    for name in sorted(old["files"].keys() | new.files.keys()):
        if name not in new.files:
            reasons.append(f"{name} is no longer an input")
        elif name not in old["files"]:
            reasons.append(f"{name} is a new input")
        elif old["files"][name] != new.files[name]:
            reasons.append(f"{name} has other content")
    return reasons


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _value(flat: Mapping[str, Any], key: str) -> str:
    return json.dumps(flat[key], ensure_ascii=False) if key in flat else "(absent)"


def _capped(reasons: list[str]) -> tuple[str, ...]:
    if len(reasons) <= _REASONS:
        return tuple(reasons)
    return (*reasons[:_REASONS], f"and {len(reasons) - _REASONS} more")


def _read_record(directory: Path) -> dict[str, Any]:
    record = read_json(directory / RECORD)
    whole = isinstance(record, dict) and isinstance(record.get("inputs"), dict)
    if not whole or not {"parameters", "files", "key"} <= record["inputs"].keys():
        raise UserError(f"{directory / RECORD} is not a run record; run the stage with --force")
    if record.get("status") == "done" and not isinstance(record.get("outputs"), dict):
        raise UserError(f"{directory / RECORD} lists no outputs; run the stage with --force")
    return {"status": "unknown", **record}


def _opening_record(inputs: StageInputs, recipe: Recipe) -> dict[str, Any]:
    return {
        "status": "running",
        "higfa": __version__,
        "libraries": _library_versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": recipe.device,
        "argv": sys.argv,
        "pid": os.getpid(),
        "seed": recipe.seed,
        "started": _now(),
        "inputs": {
            "key": inputs.key,
            "parameters": json.loads(canonical_json(inputs.parameters)),
            "files": inputs.files,
        },
    }


def _library_versions() -> dict[str, str]:
    versions: dict[str, str] = {}
    for name in _LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _one_line(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    message = " ".join(str(error).split())
    return message if isinstance(error, UserError) else f"{type(error).__name__}: {message}"


def _inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name


def _unwritable(directory: Path, error: OSError) -> UserError:
    return UserError(f"{directory} cannot be written: {error.strerror}; choose another --workspace")
