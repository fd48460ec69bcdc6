"""Class folders: root/train/<class>/..., or root/<class>/... with a split CSV."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from higfa_cli.data.layouts.common import (
    Listing,
    Row,
    Rows,
    Split,
    class_label,
    image_files,
    read_text,
    sub_folders,
)
from higfa_cli.errors import UserError
from higfa_cli.text import or_nearest

COLUMNS = ("path", "class", "split")
SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


def split_folders(root: Path) -> dict[Split, Path]:
    """The folders of `root` named train, val (valid, validation) and test.

    Raises UserError when two of them name the same split.
    """
    folders: dict[Split, Path] = {}
    for folder in sub_folders(root):
        split = SPLIT_NAMES.get(folder.name.lower())
        if split is None:
            continue
        if split in folders:
            raise UserError(
                f"{root} has both {folders[split].name}/ and {folder.name}/; keep one of them"
            )
        folders[split] = folder
    return folders


def list_folders(root: Path) -> Listing:
    """Rows of root/{train,val,test}/<class>/...; val and test may be absent.

    Raises UserError for a missing train folder, no class, or a class folder without an image.
    """
    folders = split_folders(root)
    if "train" not in folders:
        raise UserError(
            f"{root} has no train/ folder and data.split_file is not set; "
            f"write a split with `higfa init --root {root}`"
        )
    rows = [row for split, folder in folders.items() for row in class_rows(root, folder, split)]
    return Listing(root, tuple(rows))


def class_rows(root: Path, folder: Path, split: Split) -> list[Row]:
    """Rows of folder/<class>/...; UserError when there is no class or a class has no image."""
    classes = sub_folders(folder)
    if not classes:
        raise UserError(f"{folder} has no class folders; put each class's images in a folder")
    rows: list[Row] = []
    labels: dict[str, Path] = {}
    for directory in classes:
        label = class_label(directory.name)
        other = labels.setdefault(label, directory)
        if other != directory:
            # They look alike: the same letters, composed in one name and decomposed in the other.
            raise UserError(
                f"class folders {other.name!a} and {directory.name!a} of {folder} are "
                "one name in two Unicode forms; put their images in one folder"
            )
        files = image_files(directory)
        if not files:
            raise UserError(f"class folder {directory} has no images; add some or remove it")
        rows += [Row(path.relative_to(root).as_posix(), label, split) for path in files]
    return rows


def list_csv(root: Path, path: Path) -> Listing:
    """Rows of a split CSV (columns path,class,split; paths relative to `root`).

    Raises UserError naming file and line: a missing column, an unknown split or class, a path
    that leaves the root, a missing or repeated file.
    """
    text = read_text(path, "correct data.split_file or write it with `higfa init`")
    reader = csv.DictReader(io.StringIO(text, newline=""))
    rows = Rows(root)
    try:
        header = reader.fieldnames or ()
        absent = [name for name in COLUMNS if name not in header]
        if absent:
            raise UserError(
                f"{path} has no column `{absent[0]}`; its header must be path,class,split"
            )
        for record in reader:
            origin = f"{path} line {reader.line_num}"
            key, label, split = (record[name] or "" for name in COLUMNS)
            if split not in SPLIT_NAMES:
                raise UserError(
                    f"{origin}: split `{split[:40]}` is not one of train, val, test; correct it"
                )
            if not label:
                raise UserError(f"{origin}: no class for {key}; fill in the column `class`")
            rows.add(key, label, SPLIT_NAMES[split], origin)
    except csv.Error as error:
        raise UserError(f"{path} line {reader.line_num}: {error}; correct the line") from None
    listing = rows.listing()
    _check_folder_names(listing, path)
    return listing


def _check_folder_names(listing: Listing, path: Path) -> None:
    """Where the folders are the classes, a class that is no folder is a slip of the pen."""
    folders = {class_label(folder.name) for folder in sub_folders(listing.root)}
    if not any(row.cls in folders for row in listing.rows):
        return
    for row in listing.rows:
        if row.cls not in folders:
            raise UserError(
                f"{path}: unknown class `{row.cls}` for {row.key}: the data folder has no such "
                f"class folder; correct the column `class`{or_nearest(row.cls, folders)}"
            )
