"""Oxford 102 Flowers' layout: jpg/image_00001.jpg onwards, imagelabels.mat and setid.mat."""

from __future__ import annotations

from pathlib import Path

from higfa_cli.data.layouts.common import Layout, Listing, Rows, Split, find_file, find_folder
from higfa_cli.data.layouts.mat import Mat
from higfa_cli.errors import UserError

SETS: dict[Split, str] = {"train": "trnid", "val": "valid", "test": "tstid"}
CATEGORIES = 102


def list_flowers(root: Path) -> Listing:
    """Rows of setid.mat as published: few to train on (trnid), most to test (tstid).

    Classes are the category numbers "1" to "102" (words: `words:flowers102`).
    Raises UserError naming file and element: no label, an unknown category; without scipy.
    """
    folder = find_folder(root, LAYOUT.title, "jpg")
    labels_file = Mat(find_file(folder, "imagelabels.mat"))
    labels = labels_file.numbers("labels")
    sets = Mat(find_file(folder, "setid.mat"))
    rows = Rows(folder)
    for split, name in SETS.items():
        for index, number in enumerate(sets.numbers(name), start=1):
            origin = sets.origin(name, index)
            if not 1 <= number <= len(labels):
                raise UserError(
                    f"{origin}: photo {number} has no label; imagelabels.mat has {len(labels)}; "
                    "correct one of them"
                )
            label = labels[number - 1]
            if not 1 <= label <= CATEGORIES:
                raise UserError(
                    f"{labels_file.origin('labels', number)}: unknown class {label}; "
                    f"categories are 1 to {CATEGORIES}"
                )
            rows.add(f"jpg/image_{number:05d}.jpg", str(label), split, origin)
    return rows.listing()


LAYOUT = Layout(
    title="Oxford 102 Flowers",
    page="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
    classes=102,
    sizes={"train": 1020, "val": 1020, "test": 6149},
    list=list_flowers,
)
