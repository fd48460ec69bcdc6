"""The Describable Textures Dataset's layout: images/<class>/ and labels/{train,val,test}1.txt."""

from __future__ import annotations

from pathlib import Path

from higfa_cli.data.layouts.common import SPLITS, Layout, Listing, Rows, find_folder, list_lines
from higfa_cli.errors import UserError


def list_dtd(root: Path) -> Listing:
    """Rows of the first of the ten published splits; classes are the folder names ("banded").

    Raises UserError naming file and line for a line that is not class/file.
    """
    folder = find_folder(root, LAYOUT.title, "images", "labels")
    rows = Rows(folder)
    for split in SPLITS:
        for origin, (name,) in list_lines(folder / "labels" / f"{split}1.txt", 1):
            label, slash, _ = name.partition("/")
            if not slash:
                raise UserError(f"{origin}: {name!r} is not <class>/<file>; correct the line")
            rows.add(f"images/{name}", label, split, origin)
    return rows.listing()


LAYOUT = Layout(
    title="Describable Textures (split 1)",
    page="https://www.robots.ox.ac.uk/~vgg/data/dtd/",
    classes=47,
    sizes={"train": 1880, "val": 1880, "test": 1880},
    list=list_dtd,
)
