"""The bars for the method: HiGFA against what it is made of, on train contours, same seeds.

    python -m tools.pocket.lab.bars --workspace DIR --out OUT [--parts gain ...]

Writes data/bars.json, the page bars.md and pictures/worst.png to OUT after every part. Run again to
resume: what was drawn or trained is read from the workspace, and parts that were measured before
under the same recipe, guide, judges and contours stay in the page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from higfa_cli.artifacts.atomic import read_json
from higfa_cli.recipe.arms import HIGFA, TEXT_CONTOUR, Changes
from higfa_cli.recipe.load import load_recipe, override_recipe
from higfa_cli.recipe.schema import Recipe
from tools.pocket.lab import figures, strips
from tools.pocket.lab.arms import ARMS, FIRST_STEP, FIXED, SCALE, TITLES, arm_name
from tools.pocket.lab.laboratory import (
    Features,
    Instruments,
    Results,
    known_names,
    open_instruments,
)
from tools.pocket.lab.options import Options, command
from tools.pocket.lab.samples import NOTHING, Samples
from tools.pocket.lab.scores import Score, rounded
from tools.pocket.lab.thresholds import BOTH, matched, verdicts

PER_CLASS = 30
SPLIT = "train"

# S_K of the sweeps: multiples of the recipe's where the gradient is the same, plain numbers for
# the other grad_norm.
HIGFA_MULTIPLES = (0.25, 1.0)
FIXED_MULTIPLES = (0.25, 0.5, 1.0, 2.0)
FIXED_OF_NORM: dict[str, tuple[float, ...]] = {
    "none": (5.0, 10.0, 20.0, 60.0),
    "rms": (0.5, 1.0, 2.0, 4.0),
}
NORM = "guidance.classifier.grad_norm"
# S_K at which two guides are compared, as multiples of the recipe's.
GUIDE_MULTIPLES = (0.25, 0.5, 1.0, 2.0)
# Trainings of each guide, with the recipe's seed and those that follow it: trainings that differ
# in nothing but the seed differ by points themselves.
TRAININGS = 3
CLEAN = {"guide.noised_fraction": 0.0}

Point = tuple[float, str, Changes]


def gain(instruments: Instruments) -> dict[str, Any]:
    """HiGFA minus text + transformed contour."""
    before, after = instruments.score(TEXT_CONTOUR), instruments.score(HIGFA)
    return {
        "arms": {TITLES[TEXT_CONTOUR]: before.row(), TITLES[HIGFA]: after.row()},
        "difference": rounded(figures.paired(before.hits, after.hits)),
        "diversity_of_higfa_against_text_contour": rounded(after.diversity_against(before)),
    }


def along_scales(
    recipe: Recipe, arm: str, scales: Sequence[float], changes: Changes = NOTHING
) -> list[Point]:
    """An arm at several S_K: S_K, name and changed keys of each; the arm itself at the recipe's."""
    points: list[Point] = []
    for scale in scales:
        keys = {**changes, SCALE: scale}
        if override_recipe(recipe, keys) == recipe:
            points.append((scale, arm, ARMS[arm]))
        else:
            name = arm_name(arm, *changes.values(), "s_k", f"{scale:g}")
            points.append((scale, name, {**ARMS[arm], **keys}))
    return points


def swept(recipe: Recipe) -> dict[str, list[Point]]:
    """HiGFA, and fixed strength at each grad_norm, along S_K."""
    classifier = recipe.guidance.classifier

    def multiples(of: Sequence[float]) -> list[float]:
        return [multiple * classifier.scale for multiple in of]

    curves = {TITLES[HIGFA]: along_scales(recipe, HIGFA, multiples(HIGFA_MULTIPLES))}
    for norm, scales in FIXED_OF_NORM.items():
        plain = norm != classifier.grad_norm
        scales = scales if plain else tuple(multiples(FIXED_MULTIPLES))
        points = along_scales(recipe, FIXED, scales, {NORM: norm})
        curves[f"fixed strength, grad_norm {norm}"] = points
    return curves


def guided(recipe: Recipe) -> list[Point]:
    """HiGFA along S_K, as two guides are compared."""
    own = recipe.guidance.classifier.scale
    return along_scales(recipe, HIGFA, [multiple * own for multiple in GUIDE_MULTIPLES])


def sweep(instruments: Instruments) -> dict[str, Any]:
    """Diversity at matched agreement, along S_K, against the fixed-strength classifier."""
    points = swept(instruments.samples.ctx.recipe)
    instruments.draw(name for curve in points.values() for _, name, _ in curve)
    higfa = instruments.score(HIGFA)

    def row(scale: float, score: Score) -> dict[str, Any]:
        diversity = rounded(higfa.diversity_against(score))
        return {"scale": scale, **score.row(), "higfa_diversity_against": diversity}

    curves = {
        title: [row(scale, instruments.score(name)) for scale, name, _ in curve]
        for title, curve in points.items()
    }
    meets = {}
    for norm in FIXED_OF_NORM:
        curve = curves[f"fixed strength, grad_norm {norm}"]
        # Without strength the fixed classifier is text + contour.
        curve.insert(0, row(0.0, instruments.score(TEXT_CONTOUR)))
        meets[norm] = matched(curve, higfa.agreement.value, higfa.distance)
    return {"curves": curves, "matched": meets}


