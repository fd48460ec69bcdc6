"""Sentences of the report that depend on the numbers: the verdict, its method, the limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from higfa_cli.artifacts.records import FilterCounts
from higfa_cli.artifacts.rows import PictureFault
from higfa_cli.recipe.arms import HIGFA as METHOD
from higfa_cli.recipe.arms import TEXT_CONTOUR, trained_as
from higfa_cli.recipe.classifiers import Filter
from higfa_cli.report.bootstrap import RESAMPLES
from higfa_cli.report.stats import FEWEST_SEEDS, Difference
from higfa_cli.report.tables import REFERENCE, Arm, interval_text, number
from higfa_cli.text import plural

HIGFA = trained_as(METHOD)
FEW_IMAGES = 100

_BEST_ON = (
    "The checkpoint of each training is the one best on {}; "
    "the test photos were read once, by that checkpoint."
)
CHOSEN_BY = {
    "val": _BEST_ON.format("the validation photos"),
    "last": "No photos were kept aside for validation, so each training's last checkpoint is "
    "used; the test photos were read once.",
}


REJECTED: dict[PictureFault, str] = {
    "confidence": "below the guide's confidence",
    "top_k": "not among the guide's first choices",
    "best_of": "less sure than another picture of the same photo",
    "duplicate": "too close to the source photo",
    "constant": "nearly uniform",
}


@dataclass(frozen=True)
class Headline:
    kind: Literal["helped", "hurt", "no-evidence", "none"]
    word: str
    sentence: str


def pictures_of(arm: Arm) -> str:
    return "HiGFA's pictures" if arm.name == HIGFA else f"the pictures of {arm.name}"


def main_arm(arms: Sequence[Arm]) -> Arm | None:
    """The arm that the verdict is about: HiGFA's, or the first one with added pictures."""
    added = [arm for arm in arms if arm.name != REFERENCE]
    return next((arm for arm in added if arm.name == HIGFA), added[0] if added else None)


def headline(arms: Sequence[Arm], test: bool) -> Headline:
    arm = main_arm(arms)
    if arm is None:
        text = f"Only the arm {REFERENCE} was trained, so there is nothing to compare it with."
        return Headline("none", "No verdict", text)
    if not test:
        text = "The data has no test split, and the photos that chose the checkpoints cannot judge."
        return Headline("none", "No verdict is possible", text)
    d = arm.difference
    if d is None:
        text = f"The arms {REFERENCE} and {arm.name} share no training seed."
        return Headline("none", "No verdict", text)
    span = f"95 % interval {number(d.low, sign=True)} to {number(d.high, sign=True)}"
    basis = f"{span}; {plural(len(d.seeds), 'seed')}, {plural(d.images, 'test photo')}"
    points, what = number(abs(d.points)), pictures_of(arm)
    change = number(d.points, sign=True)
    if d.verdict == "no verdict":
        count = {1: "One seed", 2: "Two seeds"}[len(d.seeds)]
        text = f"With {what}, test accuracy changed by {change} points ({basis})."
        return Headline("none", f"{count}: no verdict", text)
    if d.verdict == "helped":
        text = f"With {what}, test accuracy rose by {points} points ({basis})."
        return Headline("helped", "Helped", text)
    if d.verdict == "hurt":
        text = f"With {what}, test accuracy fell by {points} points ({basis})."
        return Headline("hurt", "Hurt", text)
    text = (
        f"With {what}, test accuracy changed by {change} points, "
        f"which these photos and seeds cannot tell from zero ({basis})."
    )
    return Headline("no-evidence", "No evidence", text)


def control_sentence(d: Difference | None) -> str | None:
    """What the guide alone is worth: HiGFA's pictures against those of text and contour."""
    if d is None:
        return None
    return (
        f"{HIGFA} minus {trained_as(TEXT_CONTOUR)}, from the same contours and seeds: "
        f"{interval_text(d)} points [95 %], paired over {plural(len(d.seeds), 'seed')} and "
        f"{plural(d.images, 'test photo')}. How the two differ stands under the settings."
    )


