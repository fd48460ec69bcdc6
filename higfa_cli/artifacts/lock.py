"""One process at a time in a folder of artifacts, or several, each with its own part of the plan.

A participant holds the lock of its part for as long as it works. Those that join or open the plan
do so one after another, through the gate.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from higfa_cli.artifacts.artifact import Artifact, read_model
from higfa_cli.artifacts.atomic import write_note
from higfa_cli.errors import UserError, remedy_for

BUSY = 75
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class LockNote(Artifact, extra="ignore"):
    """Who holds a folder; `boot` tells one start of a machine from all others.

    Open to other keys: a holder must be respected, whichever version wrote the note.
    """

    pid: int
    host: str
    boot: str = ""


def note_of(directory: Path) -> Path:
    """Where the holder of a folder says who it is."""
    return directory.parent / f".{directory.name}.lock.json"


@contextmanager
def folder_lock(directory: Path) -> Iterator[None]:
    """Hold the lock of `directory`; the lock file lies beside it, so the folder may be replaced.

    The operating system lets go of the lock of a process that has died. It may not pass locks on
    between machines that share a network file system; there the holder's note counts: one of
    another machine is respected until somebody deletes it.
    Raises UserError (exit code 75) naming the holder's process and host when it is taken.
    """
    note = note_of(directory)
    lock = FileLock(directory.parent / f".{directory.name}.lock", timeout=0)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        if Path(lock.lock_file).is_symlink():
            # Taking the lock empties the file, which would then lie elsewhere.
            raise OSError(errno.ELOOP, f"{lock.lock_file} is a link; remove it")
        lock.acquire()
    except Timeout:
        raise _busy(directory, _holder(note), "wait until it ends") from None
    except (OSError, NotImplementedError) as error:
        raise _unlockable(directory, error) from None
    try:
        holder = _holder(note)
        mine = LockNote(pid=os.getpid(), host=socket.gethostname(), boot=_boot())
        # A restarted container has another host name, yet the same kernel, which has let go.
        if holder and holder.host != mine.host and not (holder.boot == mine.boot != ""):
            raise _busy(directory, holder, f"if it has died, delete {note}")
        try:
            # In one step, and never through a link that lies in the note's place.
            write_note(note, mine.plain())
        except OSError as error:
            raise _unlockable(directory, error) from None
        try:
            yield
        finally:
            # On a file system that has become read-only, what the run says matters more.
            with contextlib.suppress(OSError):
                note.unlink()
    finally:
        lock.release()


@contextmanager
def part_lock(directory: Path, part: str) -> Iterator[None]:
    """Hold a part of the folder's work. Raises UserError (exit code 75) when it is taken."""
    with folder_lock(directory.parent / f"{directory.name}.part-{part}"):
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
    parts = []
    for path in sorted(directory.parent.glob(f"{prefix}*{suffix}")):
        part = path.name.removeprefix(prefix).removesuffix(suffix)
        try:
            with part_lock(directory, part):
                pass
        except UserError as error:
            if error.exit_code != BUSY:
                raise
            parts.append(part)
    return parts


def refuse_living_parts(directory: Path) -> None:
    """Raise UserError (exit code 75) while anybody works on a part of the folder."""
    with gate(directory):
        living = living_parts(directory)
    if living:
        raise parts_at_work(directory, living)


def parts_at_work(directory: Path, living: list[str], at: str = "") -> UserError:
    """The refusal (exit code 75) of a folder that others work in; `at`: at what."""
    return UserError(
        f"{directory} is in use: {', '.join(living)} still at work{at}; wait until they end, "
        "or choose another --workspace",
        exit_code=BUSY,
    )


def _holder(note: Path) -> LockNote | None:
    """The holder's note; None where there is none (yet), or a killed process left half of it."""
    with contextlib.suppress(UserError):
        return read_model(note, LockNote)
    return None


def _boot() -> str:
    """What tells one start of a machine from all others; empty where the system does not say."""
    with contextlib.suppress(OSError):
        return _BOOT.read_text(encoding="ascii").strip()
    return ""


def _busy(directory: Path, holder: LockNote | None, remedy: str) -> UserError:
    who = f"process {holder.pid} on {holder.host}" if holder else "another process"
    return UserError(
        f"{directory} is in use by {who}; {remedy}, or choose another --workspace",
        exit_code=BUSY,
    )


def _unlockable(directory: Path, error: Exception) -> UserError:
    reason, remedy = "this file system has no locks", "choose another --workspace"
    if isinstance(error, OSError):
        reason, remedy = error.strerror or str(error), remedy_for(error) or remedy
    return UserError(f"{directory} cannot be locked: {reason}; {remedy}")
