"""The boxes that public datasets ship: where in a photo its subject is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from higfa_cli.data.layouts.common import Row, find_file, list_lines, read_text
from higfa_cli.data.layouts.mat import Mat
from higfa_cli.data.layouts.stanford_cars import MERGED, SETS
from higfa_cli.errors import UserError

#: Left, top, right and bottom in pixels of the whole photo; the last two just outside.
Box = tuple[int, int, int, int]
_OFF = "correct the file, or set data.boxes: false"
_XML = re.compile(r"<(xmin|ymin|xmax|ymax)>\s*(\d+)\s*<")


def boxes_of(layout: str, root: Path, rows: Sequence[Row]) -> dict[str, Box]:
    """Key -> box of every photo of a layout that ships them; `root` is its listing's.

    Raises UserError: a photo without a box (names the folder), or a box that is none (file, line).
    """
    boxes: dict[str, Box] = {}
    for origin, name, (left, top, right, bottom) in _READERS[layout](root, rows):
        if not (0 <= left < right and 0 <= top < bottom):
            raise UserError(f"{origin}: the box of {name} is empty or outside the photo; {_OFF}")
        boxes[name] = (left, top, right, bottom)
    found = {}
    for row in rows:
        path = Path(row.key)
        box = boxes.get("/".join(path.parts[-2:])) or boxes.get(path.stem)
        if box is None:
            raise UserError(f"{root}: no box for {row.key}; {_OFF}")
        found[row.key] = box
    return found


def _numbers(origin: str, words: Sequence[str]) -> list[int]:
    try:
        return [round(float(word)) for word in words]
    except (ValueError, OverflowError):
        raise UserError(f"{origin}: a box is four numbers; {_OFF}") from None


def _cub(root: Path, rows: Sequence[Row]) -> Iterator[tuple[str, str, Box]]:
    names = dict(words for _, words in list_lines(root / "images.txt", 2))
    for origin, (number, *words) in list_lines(root / "bounding_boxes.txt", 5):
        left, top, width, height = _numbers(origin, words)
        yield origin, names.get(number, ""), (left, top, left + width, top + height)


def _fgvc(root: Path, rows: Sequence[Row]) -> Iterator[tuple[str, str, Box]]:
    for origin, (identity, *words) in list_lines(root / "images_box.txt", 5):
        left, top, right, bottom = _numbers(origin, words)
        yield origin, identity, (left - 1, top - 1, right, bottom)


def _cars(root: Path, rows: Sequence[Row]) -> Iterator[tuple[str, str, Box]]:
    if (root / MERGED).is_file():
        lists = [("", root / MERGED, "relative_im_path")]
    else:
        lists = [
            (f"{folder}/", find_file(root, file, "devkit"), "fname") for _, folder, file in SETS
        ]
    for folder, path, field in lists:
        mat = Mat(path)
        sides = [mat.numbers("annotations", f"bbox_{side}") for side in ("x1", "y1", "x2", "y2")]
        names = mat.texts("annotations", field)
        columns = zip(names, *sides, strict=True)
        for index, (name, left, top, right, bottom) in enumerate(columns, start=1):
            box = (left - 1, top - 1, right, bottom)
            yield mat.origin("annotations", index), f"{folder}{name}", box


def _dogs(root: Path, rows: Sequence[Row]) -> Iterator[tuple[str, str, Box]]:
    """What holds all dogs of a photo."""
    for row in rows:
        name = "/".join(Path(row.key).parts[-2:])
        path = root / "Annotation" / Path(name).with_suffix("")
        sides: dict[str, list[int]] = {}
        for side, number in _XML.findall(read_text(path, _OFF)):
            sides.setdefault(side, []).append(int(number))
        if len(sides) < 4:
            raise UserError(f"{path} has no box; {_OFF}")
        corner = min(sides["xmin"]) - 1, min(sides["ymin"]) - 1
        box = (max(0, corner[0]), max(0, corner[1]), max(sides["xmax"]), max(sides["ymax"]))
        yield str(path), name, box


_READERS: dict[str, Callable[[Path, Sequence[Row]], Iterator[tuple[str, str, Box]]]] = {
    "cub": _cub,
    "fgvc-aircraft": _fgvc,
    "stanford-cars": _cars,
    "stanford-dogs": _dogs,
}
