"""Which files below a folder `higfa init` uses, in which class and split; why not the others."""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from higfa_cli.artifacts.seeds import seed_for
from higfa_cli.data.copies import Groups, contradictory, copies, thumbnail
from higfa_cli.data.images import ImageError, read_image
from higfa_cli.data.layouts.common import Row, Split
from higfa_cli.data.layouts.files import Found, look, sub_folders
from higfa_cli.data.layouts.imagefolder import (
    check_meaning,
    class_rows,
    split_folders,
    split_rows,
)
from higfa_cli.data.layouts.labels import labelled_rows, metadata_tables
from higfa_cli.data.rejected import file_state
from higfa_cli.errors import UserError
from higfa_cli.stages.context import Progress

# From this many photos on a class gets at least one in each wanted split.
_ENOUGH_FOR_ALL = 3


@dataclass(frozen=True)
class Draw:
    """How a split is drawn: fractions of val and test, and the seed."""

    val: float = 0.15
    test: float = 0.15
    seed: int = 0


@dataclass(frozen=True)
class Form:
    """How the folder is to be read, where it could mean two things.

    `flat`: every folder is a class. `labels`: tables of photos and classes, with `label_column`.
    """

    flat: bool = False
    labels: tuple[Path, ...] = ()
    label_column: str | None = None


@dataclass
class Chosen:
    """`rows`: the photos that are used. `unused`: key -> why not, of the photos that are not.

    `others`: the files that are no photos, counted by kind. `split_kept`: the data have a split.
    `copies`: groups of photos that are one.
    """

    rows: list[Row]
    split_kept: bool
    unused: dict[str, str] = field(default_factory=dict)
    others: list[dict[str, object]] = field(default_factory=list)
    copies: Groups = field(default_factory=list)

    @property
    def skipped(self) -> list[dict[str, object]]:
        """All that is not used: {"file", "reason"}, with "files" where several are counted."""
        photos: list[dict[str, object]] = [
            {"file": key, "reason": reason} for key, reason in self.unused.items()
        ]
        return photos + self.others


def chosen_photos(root: Path, draw: Draw, form: Form, progress: Progress) -> Chosen:
    """Every file below `root`, as used or not. Every photo is decoded once.

    Raises UserError: a layout that could mean two things, a class without a readable image.
    """
    tables = form.labels or ([] if form.flat else metadata_tables(root))
    if tables:
        rows, split_kept = labelled_rows(root, tables, form.label_column)
        reason = "in no row of the labels"
    else:
        rows, split_kept = _listed(root, form.flat)
        reason = "not in a class folder"
    chosen = Chosen(rows, split_kept)
    found, used = look(root), {row.key for row in rows}
    for path in found.photos:
        if (key := path.relative_to(root).as_posix()) not in used:
            chosen.unused[key] = reason
    chosen.others = _counted(root, found)
    thumbnails = _leave_out_unreadable(root, chosen, progress)
    states = [file_state(root / row.key) for row in chosen.rows]
    groups = copies(chosen.rows, states, thumbnails)
    if not split_kept:
        chosen.rows = _split(chosen.rows, draw, groups)
    chosen.rows.sort(key=lambda row: row.key)
    placed = {row.key: row for row in chosen.rows}
    chosen.copies = [[placed[row.key] for row in group] for group in groups]
    return chosen


def _listed(root: Path, flat: bool) -> tuple[list[Row], bool]:
    """All photos of classes, and whether they have a split; without one all count as train."""
    folders = {} if flat else split_folders(root)
    others = [path for path in sub_folders(root) if path not in folders.values()]
    command = f"higfa init --root {shlex.quote(str(root))}"
    training = folders.get("train")
    if folders and training is None:
        names = ", ".join(f"{path.name}/" for path in folders.values())
        beside = f"; `{command} --flat` takes it for a class" if others else ""
        raise UserError(
            f"{root} has {names} but no train/: move the photos to train into train/<class>{beside}"
        )
    if training is None:
        if not flat:
            check_meaning(root, others)
        return class_rows(root, root, "train"), False
    if not sub_folders(training) and any(look(path, deep=False).photos for path in others):
        raise UserError(
            f"{training} has photos and no class folders, as {others[0].name}/ has: "
            f"`{command} --flat` if {training.name} is a class, or `{command} --labels TABLE.csv` "
            "if a table says the classes"
        )
    return split_rows(root, folders), True


def _counted(root: Path, found: Found) -> list[dict[str, object]]:
    """The files that are no photos, by suffix; those in folders that are left out, by folder."""
    counts: Counter[tuple[str, str]] = Counter()
    for path, reason in found.left_out.items():
        kind = ".*" if reason == "hidden" else f"*{path.suffix}" if path.suffix else path.name
        counts[kind, reason] += 1
    for path, reason in found.folders.items():
        name = path.name if path.parent != root else path.relative_to(root).as_posix()
        counts[f"{name}/", reason] += 0 if path.is_symlink() else _file_count(path)
    return [
        {"file": kind, "reason": reason, "files": count}
        for (kind, reason), count in sorted(counts.items())
    ]


def _file_count(folder: Path) -> int:
    return sum(not path.is_dir() for path in folder.rglob("*"))


def _leave_out_unreadable(root: Path, chosen: Chosen, progress: Progress) -> list[np.ndarray]:
    """Decode all; those that do not decode are not used. Returns the others' thumbnails."""
    good: list[Row] = []
    thumbnails = []
    for row in progress.track(chosen.rows, "reading photos", total=len(chosen.rows)):
        try:
            thumbnails.append(thumbnail(read_image(root / row.key)))
            good.append(row)
        except ImageError as error:
            chosen.unused[row.key] = error.reason
    for cls in {row.cls for row in chosen.rows} - {row.cls for row in good}:
        raise UserError(f"class `{cls}` of {root} has no readable image; add some or remove it")
    chosen.rows = good
    return thumbnails


def _split(rows: Sequence[Row], draw: Draw, groups: Groups) -> list[Row]:
    """Stratified split. A row's rank depends on seed, class and path alone, not on other rows.

    Copies stay together; those of several classes are for training, where they are not scored.
    """
    together = {row.key: group[0].key for group in groups for row in group}
    contradict = {row.key for group in contradictory(groups) for row in group}
    by_class: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    placed = [replace(row, split="train") for row in rows if row.key in contradict]
    counts = Counter(row.cls for row in rows)
    for row in sorted(rows, key=lambda row: seed_for(draw.seed, "split", row.cls, row.key)):
        if row.key not in contradict:
            by_class[row.cls][together.get(row.key, row.key)].append(row)
    for cls, units in by_class.items():
        left: dict[Split, int] = dict(
            zip(("test", "val"), _quotas(counts[cls], draw.val, draw.test), strict=True)
        )
        for unit in units.values():
            split: Split = next((name for name in left if left[name] >= len(unit)), "train")
            if split != "train":
                left[split] -= len(unit)
            placed += [replace(row, split=split) for row in unit]
    return placed


def _quotas(count: int, val: float, test: float) -> tuple[int, int]:
    """How many of a class's photos are for test and for val; at least one stays for training."""
    least = 1 if count >= _ENOUGH_FOR_ALL else 0
    tests = max(round(count * test), least if test > 0 else 0)
    vals = max(round(count * val), least if val > 0 else 0)
    while tests + vals >= count:
        if tests >= vals:
            tests -= 1
        else:
            vals -= 1
    return tests, vals
