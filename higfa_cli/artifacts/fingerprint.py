"""Content hashes: sha256 in hexadecimal, the same on every machine."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from higfa_cli.artifacts.atomic import TEMPORARY_PREFIX
from higfa_cli.errors import UserError
from higfa_cli.text import printable

# What the file system says of a file -> its hash, so that a process reads no file twice.
_known: dict[tuple[int, ...], str] = {}
# The hash of a listing -> its names, each with a short hash of what stands beside it.
_listings: dict[str, dict[str, str]] = {}
_SHORT = 8
# Of larger listings no names are kept: each stage's record would hold megabytes of them.
_MOST_NAMES = 20_000
# A file that was written so shortly before may be written again within the same tick of its clock.
_TICK_NS = 2_000_000_000


def hash_bytes(data: bytes) -> str:
    """sha256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def hash_file(path: Path) -> str:
    """sha256 of a file's content, read once per process as long as it stays the same file.

    Raises UserError when it cannot be read.
    """
    try:
        if (digest := _known.get(_key(path.stat()))) is not None:
            return digest
        with path.open("rb") as handle:
            state = os.fstat(handle.fileno())
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
        if time.time_ns() - state.st_mtime_ns >= _TICK_NS:
            _known[_key(state)] = digest
        return digest
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; check the path") from None


def _key(state: os.stat_result) -> tuple[int, ...]:
    return (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces; NaN and infinity are refused (ValueError)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def hash_json(value: Any) -> str:
    """sha256 of a value's canonical JSON (tuples count as lists)."""
    return hash_bytes(canonical_json(value).encode("ascii"))


def hash_listing(rows: Iterable[list[str]]) -> str:
    """Hash of rows in any order, each of a file's name and what counts of it."""
    ordered = sorted(rows)
    digest = hash_json(ordered)
    if digest not in _listings and len(ordered) <= _MOST_NAMES:
        _listings[digest] = {printable(row[0]): hash_json(row[1:])[:_SHORT] for row in ordered}
    return digest


def contents_of(digest: str) -> dict[str, str]:
    """Name -> short hash of the listing that this process has hashed so; {} where none is kept."""
    return _listings.get(digest, {})


def hash_tree(path: Path) -> str:
    """Hash of a folder: relative names and contents of all its files; of a file: its content.

    Raises UserError when `path` does not exist.
    """
    if not path.is_dir():
        return hash_file(path)
    files = (
        file
        for file in path.rglob("*")
        if file.is_file() and not file.name.startswith(TEMPORARY_PREFIX)
    )
    return hash_listing([file.relative_to(path).as_posix(), hash_file(file)] for file in files)
