"""`higfa init`: a recipe, class words and a seeded split for the user's own class folders."""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from higfa_cli.artifacts.atomic import write_text
from higfa_cli.data.copies import Groups, told
from higfa_cli.data.layouts.common import SPLITS, Row, check_rows, plain_name
from higfa_cli.data.layouts.imagefolder import COLUMNS, UNUSED
from higfa_cli.data.prompts import default_words
from higfa_cli.errors import UserError
from higfa_cli.init.photos import Draw, Form, chosen_photos
from higfa_cli.models.machine import device_of
from higfa_cli.recipe.load import load_recipe
from higfa_cli.stages.context import Progress, Silent
from higfa_cli.text import plural

#: What can be done on any machine, in the order of what it needs.
WITHOUT_GPU = (
    "`higfa contours` and `higfa train-downstream --arm real` need neither GPU nor diffusion "
    "weights; `higfa run pocket` draws on a CPU"
)
# Below, one photo is more than half a point.
_FEW_TEST_PHOTOS = 200


def init_project(
    root: Path,
    out: Path,
    name: str | None = None,
    draw: Draw = Draw(),
    form: Form = Form(),
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Look through `root` and write `out`, `<stem>.classes.yaml` and `<stem>.split.csv` beside it.

    `root` holds class folders, split by chance (stratified, seeded: `draw`), or train/ and perhaps
    val/ and test/ with class folders, whose split is kept; or a table names the classes. What is
    not used is returned under "skipped".
    Raises UserError, with nothing written: a missing or empty folder, one that could mean two
    things, a class without a readable training image, fractions that leave no training data,
    existing files without `force`.
    """
    if draw.val < 0 or draw.test < 0 or draw.val + draw.test >= 1:
        raise UserError(
            f"--val {draw.val} and --test {draw.test} must leave something to train on", 2
        )
    if not root.is_dir():
        raise UserError(f"data folder {root} does not exist; correct --root")
    words, split_file = _beside(out, force)
    root = root.resolve()
    chosen = chosen_photos(root, draw, form, progress or Silent())
    rows = chosen.rows
    classes = sorted({row.cls for row in rows})
    check_rows(rows, str(root))
    if len(classes) < 2:
        inner = shlex.quote(str(root / classes[0]))
        raise UserError(
            f"{root} has one class, `{classes[0]}`; add another class folder, or give the folder "
            f"that holds the classes: --root {inner}"
        )
    # The name is the output folder's too: two recipes of one photo folder must not share it.
    title = name or (out.stem if out.stem != "recipe" else root.name or "photos")
    gpu = device_of("auto").kind == "cuda"
    template = Template(resources.files(__package__).joinpath("recipe.yaml").read_text("utf-8"))
    text = template.substitute(
        name=_quoted(title),
        workspace=_quoted(_workspace(root, out)),
        seed=draw.seed,
        root=_quoted(_reference(root, out)),
        split=_quoted(split_file.name),
        words=_quoted(words.name),
        dtype="bfloat16" if gpu else "float32",
    )
    _check(text)
    write_text(words, _words_text(classes))
    write_text(split_file, _split_text(rows, chosen.unused))
    write_text(out, text)
    counts, recipe = Counter(row.split for row in rows), shlex.quote(str(out))
    return {
        "recipe": str(out),
        "class_words": str(words),
        "split_file": str(split_file),
        "classes": classes,
        "counts": {split: counts[split] for split in SPLITS},
        "skipped": chosen.skipped,
        "notes": _notes(chosen.split_kept, rows, chosen.copies)
        + ([] if gpu else [f"no GPU here: {WITHOUT_GPU}"]),
        "next": f"higfa doctor {recipe}",
        "then": [
            f"`higfa contours {recipe}`",
            f"`higfa train-downstream {recipe} --arm real`",
            f"`higfa finetune-guide {recipe}`: from here on with the model's weights, and a GPU",
            f"`higfa run {recipe}`",
        ],
    }


def _notes(split_kept: bool, rows: Sequence[Row], copies: Groups) -> list[str]:
    """What a user may not expect of the split."""
    counts = Counter(row.split for row in rows)
    notes = told(copies)
    if together := sum(map(len, copies)) if not split_kept else 0:
        notes.append(f"{together} photos are copies of one another: they are kept in one split")
    if split_kept:
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
            f"{plural(counts['test'], 'test photo')}: one photo is {points:.1f} points of "
            "accuracy, so only large differences can be seen"
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
    folder = recipe.resolve().parent
    if folder.is_dir() and not os.access(folder, os.W_OK):
        raise UserError(f"{folder} cannot be written to; choose another --out")
    for path in (recipe, words, split):
        if path.exists() and not force:
            raise UserError(f"{path} exists; choose another --out, or replace it with --force")
    return words, split


def _reference(root: Path, recipe: Path) -> str:
    """The data folder as the recipe names it: relative where it lies beside or below the recipe."""
    folder = recipe.resolve().parent
    return root.relative_to(folder).as_posix() if root.is_relative_to(folder) else str(root)


def _workspace(root: Path, recipe: Path) -> str:
    """Where results go, relative to the recipe: never among the photos."""
    folder = recipe.resolve().parent
    beside = folder if not folder.is_relative_to(root) else root.parent
    return Path(os.path.relpath(beside / "runs" / "{name}", folder)).as_posix()


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


def _split_text(rows: Sequence[Row], unused: Iterable[str]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((row.key, row.cls, row.split) for row in rows)
    writer.writerows((key, "", UNUSED) for key in sorted(unused) if plain_name(key))
    return buffer.getvalue()
