"""A stage's folder: what went in, what came out, and whether it still holds.

`run.json` is the record. It is written first ("running") and last ("done"); in between, finished
files are noted in journals, so that a killed run can be resumed or cleared. One process runs a
stage; several may share its work (`part_run`), and then one of them closes it.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from higfa_cli import __version__
from higfa_cli.artifacts.artifact import write_model
from higfa_cli.artifacts.atomic import (
    check_writable,
    remove_temporary_files,
    temporary_note,
    write_text,
)
from higfa_cli.artifacts.journal import (
    Entry,
    journal,
    journals,
    read_journal,
    write_journal,
)
from higfa_cli.artifacts.lock import (
    BUSY,
    folder_lock,
    gate,
    living_parts,
    part_lock,
    refuse_living_parts,
)
from higfa_cli.artifacts.records import RunRecord
from higfa_cli.artifacts.safe_paths import refuse_linked_folders, why_outside
from higfa_cli.artifacts.stage_outputs import SCRATCH, StageRun, unchanged
from higfa_cli.artifacts.stage_state import (
    StageInputs,
    StageState,
    read_record,
    stage_state,
)
from higfa_cli.artifacts.workspace import RECORD, RESOLVED
from higfa_cli.errors import UserError, remedy_for
from higfa_cli.recipe.schema import Recipe
from higfa_cli.recipe.strict_yaml import dump_yaml

__all__ = [
    "RECORD",
    "RESOLVED",
    "StageInputs",
    "StageRun",
    "StageState",
    "closing_run",
    "opening_run",
    "part_run",
    "recorded_outputs",
    "stage_run",
    "stage_state",
    "tidy",
]

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
    _make(directory)
    with folder_lock(directory):
        refuse_living_parts(directory)
        with closing_run(directory, inputs, recipe, resume) as run:
            yield run


@contextmanager
def closing_run(
    directory: Path, inputs: StageInputs, recipe: Recipe, resume: bool = True
) -> Iterator[StageRun]:
    """`stage_run` for who already holds the folder's lock."""
    record, entries = _open(directory, inputs, recipe, resume)
    run = StageRun(directory, recipe.run.device, entries)
    try:
        yield run
    except BaseException as error:
        # A record that cannot be written must not hide why the stage failed.
        with contextlib.suppress(OSError):
            _close(run, record, status="failed", error=_one_line(error))
        raise
    _close(run, record, status="done", outputs=run.outputs, output_seconds=run.seconds)
    _clear_traces(directory)


@contextmanager
def opening_run(
    directory: Path, inputs: StageInputs, recipe: Recipe, resume: bool = False
) -> Iterator[StageRun]:
    """`stage_run` without the end: the record goes on saying "running", for `part_run`s to come."""
    _make(directory)
    with folder_lock(directory):
        refuse_living_parts(directory)
        entries = _open(directory, inputs, recipe, resume)[1]
        yield StageRun(directory, recipe.run.device, entries)


@contextmanager
def part_run(
    directory: Path,
    inputs: StageInputs,
    recipe: Recipe,
    part: str,
    open_plan: Callable[[StageRun], None],
) -> Iterator[StageRun]:
    """Work on one part of a stage beside other processes; whoever comes first opens the folder.

    `open_plan` is called while the others wait, with what is already there as `kept`. Nothing is
    closed here: the record goes on saying "running".
    Raises UserError (exit code 75): the part is taken, one process runs the whole stage, or
    participants of other inputs are at work.
    """
    _make(directory)
    with ExitStack() as stack:
        with gate(directory), folder_lock(directory):
            living = living_parts(directory)
            stack.enter_context(part_lock(directory, part))
            if not living:
                entries = _open(directory, inputs, recipe, resume=True)[1]
            elif _is_open(directory, inputs):
                entries = unchanged(directory, _recorded(directory))
            else:
                raise UserError(
                    f"{directory} is in use: {', '.join(living)} still at work with another "
                    "recipe; wait until they end, or choose another --workspace",
                    exit_code=BUSY,
                )
            own = journal(directory, part)
            write_journal(own, unchanged(directory, read_journal(own)))
            run = StageRun(directory, recipe.run.device, entries, part)
            open_plan(run)
        yield run


