"""The report's page: material (plain rows) -> one context -> HTML and Markdown."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from markupsafe import Markup

from higfa_cli.artifacts.records import FilterCounts, SynthesisCounts
from higfa_cli.artifacts.results import ArmResult, Assessment, Calibration, Results
from higfa_cli.artifacts.seeds import seed_for
from higfa_cli.errors import UserError
from higfa_cli.recipe.arms import GALLERY, HIGFA, TEXT_CONTOUR, Changes, trained_as
from higfa_cli.recipe.schema import Recipe
from higfa_cli.report import figures, wording
from higfa_cli.report.stats import Difference, Prediction, paired_difference
from higfa_cli.report.tables import (
    REFERENCE,
    Arm,
    Column,
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
from higfa_cli.text import inert

if TYPE_CHECKING:
    from jinja2 import Environment

Predictions = Mapping[str, Mapping[int, Sequence[Prediction]]]

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

    `contours` of `sources` photos; `failed`: pictures that could not be drawn; `curves`, `guided`:
    of the main arm.
    """

    recipe: Recipe
    results: Results
    predictions: Predictions
    contours: int
    sources: int
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
    for arm in results.arms:
        difference = None
        if results.has_test:
            _check_agreement(arm, predictions[arm.name])
            if arm.name != REFERENCE:
                difference = _difference(predictions, REFERENCE, arm.name, seed)
        arms.append(Arm(arm.name, arm.synthetic_images, arm.runs, difference))
    return tuple(arms)


def _difference(
    predictions: Predictions, reference: str, name: str, seed: int
) -> Difference | None:
    """Arm `name` minus arm `reference`, paired; None where one of them was not tested."""
    if not {reference, name} <= predictions.keys():
        return None
    versus = () if reference == REFERENCE else (reference,)
    rng_seed = seed_for("report", "bootstrap", seed, name, *versus)
    return paired_difference(predictions[reference], predictions[name], rng_seed)


def _check_agreement(arm: ArmResult, predictions: Mapping[int, Sequence[Prediction]]) -> None:
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
        return (
            name,
            number(progress, 2),
            number(level.ece_before, 3),
            number(level.ece_after, 3),
            number(100 * level.accuracy),
        )

    rows = [row(number(level.sigma, 3), level.progress, level) for level in calibration.levels]
    rows.append(row("clean photos", None, calibration.clean))
    source = "validation photos" if calibration.source == "val" else calibration.source
    temperature = f"{calibration.temperature:.3f}"
    return Table(
        f"Expected calibration error (ECE, 0 is perfect) of the guide on {source} taken through "
        f"noise, denoiser and decoder, before and after dividing logits by T = {temperature}.",
        (
            Column("Noise level σ", False),
            Column("Progress u"),
            Column("ECE before"),
            Column("ECE after"),
            Column("Accuracy, %"),
        ),
        tuple(rows),
    )


def cost_table(drawn: Sequence[DrawnArm]) -> Table | None:
    """Cost of the sampling by arm, without loading models; None where nothing was drawn."""
    costs = [(arm.name, arm.cost, arm.device) for arm in drawn if arm.cost is not None]
    if not costs:
        return None
    made = dict.fromkeys(
        f"{cost.images:,} pictures on {device} in {cost.dtype}, batches of {cost.batch_size}"
        for _, cost, device in costs
    )
    titles = ("Seconds", "Denoiser evaluations", "Guide evaluations")
    rows = tuple(
        (
            name,
            significant(cost.seconds_per_image),
            significant(cost.denoiser_evaluations_per_image),
            significant(cost.guide_evaluations_per_image),
        )
        for name, cost, _ in costs
    )
    columns = (Column("Arm", False), *(Column(title) for title in titles))
    return Table(f"Per picture; {'; '.join(made)}.", columns, rows)


