"""Stanford Dogs' layout: Images/<synset>-<breed>/ and the lists train_list.mat, test_list.mat."""

from __future__ import annotations

import re
from pathlib import Path

from higfa_cli.data.layouts.common import Layout, Listing, Rows, Split, find_file, find_folder
from higfa_cli.data.layouts.mat import Mat
from higfa_cli.errors import UserError

LISTS: dict[Split, str] = {"train": "train_list.mat", "test": "test_list.mat"}
ENTRY = re.compile(r"(n\d+-([^/]+))/.+")


def list_dogs(root: Path) -> Listing:
    """Rows of both lists; a class is the folder's name without the synset ("Chihuahua").

    The lists are in lists/ or beside Images/. There is no official validation split.
    Raises UserError naming file and element: a bad path, a label of two breeds; without scipy.
    """
    folder = find_folder(root, LAYOUT.title, "Images")
    rows = Rows(folder)
    for split, listed in LISTS.items():
        content = Mat(find_file(folder, listed, "lists"))
        files, labels = content.texts("file_list"), content.numbers("labels")
        if len(files) != len(labels):
            raise UserError(
                f"{folder}: {listed} has {len(files)} files and {len(labels)} labels; "
                "unpack the authors' archive again"
            )
        for index, (name, label) in enumerate(zip(files, labels, strict=True), start=1):
            origin = content.origin("file_list", index)
            entry = ENTRY.fullmatch(name)
            if entry is None:
                raise UserError(
                    f"{origin}: {name!r} is not <synset>-<breed>/<file>; correct the list"
                )
            breed_folder, breed = entry.groups()
            rows.check_number(label, breed_folder, origin)
            rows.add(f"Images/{name}", breed, split, origin)
    return rows.listing()


LAYOUT = Layout(
    title="Stanford Dogs",
    page="http://vision.stanford.edu/aditya86/ImageNetDogs/main.html",
    classes=120,
    sizes={"train": 12000, "test": 8580},
    list=list_dogs,
)
