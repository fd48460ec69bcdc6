"""Files that are either whole or absent: temporary file, fsync, rename, fsync of the folder."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from higfa_cli.errors import UserError

TEMPORARY_PREFIX = ".higfa-tmp-"


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data` in one step; on failure `path` is unchanged and nothing is left.

    Raises OSError when the folder cannot be created or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{os.urandom(4).hex()}"
    try:
        with temporary.open("xb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _fsync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically, line ends as given."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, obj: Any) -> None:
    """Write JSON atomically: sorted keys, indent 1; NaN and infinity are refused (ValueError)."""
    text = json.dumps(obj, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line atomically."""
    lines = [
        json.dumps(dict(row), sort_keys=True, ensure_ascii=False, allow_nan=False) for row in rows
    ]
    write_text(path, "".join(line + "\n" for line in lines))


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises UserError when it is absent or broken."""
    try:
        return json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is not valid JSON (line {error.lineno}: {error.msg}); "
            "run the command that wrote it again"
        ) from None


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read one JSON object per line. Raises UserError naming the file and the broken line."""
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{path}, line {number}: not valid JSON ({error.msg}); "
                "run the command that wrote it again"
            ) from None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: expected a JSON object; write it again")
        rows.append(row)
    return rows


def remove_temporary_files(folder: Path) -> None:
    """Remove temporary files that a killed process left below `folder`."""
    for leftover in list(folder.rglob(f"{TEMPORARY_PREFIX}*")):
        leftover.unlink(missing_ok=True)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; run the stage that writes it first") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; run the command that wrote it again") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; check the path") from None


def _fsync_folder(folder: Path) -> None:
    # Folders cannot be opened on Windows, and some network file systems refuse to sync one:
    # the rename has happened all the same.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
