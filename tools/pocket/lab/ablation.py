"""The method's constants, one at a time and some together, around the recipe's, on val contours.

    python -m tools.pocket.lab.ablation --workspace DIR --out OUT [--axes tau gamma ...]

Writes data/ablation.json and the page ablation.md to OUT after every axis, and a strip of pictures
of every axis: to OUT/pictures where the page shows it, to DIR/strips otherwise.
Run again to resume: what was drawn or trained is read from the workspace, and axes that were
measured before under the same recipe, guide, judges and contours stay in the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from higfa_cli.recipe.arms import HIGFA
from higfa_cli.recipe.load import load_recipe
from tools.pocket.lab import figures, pages, strips
from tools.pocket.lab.axes import Axis, Value, axes_around, switched_at
from tools.pocket.lab.laboratory import (
    Features,
    Instruments,
    Results,
    known_names,
    open_instruments,
)
from tools.pocket.lab.options import Options, command
from tools.pocket.lab.samples import Samples
from tools.pocket.lab.scores import rounded

PER_CLASS = 10
SPLIT = "val"


def ablate(options: Options, names: Sequence[str], features: Features) -> dict[str, Any]:
    """Draw and measure the named axes (none named: all); returns what data/ablation.json holds.

    Raises UserError as the stages, or for an axis that is not there.
    """
    axes = {axis.name: axis for axis in axes_around(load_recipe(options.recipe).recipe)}
    asked = [axes[name] for name in known_names(names, axes, "--axes", "axis")]
    arms = {value.arm: value.changes for axis in asked for value in axis.values}
    with open_instruments(options, SPLIT, features, arms) as instruments:
        results = Results("ablation", axes, instruments)
        for axis in asked:
            rows = _measure(instruments, axis)
            results.add(axis.name, {"title": axis.title, "rows": rows})
    return results.numbers


def _measure(instruments: Instruments, axis: Axis) -> list[dict[str, Any]]:
    """Rows of one table; its strip is written beside."""
    places: dict[float | None, Samples | None] = {
        tau: None
        if tau is None
        else instruments.beside(f"guides/tau-{tau:g}", guide=switched_at(tau))
        for tau in dict.fromkeys(value.guide_tau for value in axis.values)
    }
    for tau, place in places.items():
        instruments.draw([value.arm for value in axis.values if value.guide_tau == tau], place)
    scores = [instruments.score(value.arm, places[value.guide_tau]) for value in axis.values]
    base = instruments.score(HIGFA)
    options = instruments.options
    folder = options.out / "pictures" if axis.name in pages.SHOWN else options.workspace / "strips"
    lines = [(value.label, score) for value, score in zip(axis.values, scores, strict=True)]
    strips.save(instruments.strip(lines), folder / f"ablation-{axis.name}.png")

    def against(value: Value, hits: Any) -> list[float] | None:
        return None if value.arm == HIGFA else rounded(figures.paired(base.hits, hits))

    return [
        {"value": value.label, "is_recipe": value.arm == HIGFA, **score.row()}
        | {"against_recipe": against(value, score.hits)}
        for value, score in zip(axis.values, scores, strict=True)
    ]


def main() -> None:
    """Read the command line and measure."""
    command(__doc__.splitlines()[0], PER_CLASS, "--axes", "axes; without: all", ablate)


if __name__ == "__main__":
    main()
