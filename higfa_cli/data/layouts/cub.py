"""CUB-200-2011's layout: numbered photos in images.txt, with labels and split in files beside."""

from __future__ import annotations

from pathlib import Path

from higfa_cli.data.layouts.common import Layout, Listing, Rows, find_folder, list_lines
from higfa_cli.errors import UserError

CLASSES = "classes.txt"
LABELS = "image_class_labels.txt"
SPLIT = "train_test_split.txt"


def list_cub(root: Path) -> Listing:
    """Rows of images.txt; classes are the folder names ("001.Black_footed_Albatross").

    There is no official validation split. Raises UserError naming file and line: a bad line, a
    photo without label or split, a label that classes.txt lacks or is not the photo's folder.
    """
    folder = find_folder(root, LAYOUT.title, "images", "images.txt")
    classes = _by_number(folder / CLASSES)
    labels = _by_number(folder / LABELS)
    training = _by_number(folder / SPLIT)
    rows = Rows(folder)
    for origin, (number, name) in list_lines(folder / "images.txt", 2):
        label, label_origin = _of(number, labels, folder / LABELS, origin)
        flag, flag_origin = _of(number, training, folder / SPLIT, origin)
        cls, _ = _of(label, classes, folder / CLASSES, label_origin, "class")
        if flag not in ("0", "1"):
            raise UserError(f"{flag_origin}: `{flag}` is not 0 or 1; correct the line")
        rows.add(f"images/{name}", cls, "train" if flag == "1" else "test", origin)
        if name.split("/")[0] != cls:
            raise UserError(
                f"{label_origin}: class `{cls}` is not the folder of {name}; correct the label"
            )
    return rows.listing()


def _by_number(path: Path) -> dict[str, tuple[str, str]]:
    """First word of each line -> (the rest, "FILE line N")."""
    numbered: dict[str, tuple[str, str]] = {}
    for origin, (number, value) in list_lines(path, 2):
        if number in numbered:
            raise UserError(f"{origin}: {number} is already in {numbered[number][1]}; keep one")
        numbered[number] = (value, origin)
    return numbered


def _of(
    number: str, table: dict[str, tuple[str, str]], path: Path, origin: str, kind: str = "image"
) -> tuple[str, str]:
    if number not in table:
        raise UserError(f"{origin}: unknown {kind} {number}, not in {path}; correct one of them")
    return table[number]


LAYOUT = Layout(
    title="CUB-200-2011",
    page="https://www.vision.caltech.edu/datasets/cub_200_2011/",
    classes=200,
    sizes={"train": 5994, "test": 5794},
    list=list_cub,
)
