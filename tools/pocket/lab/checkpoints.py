"""Dated weights side by side: the same contours and noise drawn by each, in numbers and by eye.

    python -m tools.pocket.lab.checkpoints --workspace DIR --out OUT --packages OLD NEW ...

A package is a folder as export.py writes it (`sd/` and `controlnet/`), beside its training.json.
Writes data/checkpoints.json, the page checkpoints.md and pictures/checkpoints.png to OUT. No guide
is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from higfa_cli.artifacts.atomic import read_json
from higfa_cli.errors import UserError
from higfa_cli.recipe.arms import TEXT_CONTOUR
from tools.pocket.lab import figures, pages, strips
from tools.pocket.lab.arms import TEXT, TITLES
from tools.pocket.lab.laboratory import Features, open_instruments
from tools.pocket.lab.options import Options, command, constants, made
from tools.pocket.lab.scores import Score, rounded
from tools.pocket.train.unpack import HISTORY

PER_CLASS = 15
SPLIT = "val"
KINDS = (TEXT, TEXT_CONTOUR)


def weights_of(package: Path) -> dict[str, str]:
    """The keys of a package's weights. Raises UserError where the folder is no package."""
    keys = {"sd": "model.base", "controlnet": "model.controlnet"}
    for part in keys:
        if not (package / part).is_dir():
            raise UserError(f"--packages {package}: has no folder `{part}`; export.py writes both")
    return {key: str((package / part).resolve()) for part, key in keys.items()}


def steps_of(package: Path) -> int:
    """Denoiser steps behind a package. Raises UserError without a training.json beside it."""
    path = package.parent / HISTORY
    if not path.is_file():
        raise UserError(f"{path} is missing; export.py writes it beside the package")
    return int(read_json(path)["denoiser"]["step"])


def compare(options: Options, names: Sequence[str], features: Features) -> dict[str, Any]:
    """Draw and measure every package; returns what data/checkpoints.json holds."""
    packages = [Path(name) for name in names]
    if len(packages) < 2:
        raise UserError("--packages: give at least two folders")
    steps = [steps_of(package) for package in packages]
    weights = [weights_of(package) for package in packages]
    with open_instruments(options, SPLIT, features, guide=None) as instruments:
        scores = []
        for number, changes in enumerate(weights):
            place = instruments.beside(f"packages/{number}", changes, guide=None)
            instruments.draw(KINDS, place)
            scores.append([instruments.score(kind, place) for kind in KINDS])
        lines = [
            (f"{step:,} {TITLES[kind]}", score)
            for step, pair in zip(steps, scores, strict=True)
            for kind, score in zip(KINDS, pair, strict=True)
        ]
        strips.save(instruments.strip(lines), options.out / "pictures" / "checkpoints.png")
        results = {
            "made": made(instruments.samples.ctx, "checkpoints", " --packages ...")
            | {"weights": "of each row"},
            "constants": constants(instruments.samples.ctx.recipe.guidance),
            "pictures": len(instruments.samples.items),
            "split": SPLIT,
            "rows": [_row(step, pair, scores[0]) for step, pair in zip(steps, scores, strict=True)],
        }
    pages.publish(options.out, "checkpoints", results)
    return results


def _row(step: int, pair: Sequence[Score], first: Sequence[Score]) -> dict[str, Any]:
    return {
        "step": step,
        "arms": [score.row() for score in pair],
        "against_first": [
            None if base is score else rounded(figures.paired(base.hits, score.hits))
            for base, score in zip(first, pair, strict=True)
        ],
    }


def main() -> None:
    """Read the command line and compare."""
    command(__doc__.splitlines()[0], PER_CLASS, "--packages", "at least two folders", compare)


if __name__ == "__main__":
    main()
