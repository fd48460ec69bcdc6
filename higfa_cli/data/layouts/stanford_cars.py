"""Stanford Cars' layout: cars_train/, cars_test/ and the development kit's MATLAB files."""

from __future__ import annotations

import contextlib
from pathlib import Path

from higfa_cli.data.layouts.common import Layout, Listing, Rows, Split, find_file, find_folder
from higfa_cli.data.layouts.mat import Mat
from higfa_cli.errors import UserError

SETS: tuple[tuple[Split, str, str], ...] = (
    ("train", "cars_train", "cars_train_annos.mat"),
    ("test", "cars_test", "cars_test_annos_withlabels.mat"),
)
MERGED = "cars_annos.mat"
UNPACK = "unpack it there"
REMEDIES: dict[Split, str] = {
    "test": "it is no part of the devkit, whose test list has no labels, but a file of its own: "
    "get it where you got the photos and put it there",
}


def list_cars(root: Path) -> Listing:
    """Rows of both annotation files; classes are the names of cars_meta.mat ("Acura TL 2012").

    Or of the authors' other archive, car_ims/ and one list.
    The MATLAB files are in devkit/ or beside it (the one of the test set, with labels, is a
    download of its own). There is no official validation split.
    Raises UserError naming file and element: an unknown class; without scipy.
    """
    if (merged := _find_merged(root)) is not None:
        return _list_merged(merged)
    folder = find_folder(root, LAYOUT.title, "cars_train", "cars_test")
    meta = find_file(folder, "cars_meta.mat", "devkit")
    names = Mat(meta).texts("class_names")
    rows = Rows(folder)
    for split, images, listed in SETS:
        annotations = Mat(find_file(folder, listed, "devkit", REMEDIES.get(split, UNPACK)))
        files = annotations.texts("annotations", "fname")
        labels = annotations.numbers("annotations", "class")
        for index, (name, label) in enumerate(zip(files, labels, strict=True), start=1):
            origin = annotations.origin("annotations", index)
            rows.add(f"{images}/{name}", _class_of(label, names, meta, origin), split, origin)
    return rows.listing()


def _class_of(label: int, names: list[str], meta: Path, origin: str) -> str:
    if not 1 <= label <= len(names):
        raise UserError(
            f"{origin}: unknown class {label}; {meta} has {len(names)}; correct one of them"
        )
    return names[label - 1]


def _find_merged(root: Path) -> Path | None:
    """The folder of the authors' other archive, car_ims/ with cars_annos.mat; None without."""
    with contextlib.suppress(UserError):
        return find_folder(root, LAYOUT.title, "car_ims", MERGED)
    return None


def _list_merged(folder: Path) -> Listing:
    annotations, rows = Mat(folder / MERGED), Rows(folder)
    names = annotations.texts("class_names")
    columns = (
        annotations.texts("annotations", "relative_im_path"),
        annotations.numbers("annotations", "class"),
        annotations.numbers("annotations", "test"),
    )
    for index, (key, label, held_out) in enumerate(zip(*columns, strict=True), start=1):
        origin = annotations.origin("annotations", index)
        cls = _class_of(label, names, folder / MERGED, origin)
        rows.add(key, cls, "test" if held_out else "train", origin)
    return rows.listing()


# The original page is gone; copies of the archive are offered elsewhere.
LAYOUT = Layout(
    title="Stanford Cars",
    page="https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
    classes=196,
    sizes={"train": 8144, "test": 8041},
    list=list_cars,
)
