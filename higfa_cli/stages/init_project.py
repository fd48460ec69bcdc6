"""`higfa init`: a recipe, class words and a seeded split for the user's own class folders."""

from __future__ import annotations

import csv
import io
import json
import shlex
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from higfa_cli.artifacts.atomic import write_text
from higfa_cli.artifacts.seeds import seed_for
from higfa_cli.data.images import ImageError, read_image
from higfa_cli.data.layouts.common import (
    IMAGE_SUFFIXES,
    SPLITS,
    Row,
    Split,
    check_rows,
    sub_folders,
)
from higfa_cli.data.layouts.imagefolder import COLUMNS, class_rows, split_folders
from higfa_cli.data.prompts import default_words
from higfa_cli.errors import UserError
from higfa_cli.models.machine import device_of
from higfa_cli.recipe.load import load_recipe
from higfa_cli.stages.context import Progress, Silent

#: What can be done on any machine, in the order of what it needs.
WITHOUT_GPU = (
    "`higfa contours` and `higfa train-downstream --arm real` need neither GPU nor diffusion "
    "weights; `higfa run pocket` draws on a CPU"
)
# From this many photos on a class gets at least one in each wanted split.
_ENOUGH_FOR_ALL = 3
# Below, one photo is more than half a point.
_FEW_TEST_PHOTOS = 200


