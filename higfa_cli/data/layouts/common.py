"""What the layout readers share: rows of (key, class, split), list files, safe paths."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from higfa_cli.artifacts.rows import Split
from higfa_cli.artifacts.safe_paths import THROUGH_LINK, why_outside
from higfa_cli.data.layouts.files import sub_folders
from higfa_cli.errors import UserError
from higfa_cli.text import or_nearest

SPLITS: tuple[Split, ...] = ("train", "val", "test")

# Lists of ten million photos are larger than any folder that higfa was made for.
_MOST_TEXT = 200_000_000
_SHOWN = 80
# Archives that others packed again have a folder or two more around the authors' own.
_DEPTH, _MANY = 4, 12


@dataclass(frozen=True)
class Row:
    """One image of a listing: `key` is its POSIX path relative to `Listing.root`."""

    key: str
    cls: str
    split: Split


@dataclass(frozen=True)
class Listing:
    """What a layout reader found: the folder the keys are relative to, and the rows.

    `unlisted()`: of a split file, the photos below the folder that it does not name; UserError
    for a folder that may not be listed. All folders are looked through, so it is not a field.
    """

    root: Path
    rows: tuple[Row, ...]
    unlisted: Callable[[], tuple[str, ...]] = tuple


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


def read_bytes(path: Path, remedy: str, most: int = _MOST_TEXT) -> bytes:
    """A file's content.

    Raises UserError with the remedy: unreadable, or of more than `most` bytes.
    """
    try:
        # A pipe would block, and a device may have no end.
        if not path.is_file():
            raise FileNotFoundError
        if path.stat().st_size > most:
            raise UserError(f"{path} has more than {most:,} bytes; {remedy}")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read; {remedy}") from error


def read_text(path: Path, remedy: str, most: int = _MOST_TEXT) -> str:
    """A UTF-8 text file, line ends as they are. Raises UserError as `read_bytes`."""
    try:
        return read_bytes(path, remedy, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
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
    """`root`, or the only folder a little below it, that holds every name of `marks`.

    Raises UserError when none does, and when two do.
    """
    matching: list[Path] = []
    level = [root]
    for _ in range(_DEPTH):
        matching = [path for path in level if all((path / mark).exists() for mark in marks)]
        # Not among the folders of classes, which are many.
        level = [inner for path in level for inner in sub_folders(path)]
        if matching or len(level) > _MANY:
            break
    remedy = f"point data.root at the folder that holds {' and '.join(marks)}"
    if not matching:
        raise UserError(f"{root} is not in the layout of {title}; {remedy}")
    if len(matching) > 1:
        both = f"{matching[0]} and {matching[1]}"
        raise UserError(f"{both} both are in the layout of {title}; {remedy}")
    return matching[0]


def find_file(folder: Path, name: str, place: str = ".", remedy: str = "unpack it there") -> Path:
    """`name` in the sub-folder `place` or beside it; UserError with the remedy elsewhere."""
    for path in (folder / place / name, folder / place / place / name, folder / name):
        if path.is_file():
            return path
    raise UserError(f"{folder / place / name} is missing; {remedy}")


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


def is_file(path: Path) -> bool:
    """Whether a regular file lies there; False for a name that no file system takes."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


class Rows:
    """Rows in the making: every photo must lie in the folder and be listed once.

    Every method raises UserError naming `origin`, the place in the list.
    """

    def __init__(self, folder: Path, links: bool = False) -> None:
        """`links`: they may lead out of the folder, which is the user's own."""
        self._folder, self._links = folder, links
        self._origins: dict[str, str] = {}
        self._numbered: dict[object, str] = {}
        self._rows: list[Row] = []

    def add(self, key: str, label: str, split: Split, origin: str) -> None:
        """Add a photo; refused when it leaves the folder, is absent or twice."""
        # In one form, so that `./a.png` and `b//a.png` do not hide a repetition.
        key = PurePosixPath(key).as_posix() if key else key
        reason = why_outside(self._folder, key)
        if reason and not (self._links and reason == THROUGH_LINK):
            problem = reason.replace("leaves it", f"leaves the data folder {self._folder}")
            raise UserError(
                f"{origin}: path {key[:_SHOWN]!r} {problem}; "
                "write it relative to that folder, without `..` and links"
            )
        if key in self._origins:
            raise UserError(f"{origin}: {key} is already in {self._origins[key]}; keep one")
        if not is_file(self._folder / key):
            top = key.partition("/")[0]
            # As others have packed it again: images/images/...
            if is_file(self._folder / top / key):
                return self.add(f"{top}/{key}", label, split, origin)
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
