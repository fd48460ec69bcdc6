"""What the readers of public datasets share: finding the folder, its list files, its photos."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from higfa_cli.data.listing import (
    Listing,
    Row,
    Split,
    class_label,
    exists,
    inside,
    plain_key,
    read_text,
    sub_folders,
)
from higfa_cli.errors import UserError


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
        path = inside(self._folder, key, origin)
        if key in self._origins:
            raise UserError(f"{origin}: {key} is already in {self._origins[key]}; keep one")
        if not exists(path):
            raise UserError(f"{origin}: no image {path}; add it or remove the entry")
        self._origins[key] = origin
        self._rows.append(Row(key, class_label(label), split))

    def listing(self) -> Listing:
        """The rows so far."""
        return Listing(self._folder, tuple(self._rows))