def gap(instruments: Instruments) -> dict[str, Any]:
    """Adversarial gap against the classifier from the first step, with the same guide."""
    higfa, first = instruments.score(HIGFA), instruments.score(FIRST_STEP)
    return {
        "arms": {TITLES[FIRST_STEP]: first.row()},
        "higfa": round(float(higfa.gaps.mean()), 4),
        "first_step": round(float(first.gaps.mean()), 4),
        "difference": rounded(figures.paired(higfa.gaps, first.gaps)),
    }


def guide(instruments: Instruments) -> dict[str, Any]:
    """A guide of noised pictures against one of clean photos, each trained once, along S_K."""
    points = guided(instruments.samples.ctx.recipe)
    clean = instruments.beside("guides/clean", guide=CLEAN)
    names = [name for _, name, _ in points]
    for place in (instruments.samples, clean):
        instruments.draw(names, place)
    return {
        "guides": [
            {"scale": scale} | _against(instruments.score(name), instruments.score(name, clean))
            for scale, name, _ in points
        ]
    }


def trainings(instruments: Instruments) -> dict[str, Any]:
    """The same two guides, trained with several seeds; the bar is for their mean."""
    own = instruments.samples.ctx.recipe.seed
    pairs = [
        (instruments.score(HIGFA, noised), instruments.score(HIGFA, clean))
        for noised, clean in _trained(instruments, own)
    ]
    noised, clean = (
        torch.stack([score.hits for score in kind]) for kind in zip(*pairs, strict=True)
    )
    return {
        "difference": rounded(figures.paired(clean, noised)),
        "resampled": BOTH,
        "trainings": [
            {"seed": seed, **_against(*pair)} for seed, pair in enumerate(pairs, start=own)
        ],
    }


def _trained(instruments: Instruments, own: int) -> Iterator[tuple[Samples, Samples]]:
    """Both guides of every seed; with the recipe's own the first is the workspace's."""
    yield instruments.samples, instruments.beside("guides/clean", guide=CLEAN)
    for seed in range(own + 1, own + TRAININGS):
        yield (
            instruments.beside(f"guides/noised-seed-{seed}", guide={"seed": seed}),
            instruments.beside(f"guides/clean-seed-{seed}", guide={"seed": seed, **CLEAN}),
        )


def _against(noised: Score, clean: Score) -> dict[str, Any]:
    return {
        "noised": noised.row(),
        "clean": clean.row(),
        "difference": rounded(figures.paired(clean.hits, noised.hits)),
    }


def calibration(instruments: Instruments) -> dict[str, Any]:
    """ECE of the guide at the guided noise levels, after temperature."""
    return {"calibration": read_json(instruments.samples.ctx.ws.guide.calibration)}


def failures(instruments: Instruments) -> dict[str, Any]:
    """The worst pictures by jury; writes their picture."""
    before, score = instruments.score(TEXT_CONTOUR), instruments.score(HIGFA)
    samples = instruments.samples
    rows = strips.worst(samples, before, score)
    path = instruments.options.out / "pictures" / "worst.png"
    strips.save(strips.of_worst(samples, before, score, rows), path)
    return {"worst": rows}


PARTS: dict[str, Callable[[Instruments], dict[str, Any]]] = {
    "gain": gain,
    "calibration": calibration,
    "worst": failures,
    "gap": gap,
    "guide": guide,
    "trainings": trainings,
    "sweep": sweep,
}


def compare(options: Options, names: Sequence[str], features: Features) -> dict[str, Any]:
    """Measure the named parts (none named: all); returns what data/bars.json holds.

    Raises UserError as the stages, or for a part that is not there.
    """
    asked = known_names(names, PARTS, "--parts", "part")
    recipe = load_recipe(options.recipe).recipe
    points = [guided(recipe), *swept(recipe).values()]
    arms = {name: changes for curve in points for _, name, changes in curve}
    with open_instruments(options, SPLIT, features, arms) as instruments:
        results = Results("bars", PARTS, instruments)
        for name in asked:
            part = PARTS[name](instruments)
            results.add(name, part)
            for verdict in verdicts({name: part}):
                print(f"{verdict.figure}: {verdict.measured} - {verdict.word}", flush=True)
    return results.numbers


def main() -> None:
    """Read the command line and measure."""
    meaning = f"of {', '.join(PARTS)}; without: all"
    command(__doc__.splitlines()[0], PER_CLASS, "--parts", meaning, compare)


if __name__ == "__main__":
    main()
