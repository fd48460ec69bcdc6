"""What a stage made from other inputs: set aside whole, and taken back when those inputs return."""

from __future__ import annotations

import re
from itertools import count
from pathlib import Path

from higfa_cli.artifacts.fingerprint import hash_file
from higfa_cli.artifacts.safe_paths import refuse_linked_folder, refuse_linked_folders
from higfa_cli.artifacts.stage_run import SCRATCH
from higfa_cli.artifacts.stage_state import StageInputs, record_of, recorded
from higfa_cli.artifacts.workspace import EARLIER, RECORD, RESOLVED

_DIGITS = 12


def place_for(directory: Path, key: str) -> Path:
    """Where a stage's folder made from the inputs of `key` lies while another is in its place."""
    return directory.parent / EARLIER / f"{directory.name}-{key[:_DIGITS]}"


def earlier_of(directory: Path) -> frozenset[Path]:
    """All that was set aside from a stage's folder."""
    name = re.compile(rf"{re.escape(directory.name)}-[0-9a-f]{{{_DIGITS}}}(-\d+)?")
    places = (directory.parent / EARLIER).glob("*")
    return frozenset(path for path in places if name.fullmatch(path.name))


def holds_work(aside: Path, resumed: bool) -> bool:
    """Whether there is work in what was set aside; `resumed`: in what did not finish, too."""
    record = record_of(aside)
    if record is not None and record.status != "done" and not resumed:
        return False
    return bool(recorded(aside)) or record is None or (aside / SCRATCH).is_dir()


def would_set_aside(directory: Path, inputs: StageInputs, anew: bool = False) -> Path | None:
    """Where a run of these inputs moves what the folder holds of others; None for nothing.

    `anew`: what it holds of these too.
    """
    if not (directory / RECORD).is_file():
        return None
    record = record_of(directory)
    # A broken record has no key, and what was made costs as much.
    key = hash_file(directory / RECORD) if record is None else record.inputs.key
    made = recorded(directory) or (directory / SCRATCH).is_dir()
    if key != inputs.key:
        moved = made or place_for(directory, inputs.key).is_dir()
        return place_for(directory, key) if moved else None
    return _beside(place_for(directory, key)) if anew and made else None


def _beside(place: Path) -> Path:
    """Where what was made anew since goes: it is not taken back by itself."""
    places = (place.with_name(f"{place.name}-{number}") for number in count(1))
    return next(path for path in places if not path.exists())


def exchange(directory: Path, inputs: StageInputs, anew: bool = False) -> Path | None:
    """Set aside what other inputs made and take back what these did; where the former lies now.

    `anew`: what these made is set aside too, and does not come back.

    Each is one rename, so a kill leaves both whole. Call it with the folder locked.
    Raises UserError for a link in the place of one of the folders, and OSError.
    """
    refuse_linked_folder(directory.parent / EARLIER)
    aside = would_set_aside(directory, inputs, anew)
    if aside is not None:
        aside.parent.mkdir(exist_ok=True)
        directory.replace(aside)
    before = place_for(directory, inputs.key)
    if anew and before.is_dir():
        before.replace(_beside(before))
    elif before.is_dir() and not (directory / RECORD).exists():
        refuse_linked_folders(before)
        if directory.exists():
            directory.rmdir()
        before.replace(directory)
        if aside is not None:
            give_back_foreign(aside, directory)
    directory.mkdir(exist_ok=True)
    return aside


def give_back_foreign(aside: Path, directory: Path) -> None:
    """Files in a finished stage's folder that it did not make stay where their owner put them."""
    record = record_of(aside)
    if record is None or record.status != "done":
        return
    made = {RECORD, RESOLVED, *(record.outputs or ())}
    for path in [path for path in aside.rglob("*") if path.is_symlink() or path.is_file()]:
        name = path.relative_to(aside)
        if name.as_posix() not in made and not (directory / name).exists():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            path.replace(directory / name)
