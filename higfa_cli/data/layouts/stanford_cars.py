"""Stanford Cars' layout: cars_train/, cars_test/ and the development kit's MATLAB files."""

from __future__ import annotations

from pathlib import Path

from higfa_cli.data.layouts.common import Layout, Listing, Rows, Split, find_file, find_folder
from higfa_cli.data.layouts.mat import Mat
from higfa_cli.errors import UserError

SETS: tuple[tuple[Split, str, str], ...] = (
    ("train", "cars_train", "cars_train_annos.mat"),
    ("test", "cars_test", "cars_test_annos_withlabels.mat"),
)


def list_cars(root: Path) -> Listing:
    """Rows of both annotation files; classes are the names of cars_meta.mat ("Acura TL 2012").

    The MATLAB files are in devkit/ or beside it (the one of the test set, with labels, is a
    download of its own). There is no official validation split.
    Raises UserError naming file and element: an unknown class; without scipy.
    """
    folder = find_folder(root, LAYOUT.title, "cars_train", "cars_test")
    meta = find_file(folder, "cars_meta.mat", "devkit")
    names = Mat(meta).texts("class_names")
    rows = Rows(folder)
    for split, images, listed in SETS:
        annotations = Mat(find_file(folder, listed, "devkit"))
        files = annotations.texts("annotations", "fname")
        labels = annotations.numbers("annotations", "class")
        for index, (name, label) in enumerate(zip(files, labels, strict=True), start=1):
            origin = annotations.origin("annotations", index)
            if not 1 <= label <= len(names):
                raise UserError(
                    f"{origin}: unknown class {label}; {meta} has {len(names)}; correct one of them"
                )
            rows.add(f"{images}/{name}", names[label - 1], split, origin)
    return rows.listing()


# The original page is gone; copies of the archive are offered elsewhere.
LAYOUT = Layout(
    title="Stanford Cars",
    page="https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
    classes=196,
    sizes={"train": 8144, "test": 8041},
    list=list_cars,
)
