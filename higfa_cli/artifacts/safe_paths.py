"""Names from files of others: paths that stay in their folder."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from higfa_cli.errors import UserError

_SHOWN = 80
# What common file systems take, in bytes; a longer one fails only when it is used.
_LONGEST, _LONGEST_PART = 3000, 255


def why_outside(root: Path, name: Any) -> str | None:
    """Why `name` is no path of a file below `root`; None where it is one.

    It may lead out by its text (`..`, an absolute path, a drive; on any operating system, for a
    folder may be carried to another) or through a link.
    """
    if not isinstance(name, str):
        return "is not a text"
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    if not posix.parts or "\0" in name:
        return "is not a path"
    if ".." in (*posix.parts, *windows.parts) or posix.is_absolute():
        return "leaves it"
    if windows.drive or windows.root:
        return "leaves it"
    if len(name) > _LONGEST or any(map(_is_long, posix.parts)):
        return "is too long"
    try:
        # Resolving takes far longer than asking the two or three parts of a usual name.
        if not any((root / part).is_symlink() for part in (posix, *posix.parents[:-1])):
            return None
        inside = (root / name).resolve().is_relative_to(root.resolve())
    except (OSError, ValueError, RuntimeError) as error:
        return f"cannot be read ({getattr(error, 'strerror', None) or error})"
    return None if inside else "leaves it through a link"


def _is_long(part: str) -> bool:
    return len(part.encode("utf-8", "surrogatepass")) > _LONGEST_PART


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
