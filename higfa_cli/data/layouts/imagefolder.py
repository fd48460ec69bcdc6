"""Class folders: root/train/<class>/..., or root/<class>/... with a split CSV."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from higfa_cli.data.layouts.common import SPLITS, Listing, Row, Rows, Split, class_label
from higfa_cli.data.layouts.files import image_files, kinds, look, sub_folders
from higfa_cli.data.layouts.tables import Names, read_table
from higfa_cli.errors import UserError
from higfa_cli.text import or_nearest, plural

COLUMNS = ("path", "class", "split")
# In the place of a split: a file that is in the folder, and not meant.
UNUSED = "unused"
SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "dev": "val",
    "devel": "val",
    "eval": "val",
    "evaluation": "val",
    "test": "test",
    "testing": "test",
}
# What people write before or after the name of a split: train_images, seg_test, val2017.
_FILLER = re.compile(
    r"(?:image|img|pic|picture|photo|data|sample)s?|set|dataset|seg|split|folder|jpe?g|png|\d+|"
)


def split_of(name: str) -> Split | None:
    """The split that a folder's name says; None for any other name."""
    split, others = _read_name(name)
    return None if others else split


def _read_name(name: str) -> tuple[Split | None, frozenset[str]]:
    """The one split among a name's words, and the other words but for the fillers."""
    words = re.split(r"[\W_]+|(?<=[a-z])(?=[A-Z\d])", re.sub("(?i)(?<=[a-z])sets?$", "", name))
    left = [word.lower() for word in words if not _FILLER.fullmatch(word.lower())]
    splits = [SPLIT_NAMES[word] for word in left if word in SPLIT_NAMES]
    others = frozenset(word for word in left if word not in SPLIT_NAMES)
    return (splits[0] if len(splits) == 1 else None), others


def split_folders(root: Path) -> dict[Split, Path]:
    """The folders of `root` that are called like splits (`split_of`).

    Words that a folder shares with that of another split say nothing (cars_train, cars_test).
    Raises UserError when two of them name the same split.
    """
    folders: dict[Split, Path] = {}
    names = {folder: _read_name(folder.name) for folder in sub_folders(root)}
    for folder, (split, others) in names.items():
        shared = {its for its, words in names.values() if its and words == others}
        if split is None or (others and len(shared) < 2):
            continue
        if split in folders:
            raise UserError(
                f"{root} has both {folders[split].name}/ and {folder.name}/; keep one of them"
            )
        folders[split] = folder
    return {split: folders[split] for split in SPLITS if split in folders}


def list_folders(root: Path) -> Listing:
    """Rows of root/{train,val,test}/<class>/...; val and test may be absent.

    Raises UserError for a missing train folder, no class, or a class folder without an image.
    """
    folders = split_folders(root)
    if "train" not in folders:
        raise UserError(
            f"{root} has no train/ folder and data.split_file is not set; "
            f"write a split with `higfa init --root {shlex.quote(str(root))}`"
        )
    return Listing(root, tuple(split_rows(root, folders)))


def split_rows(root: Path, folders: dict[Split, Path]) -> list[Row]:
    """Rows of the class folders of each split. Raises UserError as `class_rows`."""
    return [row for split, folder in folders.items() for row in class_rows(root, folder, split)]


def class_rows(root: Path, folder: Path, split: Split) -> list[Row]:
    """Rows of folder/<class>/...; UserError when there is no class or a class has no image."""
    folder = _unwrapped(folder)
    classes = sub_folders(folder)
    if not classes:
        raise UserError(_without_classes(root, folder))
    rows: list[Row] = []
    labels: dict[str, Path] = {}
    for directory in classes:
        found = look(directory)
        if found.is_beside:
            continue
        label = class_label(directory.name)
        other = labels.setdefault(label, directory)
        if other != directory:
            # They look alike: the same letters, composed in one name and decomposed in the other.
            raise UserError(
                f"class folders {other.name!a} and {directory.name!a} of {folder} are "
                "one name in two Unicode forms; put their images in one folder"
            )
        if not found.photos:
            there = f" (but {kinds(found.left_out)})" if found.left_out else ""
            raise UserError(f"class folder {directory} has no images{there}; add some or remove it")
        rows += [Row(path.relative_to(root).as_posix(), label, split) for path in found.photos]
    return rows


