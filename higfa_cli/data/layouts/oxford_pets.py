"""Oxford-IIIT Pet's layout: images/ and annotations/{trainval,test}.txt."""

from __future__ import annotations

from pathlib import Path

from higfa_cli.data.layouts.common import Layout, Listing, Rows, Split, find_folder, list_lines
from higfa_cli.errors import UserError

LISTS: dict[Split, str] = {"train": "trainval.txt", "test": "test.txt"}


def list_pets(root: Path) -> Listing:
    """Rows of both lists; a class is a photo's name without its number ("Abyssinian").

    The published trainval list is the training split; there is no official validation split.
    Raises UserError naming file and line: a bad line, a class number of two breeds.
    """
    folder = find_folder(root, LAYOUT.title, "images", "annotations")
    rows = Rows(folder)
    for split, listed in LISTS.items():
        # A line is: photo, class number, species, breed number within the species.
        for origin, (name, label, _, _) in list_lines(folder / "annotations" / listed, 4):
            breed, _, number = name.rpartition("_")
            if not breed or not number.isdecimal():
                raise UserError(f"{origin}: {name!r} is not <breed>_<number>; correct the line")
            rows.check_number(label, breed, origin)
            rows.add(f"images/{name}.jpg", breed, split, origin)
    return rows.listing()


LAYOUT = Layout(
    title="Oxford-IIIT Pet",
    page="https://www.robots.ox.ac.uk/~vgg/data/pets/",
    classes=37,
    sizes={"train": 3680, "test": 3669},
    list=list_pets,
)
