"""The method's constants, one at a time and some together, around the recipe's, on val contours.

    python -m tools.pocket.lab.ablation --workspace DIR --out OUT [--axes tau gamma ...]

Writes data/ablation.json and the page ablation.md to OUT after every axis, and a strip of pictures
of every axis: to OUT/pictures where the page shows it, to DIR/strips otherwise.
Run again to resume: what was drawn or trained is read from the workspace, and axes that were
measured before under the same recipe, guide, judges and contours stay in the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from higfa_cli.recipe.load import load_recipe
from tools.pocket.lab import figures, pages, strips
from tools.pocket.lab.arms import HIGFA, Arm
from tools.pocket.lab.axes import SWEEPS, Axis, Value, axes_around, is_recipe, switched_at
from tools.pocket.lab.laboratory import (
    Features,
    Instruments,
    Results,
    known_names,
    open_instruments,
)
from tools.pocket.lab.options import Options, command
from tools.pocket.lab.samples import prepare
from tools.pocket.lab.scores import Score

PER_CLASS = 10
SPLIT = "val"


def ablate(options: Options, names: Sequence[str], features: Features) -> dict[str, Any]:
    """Draw and measure the named axes (none named: all); returns what data/ablation.json holds.

    Raises UserError as the stages, or for an axis that is not there.
    """
    recipe = load_recipe(options.recipe).recipe
    known = {axis.name: axis for axis in axes_around(recipe, SWEEPS)}
    asked = [known[name] for name in known_names(names, known, "--axes", "axis")]
    with open_instruments(options, SPLIT, features) as instruments:
        results = Results("ablation", known, options, instruments, SPLIT)
        # Guides before pictures: training takes both cores.
        arms = [[_arm(options, axis, value) for value in axis.values] for axis in asked]
        instruments.ahead([HIGFA, *chain(*arms)])
        for axis, own in zip(asked, arms, strict=True):
            rows = _measure(options, instruments, axis, own)
            results.add(axis.name, {"title": axis.title, "rows": rows})
    return results.numbers


def _measure(
    options: Options, instruments: Instruments, axis: Axis, arms: Sequence[Arm]
) -> list[dict[str, Any]]:
    """Rows of one table; its strip is written beside."""
    base = instruments.score(HIGFA)
    scores: list[tuple[str, Score]] = []
    rows = []
    for value, arm in zip(axis.values, arms, strict=True):
        same = is_recipe(value, instruments.samples.ctx.recipe)
        score = base if same else instruments.score(arm)
        against = None if same else figures.paired(base.hits, score.hits)
        rows.append(
            {"value": value.label, "is_recipe": same, **score.row()}
            | {"against_recipe": against and [round(number, 4) for number in against]}
        )
        scores.append((value.label, score))
    shown = axis.name in pages.SHOWN
    folder = options.out / "pictures" if shown else options.workspace / "strips"
    strips.save(instruments.strip(scores), folder / f"ablation-{axis.name}.png")
    return rows


def _arm(options: Options, axis: Axis, value: Value) -> Arm:
    """How the value is drawn; a guide of its own is trained, once for each tau."""
    name, tau = f"{axis.name} {value.label}", value.guide_tau
    if tau is None:
        return Arm(name, value.settings)
    place = options.workspace / "guides" / f"tau-{tau:g}"
    prepare(options.recipe, place, SPLIT, 1, switched_at(tau))
    return Arm(name, value.settings, place / "finetune-guide" / "guide.safetensors")


def main() -> None:
    """Read the command line and measure."""
    command(__doc__.splitlines()[0], PER_CLASS, "--axes", "axes; without: all", ablate)


if __name__ == "__main__":
    main()
