"""Names from files of others: paths that stay in their folder."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any

from higfa_cli.errors import UserError

THROUGH_LINK = "leaves it through a link"
_SHOWN = 80
# What common file systems take, in bytes; a longer one fails only when it is used.
_LONGEST, _LONGEST_PART = 3000, 255
_SEPARATOR = re.compile(r"[/\\]")
# An absolute path, or a drive.
_ROOTED = re.compile(r"[/\\]|[A-Za-z]:")


def why_outside(root: Path, name: Any) -> str | None:
    """Why `name` is no path of a file below `root`; None where it is one.

    It may lead out by its text (`..`, an absolute path, a drive; on any operating system, for a
    folder may be carried to another) or through a link.
    """
    if not isinstance(name, str):
        return "is not a text"
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not (parts or name.startswith("/")) or "\0" in name:
        return "is not a path"
    if _ROOTED.match(name) or ".." in _SEPARATOR.split(name):
        return "leaves it"
    sizes = [len(part.encode("utf-8", "surrogatepass")) for part in parts]
    if len(name) > _LONGEST or max(sizes) > _LONGEST_PART:
        return "is too long"
    try:
        # Resolving takes far longer than asking the two or three parts of a usual name.
        if not _has_link(str(root), parts):
            return None
        inside = (root / name).resolve().is_relative_to(root.resolve())
    except (OSError, ValueError, RuntimeError) as error:
        return f"cannot be read ({getattr(error, 'strerror', None) or error})"
    return None if inside else THROUGH_LINK


def _has_link(folder: str, parts: list[str]) -> bool:
    """Whether a part of a path below `folder` is a link, as far as the path exists."""
    # Plain strings: data sets have many photos, and a look lists them all.
    for part in parts:
        folder = f"{folder}/{part}"
        try:
            if stat.S_ISLNK(os.lstat(folder).st_mode):
                return True
        except (FileNotFoundError, NotADirectoryError):
            return False
    return False


def contained(root: Path, name: Any, origin: Path | str) -> Path:
    """`root / name`, for a name that `origin` holds. Raises UserError when it is not inside."""
    reason = why_outside(root, name)
    if reason is not None:
        raise UserError(
            f"{origin} names a file in {root}, but {str(name)[:_SHOWN]!r} {reason}; "
            "run the stage that wrote it again with --force"
        )
    return root / str(name)


def refuse_linked_folders(directory: Path) -> None:
    """Raise UserError for a link in the place of `directory` or of a folder below it.

    It would lead what is written and removed there somewhere else.
    """
    for item in [directory, *directory.rglob("*")]:
        refuse_linked_folder(item)


def refuse_linked_folder(folder: Path) -> None:
    """Raise UserError for a link to a folder in the place of `folder`."""
    if folder.is_symlink() and folder.is_dir():
        raise UserError(
            f"{folder} is a link to a folder, and higfa writes only below its workspace; "
            "remove the link, or give the folder behind it with --workspace"
        )
