"""Files that are either whole or absent: temporary file, fsync, rename, fsync of the folder."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from higfa_cli.errors import NO_ROOM, UserError

TEMPORARY_PREFIX = ".higfa-tmp-"
_AGAIN = "run the command that wrote it again"


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data` in one step; on failure `path` is unchanged and nothing is left.

    Raises OSError that names `path` (and the size, where there was no room): the folder cannot be
    created or written, or `path` is a folder or a device.
    """
    if path.exists() and not path.is_file():
        # A rename would put a plain file in the place of /dev/null.
        raise OSError(errno.EEXIST, "is there already and is no ordinary file", str(path))
    _replace(path, data, _temporary(path.parent))
    # Folders cannot be opened on Windows, and some network file systems refuse to sync one:
    # the rename has happened all the same.
    with contextlib.suppress(OSError):
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically, line ends as given."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, obj: Any) -> None:
    """Write JSON atomically: sorted keys, indent 1; NaN and infinity are refused (ValueError)."""
    text = json.dumps(obj, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, object]], ascii_only: bool = False) -> None:
    """Write one JSON object per line atomically; in ASCII where a text may be no Unicode."""
    lines = (
        json.dumps(row, sort_keys=True, ensure_ascii=ascii_only, allow_nan=False) for row in rows
    )
    write_text(path, "".join(line + "\n" for line in lines))


def write_note(path: Path, obj: Any) -> None:
    """Replace a small file that one process at a time writes: the lock's holder.

    The temporary file has a fixed name (`temporary_note`), so the next writer takes over what a
    killed one left. Raises OSError.
    """
    temporary_note(path).unlink(missing_ok=True)
    data = json.dumps(obj, sort_keys=True, allow_nan=False).encode("ascii")
    _replace(path, data, temporary_note(path))


def temporary_note(path: Path) -> Path:
    """Where `write_note` writes first."""
    return path.with_name(f"{TEMPORARY_PREFIX}{path.name}")


def append_line(path: Path, line: str) -> None:
    """Add a line of UTF-8 text to a file; a crash can cut short the last line alone.

    Raises OSError that names `path`.
    """
    data = (line + "\n").encode("utf-8")
    try:
        with path.open("ab") as handle:
            handle.write(data)
    except OSError as error:
        raise _named(error, path, len(data)) from None


def check_writable(folder: Path) -> None:
    """Raise OSError, naming `folder`, unless files can be made in it now."""
    probe = _temporary(folder)
    try:
        probe.open("xb").close()
        probe.unlink()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from None


def remove_temporary_files(folder: Path) -> None:
    """Remove temporary files that a killed process left below `folder`."""
    for leftover in list(folder.rglob(f"{TEMPORARY_PREFIX}*")):
        if leftover.is_file():
            leftover.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises UserError when it is absent or broken."""
    return _parsed(_text(path), path)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read one JSON object per line. Raises UserError naming the file and the broken line."""
    rows = []
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            row = _parsed(line, path, number)
            if not isinstance(row, dict):
                raise UserError(f"{path}, line {number}: expected a JSON object; {_AGAIN}")
            rows.append(row)
    return rows


def _parsed(text: str, path: Path, first_line: int = 1) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise UserError(f"{path}, line {line}: not valid JSON ({error.msg}); {_AGAIN}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}, line {first_line}: {error}; {_AGAIN}") from None


def _text(path: Path) -> str:
    try:
        # A pipe would block, and a device may have no end.
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "is no ordinary file")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; run the stage that writes it first") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; {_AGAIN}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; check the path") from None


def _temporary(folder: Path) -> Path:
    return folder / f"{TEMPORARY_PREFIX}{os.getpid()}-{os.urandom(4).hex()}"


def _replace(path: Path, data: bytes, temporary: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    except BaseException as error:
        # Where the folder has just become unwritable, its failure is the one to tell of.
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise _named(error, path, len(data)) from None
        raise


def _named(error: OSError, path: Path, size: int) -> OSError:
    """The same error, naming the file that was to be written instead of a temporary one or none."""
    reason = error.strerror or str(error)
    if error.errno in NO_ROOM:
        reason = f"{reason} ({size:,} bytes to write)"
    name = Path(str(error.filename or path))
    named = path if name.name.startswith(TEMPORARY_PREFIX) else name
    return OSError(error.errno, reason, str(named))