def _unwrapped(folder: Path) -> Path:
    """The folder, or the one of the same name that is all it holds (train/train/<class>)."""
    inner = folder / folder.name
    if inner.is_dir() and sub_folders(folder) == [inner] and not look(folder, deep=False).photos:
        return _unwrapped(inner)
    return folder


def _without_classes(root: Path, folder: Path) -> str:
    """What to do with a folder that has no folders of classes."""
    photos = len(look(folder, deep=False).photos)
    if not photos:
        return f"{folder} has no class folders; put each class's images in a folder"
    what = f"{folder} has no class folders but {plural(photos, 'photo')} without a class"
    training = split_folders(root).get("train")
    if training and folder != root and sub_folders(inner := _unwrapped(training)):
        return f"{what}; use those that have one: --root {shlex.quote(str(inner))}"
    beside = [path for place in (folder, root) for path in sorted(place.glob("*.csv"))]
    table = shlex.quote(str(beside[0])) if beside else "TABLE.csv"
    return (
        f"{what}; put each class's images in a folder, or give the table of their classes: "
        f"higfa init --root {shlex.quote(str(root))} --labels {table}"
    )


def check_meaning(root: Path, folders: Sequence[Path]) -> None:
    """Raise UserError where the folders of `root` may be classes, or parts that each have all."""
    inner = {folder: {class_label(path.name) for path in sub_folders(folder)} for folder in folders}
    first = inner[folders[0]] if folders else set()
    if len(first) < 2 or len(folders) < 2 or any(names != first for names in inner.values()):
        return
    name, command = folders[0].name, f"higfa init --root {shlex.quote(str(root))}"
    if all(split_of(name) for name in first):
        raise UserError(
            f"every folder of {root} holds {', '.join(sorted(first)[:3])}: splits inside classes; "
            f"draw a new split with `{command} --flat`, or move them to "
            f"train/{name}, ... and run `{command}`"
        )
    raise UserError(
        f"the folders of {root} ({name}, ...) have the same folders in them "
        f"({', '.join(sorted(first)[:2])}, ...); `{command} --flat` if {name} is a class, or "
        f"`--root {shlex.quote(str(folders[0]))}` if it is a part of the data"
    )


def list_csv(root: Path, path: Path) -> Listing:
    """Rows of a split CSV (columns path,class,split; paths relative to `root`).

    Rows of split UNUSED are left out. Links are followed, as in class folders.
    Raises UserError naming file and line: a missing column, an unknown split or class, a path
    that leaves the root, a missing or repeated file.
    """
    table = read_table(path, "correct data.split_file or write it with `higfa init`")
    _, header = next(table, ("", {}))
    if absent := [name for name in COLUMNS if name not in header]:
        raise UserError(
            f"{path} has no column `{absent[0]}`; its header must be path,class,split "
            f"(it is {','.join(header)[:80]})"
        )
    rows, names, unused = Rows(root, links=True), Names(root, path.parent), set()
    for origin, record in table:
        key, label, said = (record[name] for name in COLUMNS)
        split = split_of(said)
        if said.strip().lower() == UNUSED:
            unused.add(names.find(key))
            continue
        if split is None:
            raise UserError(
                f"{origin}: split `{said[:40]}` is not one of train, val, test; correct it"
            )
        if not label.strip():
            raise UserError(f"{origin}: no class for {key}; fill in the column `class`")
        rows.add(names.find(key) or key, label, split, origin)
    listing = rows.listing()
    _check_folder_names(listing, path)
    listed = unused | {row.key for row in listing.rows}

    def unlisted() -> tuple[str, ...]:
        photos = (photo.relative_to(root).as_posix() for photo in image_files(root))
        return tuple(key for key in photos if key not in listed)

    return replace(listing, unlisted=unlisted)


def _check_folder_names(listing: Listing, path: Path) -> None:
    """Where photos lie in folders of their classes, a class nearly called so is a slip."""
    folders = {row: class_label(row.key).split("/")[:-1] for row in listing.rows}
    misfits = [row for row, names in folders.items() if row.cls not in names]
    if len(misfits) * 2 > len(listing.rows):
        return
    for row in misfits:
        if near := or_nearest(row.cls, folders[row]):
            raise UserError(
                f"{path}: unknown class `{row.cls}` for {row.key}, whose folder is not called so; "
                f"correct the column `class`{near}"
            )