def tidy(directory: Path) -> None:
    """Remove what a run left that was killed after its record said "done"; a busy folder stays."""
    note = directory.parent / f".{directory.name}.lock.json"
    left = [directory / SCRATCH, note, temporary_note(note)]
    if not journals(directory) and not any(path.exists() for path in left):
        return
    try:
        with folder_lock(directory):
            _clear_traces(directory)
    except UserError as error:
        if error.exit_code != BUSY:
            raise


def recorded_outputs(directory: Path) -> dict[str, str]:
    """Outputs that the folder's record and journals name: relative path -> sha256."""
    return {name: entry.sha256 for name, entry in _recorded(directory).items()}


def _recorded(directory: Path) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    if (directory / RECORD).is_file():
        with contextlib.suppress(UserError):
            record = read_record(directory)
            for name, digest in (record.outputs or {}).items():
                if why_outside(directory, name) is None:
                    entries[name] = Entry(digest, record.output_seconds.get(name))
    for path in journals(directory):
        entries |= read_journal(path)
    return entries


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(directory, error) from None


def _open(
    directory: Path, inputs: StageInputs, recipe: Recipe, resume: bool
) -> tuple[RunRecord, dict[str, Entry]]:
    """Clear or resume the folder and say "running"; the record, and the outputs that stay."""
    refuse_linked_folders(directory)
    try:
        # Before anything is removed that could not be written again.
        check_writable(directory)
        entries = _prepare(directory, inputs, resume)
        record = _opening_record(inputs, recipe)
        write_model(directory / RECORD, record)
        write_text(directory / RESOLVED, dump_yaml(recipe.model_dump(mode="json")))
    except OSError as error:
        raise _unwritable(directory, error) from None
    return record, entries


def _is_open(directory: Path, inputs: StageInputs) -> bool:
    try:
        record = read_record(directory)
    except UserError:
        return False
    return record.status == "running" and record.inputs.key == inputs.key


def _close(run: StageRun, record: RunRecord, **ending: object) -> None:
    counts = {} if run.counts is None else run.counts.plain()
    closed = ending | {"device": run.device, "counts": counts, "ended": _now()}
    write_model(run.directory / RECORD, record.model_copy(update=closed))


def _clear_traces(directory: Path) -> None:
    """Remove what only an unfinished run needs."""
    for path in journals(directory):
        path.unlink(missing_ok=True)
    shutil.rmtree(directory / SCRATCH, ignore_errors=True)


def _prepare(directory: Path, inputs: StageInputs, resume: bool) -> dict[str, Entry]:
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
        record: RunRecord | None = read_record(directory)
    except UserError:
        record = None
    outputs = _recorded(directory)
    if resume and record is not None and record.inputs.key == inputs.key:
        return _keep_whole(directory, outputs)
    for name in [*outputs, RESOLVED]:
        (directory / name).unlink(missing_ok=True)
    _clear_traces(directory)
    folders = [item for item in directory.rglob("*") if item.is_dir() and not item.is_symlink()]
    if record is None or record.status != "done":
        for item in [item for folder in folders for item in folder.iterdir()]:
            if item.is_symlink() or item.is_file():
                item.unlink()
    _remove_empty(folders)
    return {}


def _keep_whole(directory: Path, outputs: Mapping[str, Entry]) -> dict[str, Entry]:
    """The outputs that are whole; changed ones are removed."""
    kept = unchanged(directory, outputs)
    for name in outputs.keys() - kept.keys():
        (directory / name).unlink(missing_ok=True)
    # The finished record is about to be replaced: one journal takes over what it and all
    # participants have listed.
    write_journal(journal(directory), kept)
    for path in journals(directory):
        if path != journal(directory):
            path.unlink()
    return kept


def _remove_empty(folders: list[Path]) -> None:
    for folder in sorted(folders, reverse=True):
        with contextlib.suppress(OSError):
            folder.rmdir()


def _opening_record(inputs: StageInputs, recipe: Recipe) -> RunRecord:
    return RunRecord(
        status="running",
        higfa=__version__,
        libraries=_library_versions(),
        python=platform.python_version(),
        platform=platform.platform(),
        device=recipe.run.device,
        argv=tuple(sys.argv),
        pid=os.getpid(),
        seed=recipe.seed,
        started=_now(),
        inputs=inputs.recorded,
    )


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


def _unwritable(directory: Path, error: OSError) -> UserError:
    remedy = remedy_for(error) or "choose another --workspace"
    return UserError(f"{directory} cannot be written: {error.strerror}; {remedy}")
