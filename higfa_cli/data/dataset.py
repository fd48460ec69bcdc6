"""The user's photos as one object: classes, samples with stable ids, splits and class words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from higfa_cli.artifacts.fingerprint import hash_listing
from higfa_cli.artifacts.seeds import seed_for
from higfa_cli.data.layouts import layout_of
from higfa_cli.data.layouts.common import SPLITS, Listing, Row, Split, check_rows
from higfa_cli.data.layouts.imagefolder import list_csv, list_folders
from higfa_cli.data.prompts import words_for
from higfa_cli.data.rejected import Rejected, file_state, leave_out
from higfa_cli.errors import UserError
from higfa_cli.recipe.data import Data
from higfa_cli.recipe.refs import existing_path

if TYPE_CHECKING:
    import numpy as np

    from higfa_cli.data.layouts.boxes import Box


@dataclass(frozen=True)
class Sample:
    """One photo. `key` is its stable id: the POSIX path relative to the data folder."""

    key: str
    path: Path
    cls: str
    class_id: int
    split: Split
    crop_bottom: int = 0
    box: Box | None = None

    def read(self) -> np.ndarray:
        """The photo, HxWx3 uint8 RGB, without its lowest `crop_bottom` rows, cut to its box.

        Raises UserError naming the file when it cannot be read or has no rows left.
        """
        from higfa_cli.data.images import ImageError, read_photo

        try:
            return read_photo(self.path, self.crop_bottom, self.box)
        except ImageError as error:
            remedy = "or run `higfa contours`, which lists such files and leaves them out"
            raise UserError(f"{error}, {remedy}") from error


@dataclass(frozen=True)
class Dataset:
    """Classes (sorted; `class_id` is the index), samples (sorted by split and key), class words."""

    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    words: Mapping[str, str]

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that have images, in the order train, val, test."""
        present = {sample.split for sample in self.samples}
        return tuple(split for split in SPLITS if split in present)

    def of(self, split: Split) -> tuple[Sample, ...]:
        """Samples of one split; empty where the data has no such split."""
        return tuple(sample for sample in self.samples if sample.split == split)

    def fingerprint(self, *splits: Split) -> str:
        """Content hash over (key, class, split, sha256 of the file) of the splits (default all).

        It does not depend on where the folder lies, on file times or on listing order. A file
        that cannot be read counts as such: reading it is what fails.
        """
        if splits not in self._fingerprints:
            rows = (
                [sample.key, sample.cls, sample.split, file_state(sample.path), *(sample.box or ())]
                for sample in self.samples
                if sample.split in (splits or SPLITS)
            )
            self._fingerprints[splits] = hash_listing(rows)
        return self._fingerprints[splits]

    @cached_property
    def _fingerprints(self) -> dict[tuple[Split, ...], str]:
        return {}


def load_dataset(data: Data, base: Path, seed: int, rejected: Rejected | None = None) -> Dataset:
    """List the photos of `data` (nothing is decoded), check them, and attach class words.

    `seed` draws `data.shots`, from the photos that `rejected` does not name. A missing val or test
    split is allowed. Raises UserError naming the thing and the remedy.
    """
    return choose_photos(list_photos(data, base), data, base, seed, rejected)


def choose_photos(
    listing: Listing, data: Data, base: Path, seed: int, rejected: Rejected | None = None
) -> Dataset:
    """As `load_dataset`, of photos that are already listed."""
    rows = listing.rows
    boxes = photo_boxes(data, listing)
    if rejected is not None:
        rows = leave_out(listing, rejected, data.crop_bottom, boxes, data.max_bad)
    check_rows(rows, str(listing.root))
    rows = _keep_shots(rows, data.shots, seed)
    classes = tuple(sorted({row.cls for row in rows}))
    ids = {name: index for index, name in enumerate(classes)}
    ordered = sorted(rows, key=lambda row: (SPLITS.index(row.split), row.key))
    samples = tuple(
        Sample(
            row.key,
            listing.root / row.key,
            row.cls,
            ids[row.cls],
            row.split,
            data.crop_bottom,
            boxes.get(row.key),
        )
        for row in ordered
    )
    return Dataset(classes, samples, class_words(data, base, classes))


def list_photos(data: Data, base: Path) -> Listing:
    """All files of the data that should be photos, as they lie there, usable or not.

    Raises UserError for a missing folder, or lists that do not fit the layout.
    """
    root = existing_path(data.root, base, "data.root")
    if not root.is_dir():
        raise UserError(f"data folder {root} does not exist; correct data.root")
    layout = layout_of(data.layout)
    if layout is not None:
        if data.split_file is not None:
            raise UserError(
                f"data.split_file cannot go with data.layout: {data.layout}, which has its own "
                "lists; remove it, or use layout: imagefolder"
            )
        return layout.list(root)
    if data.split_file is not None:
        return list_csv(root, existing_path(data.split_file, base, "data.split_file"))
    return list_folders(root)


def photo_boxes(data: Data, listing: Listing) -> dict[str, Box]:
    """Key -> box of the photos that are cut to theirs. Raises UserError as `boxes_of`."""
    if not data.boxes:
        return {}
    from higfa_cli.data.layouts.boxes import boxes_of

    return boxes_of(data.layout, listing.root, listing.rows)


def class_words(data: Data, base: Path, classes: Sequence[str]) -> Mapping[str, str]:
    """Class -> its words for prompts. Raises UserError for a missing file or class."""
    words = data.class_words
    path = None if words is None else existing_path(words, base, "data.class_words")
    return words_for(classes, path)


def _keep_shots(rows: Sequence[Row], shots: int | None, seed: int) -> tuple[Row, ...]:
    """At most `shots` training rows per class, ranked by a hash of each row alone.

    The rank of a row depends on nothing but seed, class and key, so that neither another class
    nor the listing order changes the choice, and more shots only add rows.
    """
    if shots is None:
        return tuple(rows)
    kept = [row for row in rows if row.split != "train"]
    by_class: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.split == "train":
            by_class[row.cls].append(row)
    for members in by_class.values():
        members.sort(key=lambda row: seed_for(seed, "shots", row.cls, row.key))
        kept += members[:shots]
    return tuple(kept)
