"""The bars for the method: HiGFA against what it is made of, on train contours, same seeds.

    python -m tools.pocket.lab.bars --workspace DIR --out OUT [--parts gain ...]

Writes data/bars.json, the page bars.md and pictures/worst.png to OUT after every part. Run again to
resume: what was drawn or trained is read from the workspace, and parts that were measured before
under the same recipe, guide, judges and contours stay in the page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from higfa_cli.artifacts.atomic import read_json
from tools.pocket.lab import figures, guides, strips, worst
from tools.pocket.lab.arms import FIRST_STEP, FIXED, HIGFA, TEXT_CONTOUR, Arm
from tools.pocket.lab.guides import SCALE
from tools.pocket.lab.laboratory import (
    Features,
    Instruments,
    Results,
    known_names,
    open_instruments,
)
from tools.pocket.lab.options import Options, command
from tools.pocket.lab.scores import Score, rounded
from tools.pocket.lab.thresholds import matched, verdicts

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


def gain(options: Options, instruments: Instruments) -> dict[str, Any]:
    """HiGFA minus text + transformed contour."""
    before, after = instruments.score(TEXT_CONTOUR), instruments.score(HIGFA)
    return {
        "arms": {TEXT_CONTOUR.name: before.row(), HIGFA.name: after.row()},
        "difference": rounded(figures.paired(before.hits, after.hits)),
        "diversity_of_higfa_against_text_contour": rounded(after.diversity_against(before)),
    }


def sweep(options: Options, instruments: Instruments) -> dict[str, Any]:
    """Diversity at matched agreement, along S_K, against the fixed-strength classifier."""
    own = instruments.samples.ctx.recipe.guidance.classifier
    higfa = instruments.score(HIGFA)
    curves: dict[str, list[dict[str, Any]]] = {
        "HiGFA": [
            _point(instruments, HIGFA, {SCALE: m * own.scale}, higfa) for m in HIGFA_MULTIPLES
        ]
    }
    meets = {}
    for norm, scales in FIXED_OF_NORM.items():
        if norm == own.grad_norm:
            scales = tuple(m * own.scale for m in FIXED_MULTIPLES)
        # Without strength the fixed classifier is text + contour.
        start = _row(0.0, instruments.score(TEXT_CONTOUR), higfa)
        points = [_point(instruments, FIXED, {SCALE: s, NORM: norm}, higfa) for s in scales]
        curves[f"fixed strength, grad_norm {norm}"] = [start, *points]
        meets[norm] = matched([start, *points], higfa.agreement.value, higfa.distance)
    return {"curves": curves, "matched": meets}


def _point(
    instruments: Instruments, arm: Arm, settings: Mapping[str, Any], higfa: Score
) -> dict[str, Any]:
    name = f"{arm.name}, " + ", ".join(
        f"{key.rpartition('.')[2]} {value}" for key, value in settings.items()
    )
    score = instruments.score(Arm(name, {**arm.settings, **settings}))
    return _row(settings[SCALE], score, higfa)


def _row(scale: float, score: Score, higfa: Score) -> dict[str, Any]:
    return {
        "scale": scale,
        **score.row(),
        "higfa_diversity_against": rounded(higfa.diversity_against(score)),
    }


def gap(options: Options, instruments: Instruments) -> dict[str, Any]:
    """Adversarial gap against the classifier from the first step, with the same guide."""
    higfa, first = instruments.score(HIGFA), instruments.score(FIRST_STEP)
    return {
        "arms": {FIRST_STEP.name: first.row()},
        "higfa": round(float(higfa.gaps.mean()), 4),
        "first_step": round(float(first.gaps.mean()), 4),
        "difference": rounded(figures.paired(higfa.gaps, first.gaps)),
    }


def guide(options: Options, instruments: Instruments) -> dict[str, Any]:
    """A guide of noised pictures against one of clean photos, along S_K."""
    return guides.along_scales(options, instruments, SPLIT)


def trainings(options: Options, instruments: Instruments) -> dict[str, Any]:
    """The same two guides, each trained several times."""
    return guides.trained_again(options, instruments, SPLIT)


def calibration(options: Options, instruments: Instruments) -> dict[str, Any]:
    """ECE of the guide at the guided noise levels, after temperature."""
    path = instruments.samples.ctx.stage_dir("finetune-guide") / "calibration.json"
    return {"calibration": read_json(path)}


def failures(options: Options, instruments: Instruments) -> dict[str, Any]:
    """The worst pictures by jury; writes their picture."""
    before, score = instruments.score(TEXT_CONTOUR), instruments.score(HIGFA)
    rows = worst.describe(instruments, before, score)
    path = options.out / "pictures" / "worst.png"
    strips.save(worst.picture(instruments, before, score, rows), path)
    return {"worst": rows}


Part = Callable[[Options, Instruments], dict[str, Any]]
PARTS: dict[str, Part] = {
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
    with open_instruments(options, SPLIT, features) as instruments:
        results = Results("bars", PARTS, options, instruments, SPLIT)
        for name in asked:
            part = PARTS[name](options, instruments)
            results.add(name, part)
            for verdict in verdicts({name: part}):
                print(f"{verdict.figure}: {verdict.measured} - {verdict.word}", flush=True)
    return results.numbers


def main() -> None:
    """Read the command line and measure."""
    command(
        __doc__.splitlines()[0],
        PER_CLASS,
        "--parts",
        f"of {', '.join(PARTS)}; without: all",
        compare,
    )


if __name__ == "__main__":
    main()
