"""A stage's folder: opened, cleared or resumed, and closed.

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
from collections.abc import Callable, Iterator
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
from higfa_cli.artifacts.earlier import exchange, give_back_foreign, place_for
from higfa_cli.artifacts.lock import (
    BUSY,
    folder_lock,
    gate,
    living_parts,
    note_of,
    part_lock,
    parts_at_work,
    refuse_living_parts,
)
from higfa_cli.artifacts.records import RunRecord
from higfa_cli.artifacts.safe_paths import refuse_linked_folders
from higfa_cli.artifacts.stage_run import (
    SCRATCH,
    Finished,
    StageRun,
    journal,
    journals,
    read_journal,
    unchanged,
    write_journal,
)
from higfa_cli.artifacts.stage_state import StageInputs, record_of, recorded
from higfa_cli.artifacts.workspace import RECORD, RESOLVED
from higfa_cli.errors import UserError, remedy_for
from higfa_cli.recipe.schema import Recipe
from higfa_cli.recipe.strict_yaml import dump_yaml

_LIBRARIES = (
    "torch torchvision diffusers transformers timm torchmetrics safetensors numpy pillow "
    "opencv-python-headless pydantic"
)


@contextmanager
def stage_run(
    directory: Path, inputs: StageInputs, recipe: Recipe, resume: bool = False, anew: bool = False
) -> Iterator[StageRun]:
    """Run a stage in its folder: lock, clear or resume, record.

    What a run of other inputs made is set aside (`earlier`), and what these inputs made before
    comes back; with `anew` what these made is set aside too. Outputs of the same inputs are
    removed, unless `resume`: then whole ones stay (`StageRun.kept`). Only files that the earlier
    record names are removed, and, where that run did not finish, what it left in the stage's
    subfolders. On an error the record says "failed" and the folder stays resumable.
    Raises UserError: folder busy (exit code 75), not writable, or not one of higfa's.
    """
    with _locked(directory), closing_run(directory, inputs, recipe, resume, anew) as run:
        yield run


@contextmanager
def opening_run(
    directory: Path, inputs: StageInputs, recipe: Recipe, anew: bool = False
) -> Iterator[StageRun]:
    """`stage_run` without the end: the record goes on saying "running", for `part_run`s to come."""
    with _locked(directory):
        finished = _open(directory, inputs, recipe, True, anew)[1]
        yield StageRun(directory, recipe.run.device, finished)


@contextmanager
def closing_run(
    directory: Path, inputs: StageInputs, recipe: Recipe, resume: bool = True, anew: bool = False
) -> Iterator[StageRun]:
    """`stage_run` for who already holds the folder's lock."""
    record, finished = _open(directory, inputs, recipe, resume, anew)
    run = StageRun(directory, recipe.run.device, finished)

    def close(**ending: object) -> None:
        counts = {} if run.counts is None else run.counts.plain()
        closed = ending | {"device": run.device, "counts": counts, "ended": _now()}
        write_model(directory / RECORD, record.model_copy(update=closed))

    try:
        yield run
    except BaseException as error:
        # A record that cannot be written must not hide why the stage failed.
        with contextlib.suppress(OSError):
            close(status="failed", error=_one_line(error))
        raise
    close(status="done", outputs=run.outputs, output_seconds=run.seconds)
    _clear_traces(directory)


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
                finished = _open(directory, inputs, recipe, resume=True)[1]
            elif _is_open(directory, inputs):
                finished = unchanged(directory, recorded(directory))
            else:
                raise parts_at_work(directory, living, at=" with another recipe")
            own = journal(directory, part)
            write_journal(own, unchanged(directory, read_journal(own)).values())
            run = StageRun(directory, recipe.run.device, finished, part)
            open_plan(run)
        yield run


def tidy(directory: Path) -> None:
    """Remove what a run left that was killed after its record said "done"; a busy folder stays."""
    note = note_of(directory)
    left = [directory / SCRATCH, note, temporary_note(note), *journals(directory)]
    if not any(path.exists() for path in left):
        return
    try:
        with folder_lock(directory):
            _clear_traces(directory)
    except UserError as error:
        if error.exit_code != BUSY:
            raise


def take_back(directory: Path, inputs: StageInputs) -> bool:
    """Put what was set aside of these inputs into its place again; not in a busy folder."""
    if not place_for(directory, inputs.key).is_dir():
        return False
    try:
        with _locked(directory):
            exchange(directory, inputs)
    except OSError as error:
        raise _unwritable(directory, error) from None
    except UserError as error:
        if error.exit_code != BUSY:
            raise
        return False
    return True


def _is_open(directory: Path, inputs: StageInputs) -> bool:
    record = record_of(directory)
    return record is not None and (record.status, record.inputs.key) == ("running", inputs.key)


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(directory, error) from None


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    _make(directory)
    with folder_lock(directory):
        refuse_living_parts(directory)
        yield


def _open(
    directory: Path, inputs: StageInputs, recipe: Recipe, resume: bool, anew: bool = False
) -> tuple[RunRecord, Finished]:
    """Clear or resume the folder and say "running"; the record, and the outputs that stay."""
    refuse_linked_folders(directory)
    try:
        # Before anything is removed that could not be written again.
        check_writable(directory)
        aside = exchange(directory, inputs, anew)
        finished = _prepare(directory, inputs, resume)
        record = _opening_record(inputs, recipe)
        write_model(directory / RECORD, record)
        if aside is not None:
            give_back_foreign(aside, directory)
        write_text(directory / RESOLVED, dump_yaml(recipe.model_dump(mode="json")))
    except OSError as error:
        raise _unwritable(directory, error) from None
    return record, finished


def _prepare(directory: Path, inputs: StageInputs, resume: bool) -> Finished:
    """Clear or resume the folder; returns the outputs that stay."""
    remove_temporary_files(directory)
    if not (directory / RECORD).is_file():
        if any(directory.iterdir()):
            raise UserError(
                f"{directory} holds files but no {RECORD}, so higfa did not make it; "
                "move it away or choose another --workspace"
            )
        return {}
    record, outputs = record_of(directory), recorded(directory)
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
    for folder in sorted(folders, reverse=True):
        # One that is not empty stays.
        with contextlib.suppress(OSError):
            folder.rmdir()
    return {}


def _keep_whole(directory: Path, outputs: Finished) -> Finished:
    """The outputs that are whole; changed ones are removed."""
    whole = unchanged(directory, outputs)
    for name in outputs.keys() - whole.keys():
        (directory / name).unlink(missing_ok=True)
    # The finished record is about to be replaced: one journal takes over what it and all
    # participants have listed.
    write_journal(journal(directory), whole.values())
    for path in journals(directory):
        if path != journal(directory):
            path.unlink()
    return whole


def _clear_traces(directory: Path) -> None:
    """Remove what only an unfinished run needs."""
    for path in journals(directory):
        path.unlink(missing_ok=True)
    shutil.rmtree(directory / SCRATCH, ignore_errors=True)


def _opening_record(inputs: StageInputs, recipe: Recipe) -> RunRecord:
    libraries: dict[str, str] = {}
    for name in _LIBRARIES.split():
        with contextlib.suppress(metadata.PackageNotFoundError):
            libraries[name] = metadata.version(name)
    return RunRecord(
        status="running",
        higfa=__version__,
        libraries=libraries,
        python=platform.python_version(),
        platform=platform.platform(),
        device=recipe.run.device,
        argv=tuple(sys.argv),
        pid=os.getpid(),
        seed=recipe.seed,
        started=_now(),
        inputs=inputs.recorded,
    )


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
