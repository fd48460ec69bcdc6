"""What the layout readers share: rows of (key, class, split), split names, safe paths."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal

from higfa_cli.data.images import IMAGE_SUFFIXES
from higfa_cli.errors import UserError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


@dataclass(frozen=True)
class Row:
    """One image of a listing: `key` is its POSIX path relative to `Listing.root`."""

    key: str
    cls: str
    split: Split


@dataclass(frozen=True)
class Listing:
    """What a layout reader found: the folder the keys are relative to, and the rows."""

    root: Path
    rows: tuple[Row, ...]


def class_label(text: str) -> str:
    """A class name in one Unicode form, so that folders and files written elsewhere agree."""
    return unicodedata.normalize("NFC", text)


def nearest(name: str, options: Iterable[str]) -> str:
    """`; did you mean ...?`, or nothing."""
    close = difflib.get_close_matches(name, list(options), n=1)
    return f"; did you mean `{close[0]}`?" if close else ""


def inside(root: Path, key: str, origin: str) -> Path:
    """`root / key`; raises UserError (naming `origin`) for a key that leaves the root."""
    escapes = (
        not key
        or "\0" in key
        or ".." in PurePosixPath(key).parts
        or ".." in PureWindowsPath(key).parts
        or PurePosixPath(key).is_absolute()
        or bool(PureWindowsPath(key).drive)
    )
    if escapes:
        raise UserError(
            f"{origin}: path {key!r} leaves the data folder {root}; "
            "write it relative to that folder, without `..`"
        )
    return root / key


def sub_folders(folder: Path) -> list[Path]:
    """Visible sub-folders, sorted by name."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def image_files(folder: Path) -> list[Path]:
    """Files with an image suffix at any depth, sorted; hidden files and folders are left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def read_text(path: Path, remedy: str) -> str:
    """A UTF-8 text file, line ends as they are; UserError with the remedy when unreadable."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            return handle.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read; {remedy}") from error


def check_rows(rows: Sequence[Row], origin: str) -> None:
    """Names must be plain text, and every class must have a training image.

    UserError names the file, or the class that has none.
    """
    for row in rows:
        if not row.key.isprintable() or not _is_utf8(row.key):
            raise UserError(f"{origin}: file name {row.key!r} is not plain UTF-8 text; rename it")
    trained = {row.cls for row in rows if row.split == "train"}
    if not trained:
        raise UserError(f"{origin}: no training image; check data.root and data.layout")
    for row in rows:
        if row.cls not in trained:
            raise UserError(
                f"{origin}: unknown class `{row.cls}` in split {row.split} ({row.key}): it has no "
                f"training image; add some or remove it{nearest(row.cls, trained)}"
            )


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