def settings_table(material: Material) -> Table:
    """The recipe's choices that the results depend on most."""
    recipe, counts = material.recipe, material.results.counts.plain()
    sampling, text, contour = recipe.sampling, recipe.guidance.text, recipe.guidance.contour
    k = recipe.guidance.classifier
    switch = f"u ≥ {k.switch:g}" if k.switch_sigma is None else f"σ ≤ {k.switch_sigma:g}"
    splits = ", ".join(f"{count:,} {split}" for split, count in counts.items() if count)
    contours = f"{material.contours:,} of {material.sources:,} photos"
    rows = [
        ("Recipe", recipe.name),
        (
            "Recipe seed; training seeds",
            f"{recipe.seed}; {_list(recipe.downstream.seeds)}",
        ),
        ("Classes", f"{len(material.results.classes):,}"),
        ("Photos", splits or "not recorded"),
        ("Contours", contours if material.contours else "none"),
        ("Contour extractor", recipe.contours.extractor),
        (
            "Sampler",
            f"{sampling.scheduler}, {sampling.steps} steps, {recipe.size} px, "
            f"{recipe.guidance.composition}",
        ),
        ("Models", f"{recipe.model.base}; {recipe.model.controlnet}"),
        ("Text strength S_T, floor", f"{text.scale:g}, {text.floor:g}"),
        ("Contour strength S_C, floor", f"{contour.scale:g}, {contour.floor:g}"),
        (
            "Classifier strength S_K, exponent, switch",
            f"{k.scale:g}, {k.gamma:g}, {switch}; gradient {k.gradient}, norm {k.grad_norm}, "
            f"modulation {k.modulation}",
        ),
        ("Guide backbone", recipe.guide.backbone),
        ("Filter", wording.filter_rules(recipe.filter)),
        *((f"Arm {arm.name}", arm.change_list) for arm in material.drawn),
        (
            "Downstream classifier",
            f"{recipe.downstream.backbone}, {recipe.downstream.augment} augmentation, "
            f"replacement {recipe.downstream.replacement:g}",
        ),
        *(((f"{name} version"), version) for name, version in sorted(material.versions.items())),
    ]
    return Table("", (Column("Setting", False), Column("Value", False)), tuple(rows))


def _list(values: Sequence[int]) -> str:
    return ", ".join(str(v) for v in values)


def page_context(material: Material) -> dict[str, Any]:
    """All that the templates show; sections without material carry None and a reason."""
    results, recipe = material.results, material.recipe
    test, curves = results.has_test, material.curves
    arms = read_arms(results, material.predictions, recipe.seed)
    arm = wording.main_arm(arms)
    by_class = None
    if arm and arm.difference:
        reference, other = (
            {s: material.predictions[name][s] for s in arm.difference.seeds}
            for name in (REFERENCE, arm.name)
        )
        by_class = class_table(reference, other, arm.name)
    return {
        "name": recipe.name,
        "test": test,
        "arms": arms,
        "headline": wording.headline(arms, test),
        "control": wording.control_sentence(
            _difference(material.predictions, trained_as(TEXT_CONTOUR), wording.HIGFA, recipe.seed)
        ),
        "arms_table": arms_table(arms, test),
        "bars": figures.interval_bars([a.difference for a in arms]),
        "class_table": by_class,
        "method": wording.verdict_method(arm, test, results.chosen_by),
        "gallery": material.gallery,
        "picture_labels": [p.label for row in material.gallery[:1] for p in row.pictures],
        "guide_off": not material.guided,
        "curves": curves,
        "charts": [figures.chart(c, curves) for c in curves.curves] if curves else [],
        "curves_table": figures.curves_table(curves) if curves else None,
        "calibration": calibration_table(material.calibration) if material.calibration else None,
        "cost": cost_table(material.drawn),
        "filtered": [
            f"{drawn.name}: {wording.filter_sentence(drawn.filtered)}"
            for drawn in material.drawn
            if drawn.filtered is not None
        ],
        "settings": settings_table(material),
        "commands": material.commands,
        "limits": _limits(material, arms, test),
    }


def _limits(material: Material, arms: Sequence[Arm], test: bool) -> tuple[str, ...]:
    return wording.limits(
        arms,
        test,
        cross_validated=material.calibration is not None
        and material.calibration.source == "cross-validation",
        failed=material.failed,
        missing={
            arm.name: len(arm.missing_classes)
            for arm in material.results.arms
            if arm.missing_classes
        },
        gallery=bool(material.gallery),
        confident=any(row.confidence is not None for row in material.gallery),
    )


def render_html(context: Mapping[str, object]) -> str:
    env = _environment(autoescape=True, finalize=_finalize_html)
    env.globals.update(width=figures.WIDTH, height=figures.HEIGHT, chart_left=figures.LEFT)
    env.globals.update(
        chart_right=figures.WIDTH - figures.RIGHT,
        chart_top=figures.TOP,
        chart_bottom=figures.HEIGHT - figures.BOTTOM,
    )
    return env.get_template("report.html.j2").render(context)


def render_markdown(context: Mapping[str, object]) -> str:
    # Escaping in `finalize` covers every expression, so that a template cannot forget it.
    env = _environment(autoescape=False, finalize=_finalize_markdown)
    env.filters.update(table=markdown_table, code=markdown_code)
    return env.get_template("report.md.j2").render(context)


def _finalize_html(value: Any) -> Any:
    # Autoescaping makes markup text; this does the same for control and direction characters.
    if isinstance(value, str) and not isinstance(value, Markup):
        return "\n".join(inert(line) for line in value.split("\n"))
    return value


def _finalize_markdown(value: Any) -> str:
    return str(value) if isinstance(value, Verbatim) else markdown_escape(str(value))


def _environment(**options: Any) -> Environment:
    # Not at the top: a look at what is fresh renders nothing.
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("higfa_cli.report"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **options,
    )
