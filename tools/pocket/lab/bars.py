"""The bars for the method: HiGFA against what it is made of, on train contours, same seeds.

    python -m tools.pocket.lab.bars --workspace DIR --out OUT [--parts gain ...]

Writes bars.json, bars.md and pictures/worst.png to OUT after every part. Run again to
resume: what was drawn or trained is read from the workspace, and parts that were measured before
under the same recipe, guide, judges and contours stay in the page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from higfa_cli.artifacts.atomic import read_json, write_json, write_text
from higfa_cli.errors import UserError
from tools.pocket.lab import figures, guides, strips, worst
from tools.pocket.lab.bench import (
    Bench,
    Features,
    Request,
    command,
    open_bench,
    start_results,
)
from tools.pocket.lab.draw import FIRST_STEP, FIXED, HIGFA, TEXT_CONTOUR, Arm
from tools.pocket.lab.features import NAME as FEATURES
from tools.pocket.lab.guides import SCALE
from tools.pocket.lab.scores import Score, bar, maybe, percent, rounded

PER_CLASS = 30
SPLIT = "train"

# Bars, as shares.
GAIN, LOST_DIVERSITY, ECE = 0.05, 0.02, 0.05
# S_K of the sweeps: multiples of the recipe's where the gradient is the same, plain numbers for
# the other grad_norm.
HIGFA_MULTIPLES = (0.25, 1.0)
FIXED_MULTIPLES = (0.25, 0.5, 1.0, 2.0)
FIXED_OF_NORM: dict[str, tuple[float, ...]] = {
    "none": (5.0, 10.0, 20.0, 60.0),
    "rms": (0.5, 1.0, 2.0, 4.0),
}
NORM = "guidance.classifier.grad_norm"


def gain(request: Request, bench: Bench) -> dict[str, Any]:
    """HiGFA minus text + transformed contour."""
    before, after = bench.measure(TEXT_CONTOUR), bench.measure(HIGFA)
    difference = figures.paired(before.hits, after.hits)
    reached = difference.value >= GAIN and difference.low > 0
    return {
        "bars": [
            bar(
                "HiGFA minus text + contour, judge agreement",
                f"at least {100 * GAIN:+.0f} points, 95 % interval above 0",
                f"{percent(difference)} points",
                reached,
            )
        ],
        "arms": {TEXT_CONTOUR.name: before.row(), HIGFA.name: after.row()},
        "difference": rounded(difference),
        "diversity_of_higfa_against_text_contour": rounded(after.diversity_against(before)),
    }


def sweep(request: Request, bench: Bench) -> dict[str, Any]:
    """Diversity at matched agreement, along S_K, against the fixed-strength classifier."""
    own = bench.setting.ctx.recipe.guidance.classifier
    higfa = bench.measure(HIGFA)
    curves: dict[str, list[dict[str, Any]]] = {
        "HiGFA": [_point(bench, HIGFA, {SCALE: m * own.scale}, higfa) for m in HIGFA_MULTIPLES]
    }
    bars = []
    for norm, scales in FIXED_OF_NORM.items():
        if norm == own.grad_norm:
            scales = tuple(m * own.scale for m in FIXED_MULTIPLES)
        # Without strength the fixed classifier is text + contour.
        start = _row(0.0, bench.measure(TEXT_CONTOUR), higfa)
        points = [_point(bench, FIXED, {SCALE: s, NORM: norm}, higfa) for s in scales]
        curves[f"fixed strength, grad_norm {norm}"] = [start, *points]
        bars.append(matched(norm, [start, *points], higfa.agreement.value, higfa.distance))
    return {"bars": bars, "curves": curves}


def matched(
    norm: str, points: Sequence[Mapping[str, Any]], agreement: float, distance: float
) -> dict[str, Any]:
    """The bar of diversity at HiGFA's agreement, read off a sweep's points in order of S_K."""
    found = distance_at([(p["agreement"][0], p["distance"]) for p in points], agreement)
    best = max(points, key=lambda point: point["agreement"][0])
    if found is not None:
        other, told = found, "at HiGFA's agreement"
    elif best["agreement"][0] < agreement:
        other = best["distance"]
        told = (
            f"HiGFA's agreement is out of its reach; at its best, S_K {best['scale']:g} with "
            f"{100 * best['agreement'][0]:.1f} %"
        )
    else:
        other, told = None, "not comparable: the fixed classifier agrees more at every S_K"
    change = None if other is None else distance / other - 1
    return bar(
        f"HiGFA's diversity against fixed strength (grad_norm {norm}) at matched agreement",
        f"no worse than {100 * LOST_DIVERSITY:.0f} %",
        told if change is None else f"{100 * change:+.1f} % ({told})",
        None if change is None else change >= -LOST_DIVERSITY,
    )


def distance_at(curve: Sequence[tuple[float, float]], agreement: float) -> float | None:
    """Distance where a curve of (agreement, distance) first meets an agreement, interpolated.

    None where it never does.
    """
    for (a, d), (b, e) in pairwise(curve):
        if min(a, b) <= agreement <= max(a, b):
            share = 0.0 if a == b else (agreement - a) / (b - a)
            return d + share * (e - d)
    return None


def _point(bench: Bench, arm: Arm, settings: Mapping[str, Any], higfa: Score) -> dict[str, Any]:
    name = f"{arm.name}, " + ", ".join(
        f"{key.rpartition('.')[2]} {value}" for key, value in settings.items()
    )
    score = bench.measure(Arm(name, {**arm.settings, **settings}))
    return _row(settings[SCALE], score, higfa)


def _row(scale: float, score: Score, higfa: Score) -> dict[str, Any]:
    return {
        "scale": scale,
        **score.row(),
        "higfa_diversity_against": rounded(higfa.diversity_against(score)),
    }


def gap(request: Request, bench: Bench) -> dict[str, Any]:
    """Adversarial gap against the classifier from the first step, with the same guide."""
    higfa, first = bench.measure(HIGFA), bench.measure(FIRST_STEP)
    difference = figures.paired(higfa.gaps, first.gaps)
    measured = (
        f"{100 * float(higfa.gaps.mean()):.1f} against {100 * float(first.gaps.mean()):.1f} "
        f"points; difference {percent(difference)}"
    )
    return {
        "bars": [
            bar(
                "Adversarial gap of HiGFA against classifier from the first step",
                "smaller",
                measured,
                difference.value > 0,
            )
        ],
        "arms": {FIRST_STEP.name: first.row()},
        "difference": rounded(difference),
    }


def guide(request: Request, bench: Bench) -> dict[str, Any]:
    """A guide of noised pictures against one of clean photos, along S_K."""
    return guides.along_scales(request, bench, SPLIT)


def trainings(request: Request, bench: Bench) -> dict[str, Any]:
    """The same two guides, each trained several times."""
    return guides.trained_again(request, bench, SPLIT)


def calibration(request: Request, bench: Bench) -> dict[str, Any]:
    """ECE of the guide at the guided noise levels, after temperature."""
    path = bench.setting.ctx.stage_dir("finetune-guide") / "calibration.json"
    about = read_json(path)
    ece = about["overall"]["ece_after"]
    return {
        "bars": [
            bar(
                f"ECE of the guide at the guided noise levels after temperature "
                f"({about['source']})",
                f"at most {ECE}",
                f"{ece:.3f} (before: {about['overall']['ece_before']:.3f})",
                ece <= ECE,
            )
        ],
        "calibration": about,
    }


def failures(request: Request, bench: Bench) -> dict[str, Any]:
    """The worst pictures by jury; writes their picture."""
    before, score = bench.measure(TEXT_CONTOUR), bench.measure(HIGFA)
    rows = worst.describe(bench, before, score)
    path = request.docs / "pictures" / "worst.png"
    strips.save(worst.picture(bench, before, score, rows), path)
    return {"bars": [], "worst": rows}


Part = Callable[[Request, Bench], dict[str, Any]]
PARTS: dict[str, Part] = {
    "gain": gain,
    "calibration": calibration,
    "worst": failures,
    "gap": gap,
    "guide": guide,
    "trainings": trainings,
    "sweep": sweep,
}


def compare(request: Request, names: Sequence[str], features: Features) -> dict[str, Any]:
    """Measure the named parts (none named: all); returns what bars.json holds.

    Raises UserError as the stages, or for a part that is not there.
    """
    if unknown := [name for name in names if name not in PARTS]:
        raise UserError(f"--parts {unknown[0]}: no such part; parts are {', '.join(PARTS)}")
    path = request.out / "bars.json"
    with open_bench(request, SPLIT, features) as bench:
        results = start_results(path, request, bench, SPLIT)
        for name in names or PARTS:
            results["parts"][name] = PARTS[name](request, bench)
            write_json(path, results)
            write_text(request.docs / "bars.md", page(results))
            for row in results["parts"][name]["bars"]:
                print(f"{row['figure']}: {row['measured']} - {_word(row['reached'])}", flush=True)
    return results


def page(results: Mapping[str, Any]) -> str:
    """docs/bars.md: bars, arms, sweeps and failures that have been measured."""
    parts = [results["parts"][name] for name in PARTS if name in results["parts"]]
    lines = [
        "# The method against its bars",
        "",
        "Written by `python -m tools.pocket.lab.bars`; do not edit.",
        "",
        f"`{results['recipe']}`, {results['steps']} steps, contours of {results['split']} photos: "
        f"{results['pictures']} pictures per arm ({results['per_class']} of each of "
        f"{results['classes']} classes), recipe seed {results['seed']}. All arms have the same "
        "contours and the same initial noise; brackets hold 95 % bootstrap intervals, of "
        "differences picture by picture. Agreement: share of pictures whose class the jury names "
        "first. Gap: the guide's mean confidence on the finished picture minus agreement. "
        f"Diversity: intra-class cosine distance in {FEATURES}. Edges: overlap of the "
        "picture's edges with the asked contour (Jaccard index, one pixel tolerance). "
        f"Seconds: per picture and process, drawn by {results['device']}. "
        f"The recipe: {results['constants']}.",
        "",
        "| figure | bar | measured | |",
        "| --- | --- | --- | --- |",
    ]
    for row in (row for part in parts for row in part["bars"]):
        told = _word(row["reached"])
        lines.append(f"| {row['figure']} | {row['bar']} | {row['measured']} | {told} |")
    arms = {name: row for part in parts for name, row in part.get("arms", {}).items()}
    if arms:
        lines += ["", "## Arms", "", *_arms(arms)]
    if "sweep" in results["parts"]:
        lines += ["", "## Along S_K", "", *_curves(results["parts"]["sweep"]["curves"])]
    if "guide" in results["parts"]:
        rows = results["parts"]["guide"]["guides"]
        title = "## A guide of noised pictures against one of clean photos"
        lines += ["", title, "", *guides.scales_table(rows)]
    if "trainings" in results["parts"]:
        part = results["parts"]["trainings"]
        lines += ["", "## The same, trained again", "", *guides.trainings_table(part)]
    if "worst" in results["parts"]:
        rows = results["parts"]["worst"]["worst"]
        lines += ["", f"## The {len(rows)} worst HiGFA pictures", "", *_failures(rows)]
    return "\n".join(lines) + "\n"


def _word(reached: bool | None) -> str:
    return {True: "reached", False: "MISSED", None: "not comparable"}[reached]


def _arms(arms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = [
        "| arm | agreement, % | log p | guide p | gap | distance | edges | failed | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in arms.items():
        lines.append(
            f"| {name} | {percent(row['agreement'])} | {row['mean_log_p']:.2f} | "
            f"{maybe(row['guide_p'])} | {maybe(row['gap'])} | {row['distance']:.3f} | "
            f"{row['edges']:.3f} | {row['failed']} | {row['seconds_per_picture']:.2f} |"
        )
    return lines


def _curves(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    lines = [
        "The last column: HiGFA's distance (at the recipe's S_K) relative to the row's, in %. At "
        "S_K 0 fixed strength is text + contour. Diversity at matched agreement is interpolated "
        "linearly where a curve first meets HiGFA's agreement.",
        "",
        "| arm | S_K | agreement, % | log p | gap | distance | HiGFA against it, % |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, points in curves.items():
        for row in points:
            lines.append(
                f"| {name} | {row['scale']:g} | {percent(row['agreement'])} | "
                f"{row['mean_log_p']:.2f} | {maybe(row['gap'])} | {row['distance']:.3f} | "
                f"{percent(row['higfa_diversity_against'])} |"
            )
    return lines


def _failures(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        "Those with the lowest jury log p of their class. The guide is content from a confidence "
        f"of {worst.CONTENT} on.",
        "",
        "![the worst pictures](pictures/worst.png)",
        "",
        *worst.table(rows),
    ]


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
