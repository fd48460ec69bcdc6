"""Class folders: root/train/<class>/..., or root/<class>/... with a split CSV."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from higfa_cli.data.layouts.common import (
    SPLIT_NAMES,
    Listing,
    Row,
    Split,
    check_inside,
    class_label,
    exists,
    image_files,
    plain_key,
    read_text,
    sub_folders,
)
from higfa_cli.errors import UserError
from higfa_cli.text import or_nearest

COLUMNS = ("path", "class", "split")


def split_folders(root: Path) -> dict[Split, Path]:
    """The folders of `root` named train, val (valid, validation) and test.

    Raises UserError when two of them name the same split.
    """
    found: dict[Split, Path] = {}
    for folder in sub_folders(root):
        split = SPLIT_NAMES.get(folder.name.lower())
        if split is None:
            continue
        if split in found:
            raise UserError(
                f"{root} has both {found[split].name}/ and {folder.name}/; keep one of them"
            )
        found[split] = folder
    return found


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
        other = labels.setdefault(class_label(directory.name), directory)
        if other != directory:
            # They look alike: the same letters, composed in one name and decomposed in the other.
            raise UserError(
                f"class folders {other.name!a} and {directory.name!a} of {folder} are "
                "one name in two Unicode forms; put their images in one folder"
            )
        files = image_files(directory)
        if not files:
            raise UserError(f"class folder {directory} has no images; add some or remove it")
        label = class_label(directory.name)
        rows += [Row(path.relative_to(root).as_posix(), label, split) for path in files]
    return rows


def list_csv(root: Path, path: Path) -> Listing:
    """Rows of a split CSV (columns path,class,split; paths relative to `root`).

    Raises UserError naming file and line: a missing column, an unknown split or class, a path
    that leaves the root, a missing or repeated file.
    """
    text = read_text(path, "correct data.split_file or write it with `higfa init`")
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        header = reader.fieldnames or ()
    except csv.Error as error:
        raise UserError(f"{path} line 1: {error}; its header must be path,class,split") from None
    absent = [name for name in COLUMNS if name not in header]
    if absent:
        raise UserError(f"{path} has no column `{absent[0]}`; its header must be path,class,split")
    folders = {class_label(folder.name) for folder in sub_folders(root)}
    rows: list[Row] = []
    seen: set[str] = set()
    try:
        for record in reader:
            origin = f"{path} line {reader.line_num}"
            row = _csv_row(record, origin)
            if row.key in seen:
                raise UserError(f"{origin}: {row.key} is listed twice; keep one of the lines")
            seen.add(row.key)
            check_inside(root, row.key, origin)
            if not exists(root / row.key):
                raise UserError(
                    f"{origin}: no file {root / row.key}; remove the line or add the file"
                )
            rows.append(row)
    except csv.Error as error:
        raise UserError(f"{path} line {reader.line_num}: {error}; correct the line") from None
    _check_folder_names(rows, folders, path)
    return Listing(root, tuple(rows))


def _csv_row(record: dict[str, str | None], origin: str) -> Row:
    text, label, split = (record[name] or "" for name in COLUMNS)
    key = plain_key(text)
    if split not in SPLIT_NAMES:
        raise UserError(
            f"{origin}: split `{split[:40]}` is not one of train, val, test; correct it"
        )
    if not label:
        raise UserError(f"{origin}: no class for {key}; fill in the column `class`")
    return Row(key, class_label(label), SPLIT_NAMES[split])


def _check_folder_names(rows: list[Row], folders: set[str], path: Path) -> None:
    """Where the folders are the classes, a class that is no folder is a slip of the pen."""
    if not any(row.cls in folders for row in rows):
        return
    for row in rows:
        if row.cls not in folders:
            raise UserError(
                f"{path}: unknown class `{row.cls}` for {row.key}: the data folder has no such "
                f"class folder; correct the column `class`{or_nearest(row.cls, folders)}"
            )
