"""The report's page: material (plain rows) -> one context -> HTML and Markdown."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from higfa_cli.artifacts.records import FilterCounts, SynthesisCounts
from higfa_cli.artifacts.results import ArmResult, Assessment, Calibration, Results
from higfa_cli.artifacts.seeds import seed_for
from higfa_cli.errors import UserError
from higfa_cli.recipe.arms import GALLERY, HIGFA, REAL, TEXT_CONTOUR, Changes, trained_as
from higfa_cli.recipe.schema import Recipe
from higfa_cli.report import figures, wording
from higfa_cli.report.stats import Answer, Difference, paired_difference
from higfa_cli.report.tables import (
    Arm,
    Table,
    Verbatim,
    arms_table,
    class_table,
    markdown_code,
    markdown_escape,
    markdown_table,
    number,
    significant,
)
from higfa_cli.text import inert, plural

Predictions = Mapping[str, Mapping[int, Sequence[Answer]]]

# Arm -> label of its pictures in the gallery; others are called by their name.
LABELS = {GALLERY: "text only", TEXT_CONTOUR: "text + contour", HIGFA: "HiGFA"}


@dataclass(frozen=True)
class Picture:
    """A PNG, and its path relative to the report's folder; `ours`: of the main arm."""

    label: str
    png: bytes
    path: str
    ours: bool = False

    @property
    def data_uri(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")

    @property
    def link(self) -> Verbatim:
        return Verbatim(quote(self.path.encode("utf-8", "surrogatepass")))


@dataclass(frozen=True)
class Exhibit:
    """One row of the gallery: the same class, source photo and seed, drawn in several ways."""

    id: str
    cls: str
    confidence: float | None
    pictures: tuple[Picture, ...]

    @property
    def caption(self) -> str:
        if self.confidence is None:
            return "no guide"
        return f"guide's confidence {number(self.confidence, 2)}"


@dataclass(frozen=True)
class DrawnArm:
    """One of the recipe's arms; `cost`, `device`: of its drawing. None or empty where absent."""

    name: str
    changes: Changes
    cost: SynthesisCounts | None
    device: str
    filtered: FilterCounts | None

    @property
    def change_list(self) -> str:
        """Its keys, for people."""
        changed = (f"{key} {json.dumps(value)}" for key, value in self.changes.items())
        return ", ".join(changed) or "the recipe as it stands"


@dataclass(frozen=True)
class Material:
    """Everything the report is made from; None, empty or 0 where absent.

    `contours` of `sources` photos; `left_out`: photos that were, by reason; `failed`: pictures
    that could not be drawn; `curves`, `guided`: of the main arm.
    """

    recipe: Recipe
    results: Results
    predictions: Predictions
    contours: int
    sources: int
    left_out: str
    calibration: Calibration | None
    gallery: Sequence[Exhibit]
    curves: figures.Curves | None
    failed: int
    guided: bool
    drawn: Sequence[DrawnArm]
    commands: Sequence[str]
    versions: Mapping[str, str]


def read_arms(results: Results, predictions: Predictions, seed: int) -> tuple[Arm, ...]:
    """Arms with their paired difference from the arm `real`, in the order of the results.

    Raises:
        UserError: predictions that contradict the results; arms of different test photos.
    """
    arms = []
    guessing = {arm.name for arm in results.arms if results.at_chance(arm)}
    for arm in results.arms:
        difference = None
        if results.has_test:
            _check_agreement(arm, predictions[arm.name])
            # What lies between two guesses is no result.
            if arm.name != REAL and not {REAL, arm.name} <= guessing:
                difference = _difference(predictions, REAL, arm.name, seed)
        arms.append(Arm(arm.name, arm.synthetic_images, arm.runs, difference))
    return tuple(arms)


def _difference(
    predictions: Predictions, reference: str, name: str, seed: int
) -> Difference | None:
    """Arm `name` minus arm `reference`, paired; None where one of them was not tested."""
    if not {reference, name} <= predictions.keys():
        return None
    versus = () if reference == REAL else (reference,)
    rng_seed = seed_for("report", "bootstrap", seed, name, *versus)
    return paired_difference(predictions[reference], predictions[name], rng_seed)


def _check_agreement(arm: ArmResult, predictions: Mapping[int, Sequence[Answer]]) -> None:
    for run in arm.runs:
        rows = predictions[run.seed]
        accuracy = sum(p.correct for p in rows) / max(len(rows), 1)
        if run.test_accuracy is None or abs(accuracy - run.test_accuracy) > 5e-4:
            raise UserError(
                f"arm {arm.name}, seed {run.seed}: its predictions give test accuracy "
                f"{accuracy:.4f}, the results {number(run.test_accuracy, 4)}; "
                "train again: higfa train-downstream RECIPE --force"
            )


def calibration_table(calibration: Calibration) -> Table:
    """Expected calibration error per noise level, before and after the temperature."""

    def row(name: str, progress: float | None, level: Assessment) -> tuple[str, ...]:
        errors = (number(level.ece_before, 3), number(level.ece_after, 3))
        return (name, number(progress, 2), *errors, number(100 * level.accuracy))

    rows = [row(number(level.sigma, 3), level.progress, level) for level in calibration.levels]
    source = "validation photos" if calibration.source == "val" else calibration.source
    return Table(
        f"Expected calibration error (ECE, 0 is perfect) of the guide on {source} taken through "
        "noise, denoiser and decoder, before and after dividing logits by "
        f"T = {calibration.temperature:.3f} ({plural(calibration.clean.count, 'photo')}).",
        ("Noise level σ", "Progress u", "ECE before", "ECE after", "Accuracy, %"),
        [*rows, row("clean photos", None, calibration.clean)],
    )


def cost_table(drawn: Sequence[DrawnArm]) -> Table | None:
    """Cost of the sampling by arm, without loading models; None where nothing was drawn."""
    costs = [(arm.name, arm.cost, arm.device) for arm in drawn if arm.cost is not None]
    made = dict.fromkeys(
        f"{cost.images:,} pictures on {device} in {cost.dtype}, batches of {cost.batch_size}"
        for _, cost, device in costs
    )
    rows = [
        (
            name,
            significant(cost.seconds_per_image),
            significant(cost.denoiser_evaluations_per_image),
            significant(cost.guide_evaluations_per_image),
        )
        for name, cost, _ in costs
    ]
    titles = ("Arm", "Seconds", "Denoiser evaluations", "Guide evaluations")
    return Table(f"Per picture; {'; '.join(made)}.", titles, rows) if rows else None


def page_context(material: Material) -> dict[str, Any]:
    """All that the templates show; sections without material carry None and a reason."""
    results, recipe, calibration = material.results, material.recipe, material.calibration
    test, curves = results.has_test, material.curves
    arms = read_arms(results, material.predictions, recipe.seed)
    arm = wording.main_arm(arms)
    no_result, by_class = results.worthless, None
    guessing = {a.name for a in results.arms if results.at_chance(a)}
    if arm and no_result is None and {REAL, arm.name} <= guessing:
        no_result = f"Neither {REAL} nor {arm.name} is better than chance, so no difference counts"
    if arm and arm.difference:
        reference, other = (
            {s: material.predictions[name][s] for s in arm.difference.seeds}
            for name in (REAL, arm.name)
        )
        by_class = class_table(reference, other, arm.name)
    guide_alone, pair = None, (trained_as(TEXT_CONTOUR), wording.HIGFA)
    if not guessing.issuperset(pair):
        guide_alone = _difference(material.predictions, *pair, recipe.seed)
    facts = vars(material) | {
        "arms": arms,
        "arm": arm,
        "test": test,
        "chosen_by": results.chosen_by,
        "notes": results.notes,
        "filter": wording.filter_rules(recipe.filter),
        "difference": guide_alone,
        "cross_validated": calibration is not None and calibration.source == "cross-validation",
        "guessing": arm is not None and {REAL, arm.name} <= guessing,
        "worthless": [*filter(None, [calibration and calibration.worthless, no_result])],
        "missing": {a.name: len(a.missing_classes) for a in results.arms if a.missing_classes},
    }
    return facts | {
        "headline": wording.headline(arms, test, no_result),
        "control": wording.sentences("control", **facts),
        "arms_table": arms_table(arms, test),
        "bars": figures.interval_bars([a.difference for a in arms]),
        "class_table": by_class,
        "method": wording.sentences("method", **facts),
        "picture_labels": [p.label for row in material.gallery[:1] for p in row.pictures],
        "charts": [figures.chart(c, curves) for c in curves.curves] if curves else [],
        "curves_table": figures.curves_table(curves) if curves else None,
        "calibration": calibration_table(calibration) if calibration else None,
        "cost": cost_table(material.drawn),
        "filtered": [
            f"{drawn.name}: {sentence}"
            for drawn in material.drawn
            if drawn.filtered is not None
            for sentence in wording.sentences("filter", counts=drawn.filtered)
        ],
        "settings": [line.split(": ", 1) for line in wording.sentences("settings", **facts)],
        "limits": wording.sentences("limits", **facts),
    }


def render_html(context: Mapping[str, object]) -> str:
    env = wording.environment(autoescape=True, finalize=_finalize_html)
    env.globals.update(
        width=figures.WIDTH,
        height=figures.HEIGHT,
        chart_left=figures.LEFT,
        chart_right=figures.WIDTH - figures.RIGHT,
        chart_top=figures.TOP,
        chart_bottom=figures.HEIGHT - figures.BOTTOM,
    )
    return env.get_template("report.html.j2").render(context)


def render_markdown(context: Mapping[str, object]) -> str:
    # Escaping in `finalize` covers every expression, so that a template cannot forget it.
    env = wording.environment(autoescape=False, finalize=_finalize_markdown)
    env.filters.update(table=markdown_table, code=markdown_code)
    return env.get_template("report.md.j2").render(context)


def _finalize_html(value: Any) -> Any:
    # Autoescaping makes markup text; this does the same for control and direction characters.
    if isinstance(value, str) and not isinstance(value, Markup):
        return "\n".join(inert(line) for line in value.split("\n"))
    return value


def _finalize_markdown(value: Any) -> str:
    return str(value) if isinstance(value, Verbatim) else markdown_escape(str(value))
