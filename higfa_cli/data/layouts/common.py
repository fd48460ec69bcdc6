"""What the layout readers share: rows of (key, class, split), list files, safe paths."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from higfa_cli.artifacts.rows import Split
from higfa_cli.artifacts.safe_paths import why_outside
from higfa_cli.errors import UserError
from higfa_cli.text import or_nearest

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
)
SPLITS: tuple[Split, ...] = ("train", "val", "test")
SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}

# Lists of ten million photos are larger than any folder that higfa was made for.
MOST_TEXT = 200_000_000
_SHOWN = 80


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


@dataclass(frozen=True)
class Layout:
    """A public dataset as its authors pack it.

    Attributes:
        name: as `data.layout` names it; the reader's module has the same name.
        title, page: for people; the home page offers the archive.
        classes, sizes: as published; a split without photos is left out.
        list: the photos below a folder; raises UserError where it is not in this layout.
    """

    name: str
    title: str
    page: str
    classes: int
    sizes: Mapping[Split, int]
    list: Callable[[Path], Listing]


def class_label(text: str) -> str:
    """A class name in one Unicode form, so that folders and files written elsewhere agree."""
    return unicodedata.normalize("NFC", text)


def check_inside(root: Path, key: str, origin: str) -> None:
    """Raise UserError (naming `origin`) for a key that leaves the root.

    It may leave it by its text (`..`, an absolute path, a drive), or through a link.
    """
    reason = why_outside(root, key)
    if reason is not None:
        problem = reason.replace("leaves it", f"leaves the data folder {root}")
        raise UserError(
            f"{origin}: path {key[:_SHOWN]!r} {problem}; "
            "write it relative to that folder, without `..` and links"
        )


def plain_key(text: str) -> str:
    """A listed path in one form, so that `./a.png` and `b//a.png` do not hide a repetition."""
    return PurePosixPath(text).as_posix() if text else text


def exists(path: Path) -> bool:
    """Whether it is a file; False too for a name that no file system takes."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def sub_folders(folder: Path) -> list[Path]:
    """Visible sub-folders, sorted by name."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def image_files(folder: Path) -> list[Path]:
    """Files with an image suffix at any depth, sorted; hidden files and folders are left out.

    Raises UserError for a folder that may not be listed: its photos must not go missing unseen.
    """
    found: list[Path] = []
    for base, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(base, name) for name in (*folders, *files) if not name.startswith(".")]
    return sorted(path for path in found if path.suffix.lower() in IMAGE_SUFFIXES)


def _refuse(error: OSError) -> None:
    raise UserError(
        f"{error.filename} cannot be listed: {error.strerror}; change its permissions or remove it"
    ) from None


def read_text(path: Path, remedy: str) -> str:
    """A UTF-8 text file, line ends as they are; UserError with the remedy when unreadable."""
    try:
        # A pipe would block, and a device may have no end.
        if not path.is_file():
            raise FileNotFoundError
        if path.stat().st_size > MOST_TEXT:
            raise UserError(f"{path} has more than {MOST_TEXT:,} bytes; {remedy}")
        with path.open(encoding="utf-8-sig", newline="") as handle:
            return handle.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read; {remedy}") from error


def check_rows(rows: Sequence[Row], origin: str) -> None:
    """Names must be plain text, and every class must have a training image.

    UserError names the file, or the class that has none.
    """
    for row in rows:
        if not plain_name(row.key):
            raise UserError(f"{origin}: file name {row.key!r} is not plain UTF-8 text; rename it")
    trained = {row.cls for row in rows if row.split == "train"}
    if not trained:
        raise UserError(f"{origin}: no training image; check data.root and data.layout")
    for row in rows:
        if row.cls not in trained:
            raise UserError(
                f"{origin}: unknown class `{row.cls}` in split {row.split} ({row.key}): it has no "
                f"training image; add some or remove it{or_nearest(row.cls, trained)}"
            )


def plain_name(key: str) -> bool:
    """Whether a file name is one line of UTF-8 text, which every list and terminal can hold."""
    return key.isprintable()


def find_folder(root: Path, title: str, marks: tuple[str, ...]) -> Path:
    """`root`, or its only sub-folder, that holds every name of `marks`.

    Raises UserError when neither does, and when two sub-folders do.
    """
    candidates = [root, *sub_folders(root)]
    found = [path for path in candidates if all((path / mark).exists() for mark in marks)]
    remedy = f"point data.root at the folder that holds {' and '.join(marks)}"
    if not found:
        raise UserError(f"{root} is not in the layout of {title}; {remedy}")
    if len(found) > 1 and found[0] != root:
        raise UserError(f"{found[0]} and {found[1]} both are in the layout of {title}; {remedy}")
    return found[0]


def find_file(folder: Path, name: str, places: tuple[str, ...]) -> Path:
    """`name` in the first of the sub-folders `places` that has it; UserError when none has."""
    for place in places:
        if (folder / place / name).is_file():
            return folder / place / name
    raise UserError(f"{folder / places[0] / name} is missing; unpack it there")


def list_lines(path: Path, fields: int) -> Iterator[tuple[str, list[str]]]:
    """("FILE line N", its `fields` words) of the non-empty lines; the last word may hold spaces.

    Raises UserError for a file that cannot be read and for a line with fewer words.
    """
    text = read_text(path, "unpack the authors' archive again")
    for number, line in enumerate(text.split("\n"), start=1):
        words = line.strip().split(maxsplit=fields - 1)
        origin = f"{path} line {number}"
        if words and len(words) < fields:
            raise UserError(f"{origin}: {line.strip()!r} has not {fields} fields; correct the line")
        if words:
            yield origin, words


class Rows:
    """Rows in the making: every photo must lie in the folder and be listed once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._origins: dict[str, str] = {}
        self._rows: list[Row] = []

    def add(self, key: str, label: str, split: Split, origin: str) -> None:
        """Add a photo; UserError naming `origin` when it leaves the folder, is absent or twice."""
        key = plain_key(key)
        check_inside(self._folder, key, origin)
        path = self._folder / key
        if key in self._origins:
            raise UserError(f"{origin}: {key} is already in {self._origins[key]}; keep one")
        if not exists(path):
            raise UserError(f"{origin}: no image {path}; add it or remove the entry")
        self._origins[key] = origin
        self._rows.append(Row(key, class_label(label), split))

    def listing(self) -> Listing:
        """The rows so far."""
        return Listing(self._folder, tuple(self._rows))