def init_project(
    root: Path,
    out: Path,
    name: str | None = None,
    val: float = 0.15,
    test: float = 0.15,
    seed: int = 0,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Look through `root` and write `out`, `<stem>.classes.yaml` and `<stem>.split.csv` beside it.

    `root` holds class folders, split by chance (stratified, seeded; `val` and `test` are the
    fractions), or train/ and perhaps val/ and test/ with class folders, whose split is kept.
    Every image is decoded once; unreadable ones are left out of the split and returned under
    "skipped". Raises UserError, with nothing written: a missing or empty folder, a class without a
    readable training image, fractions that leave no training data, existing files without `force`.
    """
    if val < 0 or test < 0 or val + test >= 1:
        raise UserError(f"--val {val} and --test {test} must leave something to train on", 2)
    if not root.is_dir():
        raise UserError(f"data folder {root} does not exist; correct --root")
    words, split_file = _beside(out, force)
    root = root.resolve()
    rows, skipped = _readable(root, _list(root), progress or Silent())
    skipped = _strays(root) + skipped
    own_split = "train" in split_folders(root)
    if not own_split:
        rows = _split(rows, val, test, seed)
    rows.sort(key=lambda row: row.key)
    classes = sorted({row.cls for row in rows})
    check_rows(rows, str(root))
    if len(classes) < 2:
        raise UserError(f"{root} has one class, `{classes[0]}`; add another class folder")
    # The name is the output folder's too: two recipes of one photo folder must not share it.
    title = name or (out.stem if out.stem != "recipe" else root.name or "photos")
    gpu = device_of("auto").kind == "cuda"
    template = Template(resources.files(__package__).joinpath("init.yaml").read_text("utf-8"))
    text = template.substitute(
        name=_quoted(title),
        seed=seed,
        root=_quoted(_reference(root, out)),
        split=_quoted(split_file.name),
        words=_quoted(words.name),
        dtype="bfloat16" if gpu else "float32",
    )
    _check(text)
    write_text(words, _words_text(classes))
    write_text(split_file, _split_text(rows))
    write_text(out, text)
    counts = Counter(row.split for row in rows)
    return {
        "recipe": str(out),
        "class_words": str(words),
        "split_file": str(split_file),
        "classes": classes,
        "counts": {split: counts[split] for split in SPLITS},
        "skipped": skipped,
        "notes": _notes(own_split, rows) + ([] if gpu else [f"no GPU here: {WITHOUT_GPU}"]),
        "next": f"higfa doctor {shlex.quote(str(out))}",
    }


def _notes(own_split: bool, rows: Sequence[Row]) -> list[str]:
    """What a user may not expect of the split."""
    counts = Counter(row.split for row in rows)
    notes = []
    if own_split:
        notes.append("the split of the folders is kept, --val and --test play no part")
    if not counts["val"]:
        notes.append(
            "no validation photos: a fifth of the training photos is held out to choose the "
            "classifiers' checkpoints, and the guide is calibrated by cross-validation"
        )
    if not counts["test"]:
        notes.append("no test photos: nothing can say whether the drawn pictures helped")
        return notes
    if counts["test"] < _FEW_TEST_PHOTOS:
        points = 100 / counts["test"]
        notes.append(
            f"{counts['test']} test photos: one of them is {points:.1f} points of accuracy, so "
            "only large differences can be seen"
        )
    tested = {row.cls for row in rows if row.split == "test"}
    untested = sorted({row.cls for row in rows} - tested)
    if untested:
        few = ", ".join(untested[:3]) + (", ..." if len(untested) > 3 else "")
        notes.append(f"without a test photo: {few}")
    return notes


def _beside(recipe: Path, force: bool) -> tuple[Path, Path]:
    """The files of class words and split; raises UserError unless all three may be written."""
    if recipe.suffix.lower() not in (".yaml", ".yml"):
        raise UserError(f"--out {recipe} must end in .yaml", 2)
    words, split = recipe.with_suffix(".classes.yaml"), recipe.with_suffix(".split.csv")
    for path in (recipe, words, split):
        if path.exists() and not force:
            raise UserError(f"{path} exists; choose another --out, or replace it with --force")
    return words, split


def _list(root: Path) -> list[Row]:
    """All images; in a folder without train/ they all count as train until they are split."""
    folders = split_folders(root)
    if "train" in folders:
        return [row for split, folder in folders.items() for row in class_rows(root, folder, split)]
    if folders and len(folders) == len(sub_folders(root)):
        raise UserError(f"{root} has {', '.join(p.name for p in folders.values())} but no train/")
    return class_rows(root, root, "train")


def _readable(
    root: Path, rows: Sequence[Row], progress: Progress
) -> tuple[list[Row], list[dict[str, str]]]:
    """Rows whose image decodes; the others as {"file", "reason"}."""
    good: list[Row] = []
    skipped: list[dict[str, str]] = []
    for row in progress.track(rows, "reading photos", total=len(rows)):
        try:
            read_image(root / row.key)
            good.append(row)
        except ImageError as error:
            skipped.append({"file": row.key, "reason": error.reason})
    for cls in {row.cls for row in rows} - {row.cls for row in good}:
        raise UserError(f"class `{cls}` of {root} has no readable image; add some or remove it")
    return good, skipped


def _strays(root: Path) -> list[dict[str, str]]:
    """Images that lie beside the class folders and so belong to no class."""
    parents = list(split_folders(root).values()) if "train" in split_folders(root) else []
    return [
        {"file": path.relative_to(root).as_posix(), "reason": "not in a class folder"}
        for parent in [root, *parents]
        for path in sorted(parent.iterdir())
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir()
    ]


def _split(rows: Sequence[Row], val: float, test: float, seed: int) -> list[Row]:
    """Stratified split. A row's rank depends on seed, class and path alone, not on other rows."""
    by_class: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_class[row.cls].append(row)
    placed: list[Row] = []
    for cls, members in by_class.items():
        members.sort(key=lambda row: seed_for(seed, "split", row.cls, row.key))
        tests, vals = _quotas(len(members), val, test)
        drawn: list[tuple[Split, int]] = [("test", tests), ("val", vals)]
        splits = [split for split, count in drawn for _ in range(count)]
        splits += ["train"] * (len(members) - len(splits))
        placed += [Row(row.key, cls, split) for row, split in zip(members, splits, strict=True)]
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


def _reference(root: Path, recipe: Path) -> str:
    """The data folder as the recipe names it: relative where it lies beside or below the recipe."""
    folder = recipe.resolve().parent
    return root.relative_to(folder).as_posix() if root.is_relative_to(folder) else str(root)


def _check(text: str) -> None:
    """Load the recipe before anything is written where the user looks."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        load_recipe(str(path))


def _words_text(classes: Sequence[str]) -> str:
    lines = [
        "# What the prompts call each class: the {words} of prompts.templates.",
        "# Say what the thing is (`Boeing 737-800 airliner` rather than `738`).",
        *(f"{_quoted(name)}: {_quoted(default_words(name) or name)}" for name in classes),
    ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    # A JSON string is also a double-quoted YAML string.
    return json.dumps(text, ensure_ascii=False)


def _split_text(rows: Sequence[Row]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((row.key, row.cls, row.split) for row in rows)
    return buffer.getvalue()
