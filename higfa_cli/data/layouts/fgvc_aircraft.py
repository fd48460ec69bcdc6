"""FGVC-Aircraft's layout: images/, variants.txt and images_variant_{train,val,test}.txt."""

from __future__ import annotations

from pathlib import Path

from higfa_cli.data.layouts.common import (
    SPLITS,
    Layout,
    Listing,
    Rows,
    class_label,
    find_folder,
    list_lines,
)
from higfa_cli.errors import UserError
from higfa_cli.text import or_nearest


def list_fgvc(root: Path) -> Listing:
    """Rows of the train, val and test lists; those of val and test may be absent.

    Raises UserError naming file and line: a bad line, a variant that variants.txt lacks or that
    has no training photo.
    """
    folder = find_folder(root, LAYOUT.title, "images", "variants.txt")
    variants = [class_label(name) for _, (name,) in list_lines(folder / "variants.txt", 1)]
    files = {path.stem: path.name for path in sorted((folder / "images").iterdir())}
    rows = Rows(folder)
    for split in SPLITS:
        path = folder / f"images_variant_{split}.txt"
        if split != "train" and not path.exists():
            continue
        for origin, (identity, name) in list_lines(path, 2):
            label = class_label(name)
            if label not in variants:
                raise UserError(
                    f"{origin}: unknown class `{label}`, not in variants.txt; "
                    f"correct the line{or_nearest(label, variants)}"
                )
            rows.add(f"images/{files.get(identity, f'{identity}.jpg')}", label, split, origin)
    listing = rows.listing()
    trained = {row.cls for row in listing.rows if row.split == "train"}
    for label in variants:
        if label not in trained:
            raise UserError(
                f"class `{label}` of {folder / 'variants.txt'} has no training image; "
                "add some to images_variant_train.txt or remove the class"
            )
    return listing


LAYOUT = Layout(
    title="FGVC-Aircraft (variants)",
    page="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
    classes=100,
    sizes={"train": 3334, "val": 3333, "test": 3333},
    list=list_fgvc,
)
