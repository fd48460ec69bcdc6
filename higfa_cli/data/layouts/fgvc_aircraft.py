"""FGVC-Aircraft's layout: images/, variants.txt and images_variant_{train,val,test}.txt."""

from __future__ import annotations

from pathlib import Path

from higfa_cli.data.layouts.common import (
    SPLITS,
    Layout,
    Listing,
    Row,
    check_inside,
    class_label,
    read_text,
)
from higfa_cli.errors import UserError
from higfa_cli.text import or_nearest

REMEDY = "point data.root at the folder that holds images/ and variants.txt"


def list_fgvc(root: Path) -> Listing:
    """Rows of the train, val and test lists; keys are relative to the folder with `images/`.

    `root` is that folder or the one above it (`fgvc-aircraft-2013b`, which holds `data/`). The
    lists of val and test may be absent. Raises UserError naming file and line for a malformed
    line, a variant that variants.txt lacks, an image that is missing or listed twice.
    """
    folder = _data_folder(root)
    known = [class_label(line) for _, line in _lines(folder / "variants.txt")]
    present = {path.name: path.name for path in (folder / "images").iterdir()}
    names = {Path(name).stem: name for name in sorted(present)}
    rows: list[Row] = []
    lists = {split: folder / f"images_variant_{split}.txt" for split in SPLITS}
    seen: dict[str, str] = {}
    for split, path in lists.items():
        if split != "train" and not path.exists():
            continue
        for number, line in _lines(path):
            origin = f"{path} line {number}"
            identity, _, label = line.partition(" ")
            label = class_label(label.strip())
            if label not in known:
                raise UserError(
                    f"{origin}: unknown class `{label}`, not in variants.txt; "
                    f"correct the line{or_nearest(label, known)}"
                )
            check_inside(folder, identity, origin)
            if identity not in names:
                raise UserError(f"{origin}: no image {folder / 'images' / identity}.jpg; add it")
            if identity in seen:
                raise UserError(f"{origin}: {identity} is already in {seen[identity]}; keep one")
            seen[identity] = path.name
            key = f"images/{names[identity]}"
            check_inside(folder, key, origin)
            rows.append(Row(key, label, split))
    _check_every_variant(known, rows, folder)
    return Listing(folder, tuple(rows))


def _lines(path: Path) -> list[tuple[int, str]]:
    """(line number, stripped line) of the non-empty lines."""
    lines = enumerate(read_text(path, REMEDY).split("\n"), start=1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def _data_folder(root: Path) -> Path:
    for folder in (root, root / "data"):
        if (folder / "variants.txt").is_file() and (folder / "images").is_dir():
            return folder
    raise UserError(f"{root} is not in FGVC-Aircraft's layout; {REMEDY}")


def _check_every_variant(known: list[str], rows: list[Row], folder: Path) -> None:
    trained = {row.cls for row in rows if row.split == "train"}
    for name in known:
        if name not in trained:
            raise UserError(
                f"class `{name}` of {folder / 'variants.txt'} has no training image; "
                "add some to images_variant_train.txt or remove the class"
            )


LAYOUT = Layout(
    name="fgvc-aircraft",
    title="FGVC-Aircraft (variants)",
    page="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
    classes=100,
    sizes={"train": 3334, "val": 3333, "test": 3333},
    list=list_fgvc,
)
