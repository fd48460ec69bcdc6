"""Photos that cannot be used: found once, listed with their reasons, left out everywhere.

A file that was replaced since is tried again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from higfa_cli.artifacts.artifact import read_rows
from higfa_cli.artifacts.atomic import write_jsonl
from higfa_cli.artifacts.fingerprint import hash_file, hash_listing
from higfa_cli.artifacts.rows import PhotoFault, RejectedRow
from higfa_cli.data.layouts.common import Listing, Row, plain_name
from higfa_cli.errors import UserError
from higfa_cli.text import printable

if TYPE_CHECKING:
    from higfa_cli.data.layouts.boxes import Box

_FIRST = 8
_BOX_REMEDY = "correct the list of boxes, or set data.boxes: false"


@dataclass(frozen=True)
class Rejected:
    """A list of rejections, and the file that holds it."""

    path: Path
    rows: tuple[RejectedRow, ...] = ()


def file_state(path: Path, crop_bottom: int = 0, box: Box | None = None) -> str:
    """What a file holds, without fail: its sha256, and what is cut off it; or why it has none.

    A FIFO is not opened, for it would block.
    """
    try:
        state = hash_file(path) if path.is_file() else "not a regular file"
    except (OSError, ValueError, UserError):
        return "unreadable"
    cuts = [f", {crop_bottom} rows cut"] if crop_bottom else []
    cuts += [f", box {box}"] if box else []
    return "".join([state, *cuts])


def fingerprint(root: Path, rows: Iterable[Row]) -> str:
    """Hash of (key, class, split, content) of all files found, whatever they are."""
    return hash_listing([row.key, row.cls, row.split, file_state(root / row.key)] for row in rows)


def scan(
    listing: Listing,
    crop_bottom: int,
    boxes: Mapping[str, Box],
    track: Callable[[Sequence[Row]], Iterable[Row]],
) -> list[RejectedRow]:
    """Decode every photo of a listing, and return those that cannot be used.

    `track` passes the rows on, and may show how far it is.
    """
    rejected = []
    for row in track(listing.rows):
        path, box = listing.root / row.key, boxes.get(row.key)
        if fault := _fault(path, row.key, crop_bottom, box):
            rejected.append(rejection(row, *fault, file_state(path, crop_bottom, box)))
    return rejected


def _fault(
    path: Path, key: str, crop_bottom: int, box: Box | None
) -> tuple[PhotoFault, str] | None:
    from higfa_cli.data.images import ImageError, cut, read_image

    if not plain_name(key):
        return "odd-name", "not one line of UTF-8 text; rename it"
    try:
        image = read_image(path)
    except ImageError as error:
        return error.reason, error.detail
    height, width = image.shape[:2]
    if height <= crop_bottom:
        return "too-small", f"{height} pixels high; data.crop_bottom is {crop_bottom}"
    if not cut(image, crop_bottom, box).size:
        size = f"{width} x {height} pixels, data.crop_bottom is {crop_bottom}"
        return "box-outside", f"{size}; its box is {box}; {_BOX_REMEDY}"
    return None


def rejection(row: Row, reason: PhotoFault, detail: str, state: str) -> RejectedRow:
    """A photo of a listing that cannot be used, of this `state` (`file_state`)."""
    return RejectedRow(
        key=row.key,
        path=printable(row.key),
        cls=row.cls,
        split=row.split,
        reason=reason,
        detail=detail,
        state=state,
    )


def write_rejected(path: Path, rejected: Iterable[RejectedRow]) -> None:
    """One row per photo, sorted by key; in ASCII, for a key may be no Unicode text."""
    rows = sorted(rejected, key=lambda row: row.key)
    write_jsonl(path, (row.plain() for row in rows), ascii_only=True)


def read_rejected(path: Path) -> Rejected:
    """A list; empty where there is none. Raises UserError for a broken one."""
    return Rejected(path, tuple(read_rows(path, RejectedRow)) if path.is_file() else ())


def leave_out(
    listing: Listing,
    rejected: Rejected,
    crop_bottom: int,
    boxes: Mapping[str, Box],
    max_bad: int | str,
) -> tuple[Row, ...]:
    """The rows of a listing without the photos that no stage can use.

    Raises UserError naming photos: more than `max_bad`; all training photos of a class; all of a
    split.
    """
    unusable = still_rejected(listing, rejected.rows, crop_bottom, boxes)
    check_share(list(unusable.values()), len(listing.rows), max_bad, rejected.path)
    left = tuple(row for row in listing.rows if row.key not in unusable)
    splits, trained = {row.split for row in left}, {row.cls for row in left if row.split == "train"}
    for row in listing.rows:
        if row.split not in splits:
            what, lost = (
                f"split {row.split}",
                [r for r in unusable.values() if r.split == row.split],
            )
        elif row.split == "train" and row.cls not in trained:
            what = f"class `{printable(row.cls)}` in split train"
            lost = [r for r in unusable.values() if (r.cls, r.split) == (row.cls, "train")]
        else:
            continue
        raise UserError(
            f"every photo of {what} was rejected: {first_of(lost)}; replace them, or remove it "
            "from the data"
        )
    return left


def still_rejected(
    listing: Listing,
    rejected: Iterable[RejectedRow],
    crop_bottom: int,
    boxes: Mapping[str, Box],
) -> dict[str, RejectedRow]:
    """Key -> rejection of the photos that no stage can use, and whose file and box are the same."""
    listed = {row.key for row in listing.rows}
    return {
        row.key: row
        for row in rejected
        if row.unusable
        and row.key in listed
        and file_state(listing.root / row.key, crop_bottom, boxes.get(row.key)) == row.state
    }


def check_share(
    rejected: Sequence[RejectedRow], found: int, max_bad: int | str, path: Path
) -> None:
    """Raise UserError naming photos and their list `path` when more are rejected than may be."""
    if len(rejected) <= allowed(max_bad, found):
        return
    edges = " (edges: change contours.canny_low, contours.canny_high, blur or edge_fraction)"
    hint = "" if all(row.unusable for row in rejected) else edges
    if any(row.reason == "box-outside" for row in rejected):
        hint += f" (box-outside: {_BOX_REMEDY})"
    raise UserError(
        f"{len(rejected)} of {found} photos cannot be used, and data.max_bad is {max_bad}: "
        f"{first_of(rejected)}; all are in {path}; replace them, allow more with --max-bad, or "
        f"look at them again with --force{hint}"
    )


def allowed(max_bad: int | str, found: int) -> int:
    """How many photos may be rejected: a number, or a percentage ("10%") of those found."""
    if isinstance(max_bad, str):
        return int(found * float(max_bad.removesuffix("%")) / 100)
    return max_bad


def first_of(rejected: Sequence[RejectedRow]) -> str:
    """The first few by name, and how many more there are."""
    named = ", ".join(map(str, rejected[:_FIRST]))
    more = len(rejected) - _FIRST
    return f"{named} and {more} more" if more > 0 else named


def by_reason(rejected: Iterable[RejectedRow]) -> str:
    """For people: `2 few-edges, 1 truncated`."""
    counts = Counter(row.reason for row in rejected)
    return ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