def verdict_method(arm: Arm | None, test: bool, chosen_by: str) -> tuple[str, ...]:
    """How the verdict came about, sentence by sentence."""
    chosen = CHOSEN_BY.get(chosen_by, _BEST_ON.format(chosen_by))
    if not test:
        return (
            "There is no test split, so no verdict is possible. The table shows accuracy on the "
            "validation photos, which is optimistic.",
        )
    if arm is None:
        return ("There is one arm only, so no verdict can be made.", chosen)
    d = arm.difference
    if d is None:
        return ("The arms share no training seed, so they cannot be paired.", chosen)
    return (
        f"{arm.name} is compared with {REFERENCE}, paired over training seeds and over test "
        f"photos: for each photo and seed, whether one arm is right where the other is wrong, "
        f"averaged over {plural(len(d.seeds), 'seed')}. "
        f"The {plural(d.images, 'photo')} are then drawn again with replacement {RESAMPLES:,} "
        f"times (seeded){_luck(d)}; the interval holds the central 95 % of the resampled "
        "differences.",
        "Helped: the interval lies wholly above zero. Hurt: wholly below. Otherwise: no evidence. "
        f"Below {FEWEST_SEEDS} training seeds there is no verdict.",
        f"n = {plural(d.images, 'test photo')}, of which {d.changed:,} were judged differently by "
        f"the two arms in at least one seed. Difference by seed: {_by_seed(d)}.",
        chosen,
    )


def _luck(d: Difference) -> str:
    """What the interval makes of the luck of training."""
    if len(d.seeds) == 1:
        return ""
    return (
        f", and each time the luck of training is added: a draw of Student's t with "
        f"{len(d.seeds) - 1} degrees of freedom, times the standard error of the seeds' differences"
    )


def _by_seed(d: Difference) -> str:
    pairs = zip(d.seeds, d.per_seed, strict=True)
    return ", ".join(f"{number(points, sign=True)} (seed {seed})" for seed, points in pairs)


def filter_sentence(counts: FilterCounts) -> str:
    """How many drawn pictures may train, and why the others may not."""
    pictures, kept = counts.pictures, counts.kept
    if kept == pictures:
        return f"The filter kept all {plural(pictures, 'drawn picture')}."
    rejected = {reason: n for reason in REJECTED if (n := counts.rejected.get(reason, 0))}
    reasons = ", ".join(f"{count:,} {REJECTED[reason]}" for reason, count in rejected.items())
    several = " (some for more than one reason)" if sum(rejected.values()) > pictures - kept else ""
    return (
        f"The filter kept {kept:,} of {plural(pictures, 'drawn picture')} and left "
        f"{pictures - kept:,} out of training{several}: {reasons}."
    )


def filter_rules(rules: Filter) -> str:
    """What the recipe's filter asks of a picture."""
    asked = {
        f"confidence ≥ {rules.confidence:g}": rules.confidence > 0,
        f"among the guide's first {rules.top_k}": rules.top_k is not None,
        f"best of {rules.best_of}": rules.best_of > 1,
        f"correlation with the source photo < {rules.duplicate}": rules.duplicate is not None,
        f"standard deviation ≥ {rules.constant:g}": rules.constant > 0,
    }
    return ", ".join(text for text, used in asked.items() if used) or "none"


def limits(
    arms: Sequence[Arm],
    test: bool,
    *,
    cross_validated: bool,
    failed: int,
    missing: Mapping[str, int],
    gallery: bool,
    confident: bool,
) -> tuple[str, ...]:
    """What the numbers above do not say."""
    sentences: list[str] = []
    arm = main_arm(arms)
    d = arm.difference if arm else None
    if d is not None:
        if len(d.seeds) == 1:
            sentences.append(
                "The interval covers the choice of test photos, not the luck of training."
            )
        if len(d.seeds) < FEWEST_SEEDS:
            sentences.append(
                f"A verdict takes at least {FEWEST_SEEDS} training seeds (`downstream.seeds`)."
            )
        if min(d.per_seed) < 0 < max(d.per_seed):
            sentences.append(
                "The seeds disagree: the difference is above zero in some, below in others."
            )
        if d.images < FEW_IMAGES:
            sentences.append(
                f"With {d.images} test photos the interval is rough, and likely too narrow."
            )
    if sum(arm.name != REFERENCE for arm in arms) > 1:
        sentences.append(
            "Intervals are per arm; they are not corrected for comparing several arms."
        )
    if test:
        sentences.append(
            "A test split that is read again after every change of the recipe stops being a test; "
            "the verdict then looks better than it is."
        )
    if cross_validated:
        sentences.append(
            "The guide was calibrated by cross-validation, for lack of a validation split."
        )
    for name, count in missing.items():
        sentences.append(f"{name}: no synthetic picture of {count:,} of the classes.")
    if failed:
        sentences.append(f"{plural(failed, 'picture')} failed to draw and took no part.")
    if gallery:
        sentences.append(
            "The gallery is a handful of pictures drawn by lot over the classes, not picked by "
            "eye; it shows what the sampler does, not how often."
        )
    if confident:
        sentences.append(
            "The guide's confidence is in the asked class and was itself pushed up by guidance, "
            "so it does not measure whether a picture shows that class."
        )
    sentences.append("The results hold for this data, this backbone and this recipe.")
    return tuple(sentences)
