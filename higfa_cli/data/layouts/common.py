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

# Lists of ten million photos are larger than any folder that higfa was made for.
_MOST_TEXT = 200_000_000
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
    """A public dataset as its authors pack it; the reader's module has its name in the recipe.

    Attributes:
        title, page: for people; the home page offers the archive.
        classes, sizes: as published; a split without photos is left out.
        list: the photos in a folder or its one sub-folder; UserError where that is not in this
            layout, and for a photo that is absent, listed twice or outside the folder.
    """

    title: str
    page: str
    classes: int
    sizes: Mapping[Split, int]
    list: Callable[[Path], Listing]


def class_label(text: str) -> str:
    """A class name in one Unicode form, so that folders and files written elsewhere agree."""
    return unicodedata.normalize("NFC", text)


def plain_name(key: str) -> bool:
    """Whether a file name is one line of UTF-8 text, which every list and terminal can hold."""
    return key.isprintable()


def sub_folders(folder: Path) -> list[Path]:
    """Visible sub-folders, sorted by name."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def image_files(folder: Path) -> list[Path]:
    """Files with an image suffix at any depth, sorted; hidden files and folders are left out.

    Raises UserError for a folder that may not be listed: its photos must not go missing unseen.
    """
    paths: list[Path] = []
    for base, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths += [Path(base, name) for name in (*folders, *files) if not name.startswith(".")]
    return sorted(path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES)


def _refuse(error: OSError) -> None:
    raise UserError(
        f"{error.filename} cannot be listed: {error.strerror}; change its permissions or remove it"
    ) from None


def read_text(path: Path, remedy: str, most: int = _MOST_TEXT) -> str:
    """A UTF-8 text file, line ends as they are.

    Raises UserError with the remedy: unreadable, or of more than `most` bytes.
    """
    try:
        # A pipe would block, and a device may have no end.
        if not path.is_file():
            raise FileNotFoundError
        if path.stat().st_size > most:
            raise UserError(f"{path} has more than {most:,} bytes; {remedy}")
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


def find_folder(root: Path, title: str, *marks: str) -> Path:
    """`root`, or its only sub-folder, that holds every name of `marks`.

    Raises UserError when neither does, and when two sub-folders do.
    """
    candidates = [root, *sub_folders(root)]
    matching = [path for path in candidates if all((path / mark).exists() for mark in marks)]
    remedy = f"point data.root at the folder that holds {' and '.join(marks)}"
    if not matching:
        raise UserError(f"{root} is not in the layout of {title}; {remedy}")
    if len(matching) > 1 and matching[0] != root:
        both = f"{matching[0]} and {matching[1]}"
        raise UserError(f"{both} both are in the layout of {title}; {remedy}")
    return matching[0]


def find_file(folder: Path, name: str, place: str = ".") -> Path:
    """`name` in the sub-folder `place` or beside it; UserError when neither has it."""
    for path in (folder / place / name, folder / name):
        if path.is_file():
            return path
    raise UserError(f"{folder / place / name} is missing; unpack it there")


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


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        # A name that no file system takes.
        return False


class Rows:
    """Rows in the making: every photo must lie in the folder and be listed once.

    Every method raises UserError naming `origin`, the place in the list.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._origins: dict[str, str] = {}
        self._numbered: dict[object, str] = {}
        self._rows: list[Row] = []

    def add(self, key: str, label: str, split: Split, origin: str) -> None:
        """Add a photo; refused when it leaves the folder, is absent or twice."""
        # In one form, so that `./a.png` and `b//a.png` do not hide a repetition.
        key = PurePosixPath(key).as_posix() if key else key
        if reason := why_outside(self._folder, key):
            problem = reason.replace("leaves it", f"leaves the data folder {self._folder}")
            raise UserError(
                f"{origin}: path {key[:_SHOWN]!r} {problem}; "
                "write it relative to that folder, without `..` and links"
            )
        if key in self._origins:
            raise UserError(f"{origin}: {key} is already in {self._origins[key]}; keep one")
        if not _is_file(self._folder / key):
            raise UserError(f"{origin}: no image {self._folder / key}; add it or remove the entry")
        self._origins[key] = origin
        self._rows.append(Row(key, class_label(label), split))

    def check_number(self, number: object, label: str, origin: str) -> None:
        """A class number stands for the same class everywhere."""
        before = self._numbered.setdefault(number, label)
        if before != label:
            raise UserError(
                f"{origin}: class {number} is {label} here and {before} above; correct the list"
            )

    def listing(self) -> Listing:
        """The rows so far."""
        return Listing(self._folder, tuple(self._rows))
