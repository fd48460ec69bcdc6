"""Several processes in one folder of artifacts: each draws its own part of the plan.

A participant holds the lock of its part for as long as it works. Those that join or open the plan
do so one after another, through the gate.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from higfa_cli.artifacts.lock import BUSY, folder_lock
from higfa_cli.errors import UserError


@contextmanager
def part_lock(directory: Path, part: str) -> Iterator[None]:
    """Hold a part of the folder's work. Raises UserError (exit code 75) when it is taken."""
    with folder_lock(_part(directory, part)):
        yield


@contextmanager
def gate(directory: Path) -> Iterator[None]:
    """Wait until nobody else joins, opens or closes, then keep others waiting."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(directory.parent / f".{directory.name}.gate.lock"):
        yield


def living_parts(directory: Path) -> list[str]:
    """The parts that somebody works on now. Call it inside the gate."""
    prefix, suffix = f".{directory.name}.part-", ".lock"
    names = sorted(path.name for path in directory.parent.glob(f"{prefix}*{suffix}"))
    parts = [name.removeprefix(prefix).removesuffix(suffix) for name in names]
    return [part for part in parts if _is_held(directory, part)]


def refuse_living_parts(directory: Path) -> None:
    """Raise UserError (exit code 75) while anybody works on a part of the folder."""
    with gate(directory):
        living = living_parts(directory)
    if living:
        raise UserError(
            f"{directory} is in use: {', '.join(living)} still at work; wait until they end, "
            "or choose another --workspace",
            exit_code=BUSY,
        )


def _is_held(directory: Path, part: str) -> bool:
    try:
        with part_lock(directory, part):
            return False
    except UserError as error:
        if error.exit_code != BUSY:
            raise
        return True


def _part(directory: Path, part: str) -> Path:
    return directory.parent / f"{directory.name}.part-{part}"
