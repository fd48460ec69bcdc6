"""The report's page: material (plain rows) -> one context -> HTML and Markdown."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from higfa_cli.artifacts.seeds import seed_for
from higfa_cli.errors import UserError
from higfa_cli.recipe.schema import Recipe
from higfa_cli.report import figures, wording
from higfa_cli.report.stats import Prediction, paired_difference
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

Predictions = Mapping[str, Mapping[int, Sequence[Prediction]]]

# gallery key -> label, in the order in which they stand side by side
PICTURES = {
    "source": "real photo",
    "contour": "transformed contour",
    "text": "text only",
    "text_contour": "text + contour",
    "higfa": "HiGFA",
}


@dataclass(frozen=True)
class Picture:
    """A PNG, and its path relative to the report's folder."""

    label: str
    png: bytes
    path: str

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
class Material:
    """Everything the report is made from, as the stages wrote it; None or empty where absent."""

    recipe: Recipe
    results: Mapping[str, Any]
    predictions: Predictions
    contours: Sequence[Mapping[str, Any]]
    calibration: Mapping[str, Any] | None
    metadata: Sequence[Mapping[str, Any]]
    gallery: Sequence[Exhibit]
    traces: Sequence[Mapping[str, Any]]
    cost: Mapping[str, Any] | None
    filtered: Mapping[str, Any] | None
    commands: Sequence[str]
    versions: Mapping[str, str]


def has_test(results: Mapping[str, Any]) -> bool:
    return bool(results.get("counts", {}).get("test"))


def read_arms(results: Mapping[str, Any], predictions: Predictions, seed: int) -> tuple[Arm, ...]:
    """Arms with their paired difference from the arm `real`, in the order of the results.

    Raises:
        UserError: no arm; predictions that contradict the results; arms of different test photos.
    """
    if not results.get("arms"):
        raise UserError(
            "train-downstream/results.json holds no arm; run: higfa train-downstream RECIPE --force"
        )
    test = has_test(results)
    arms = []
    for arm in results["arms"]:
        name = arm["name"]
        difference = None
        if test:
            _check_agreement(arm, predictions[name])
            if name != REFERENCE and REFERENCE in predictions:
                rng_seed = seed_for("report", "bootstrap", seed, name)
                difference = paired_difference(predictions[REFERENCE], predictions[name], rng_seed)
        arms.append(Arm(name, int(arm["synthetic_images"]), tuple(arm["runs"]), difference))
    return tuple(arms)


def _check_agreement(
    arm: Mapping[str, Any], predictions: Mapping[int, Sequence[Prediction]]
) -> None:
    for run in arm["runs"]:
        rows = predictions[run["seed"]]
        accuracy = sum(p.correct for p in rows) / max(len(rows), 1)
        if abs(accuracy - run["test_accuracy"]) > 5e-4:
            raise UserError(
                f"arm {arm['name']}, seed {run['seed']}: predictions.csv gives test accuracy "
                f"{accuracy:.4f}, results.json {run['test_accuracy']:.4f}; "
                "train again: higfa train-downstream RECIPE --force"
            )


def calibration_table(calibration: Mapping[str, Any]) -> Table:
    """Expected calibration error per noise level, before and after the temperature."""

    def row(name: str, progress: float | None, level: Mapping[str, Any]) -> tuple[str, ...]:
        accuracy = level.get("accuracy")
        return (
            name,
            number(progress, 2),
            *(number(level.get(k), 3) for k in ("ece_before", "ece_after")),
            number(None if accuracy is None else 100 * accuracy),
        )

    rows = [row(number(v["sigma"], 3), v["progress"], v) for v in calibration["levels"]]
    if calibration.get("clean"):
        rows.append(row("clean photos", None, calibration["clean"]))
    source = "validation photos" if calibration["source"] == "val" else calibration["source"]
    temperature = f"{calibration['temperature']:.3f}"
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


def cost_table(cost: Mapping[str, Any]) -> Table:
    """Cost of the sampling, without loading models and without the gallery's extra pictures."""
    keys = {
        "Seconds": "seconds_per_image",
        "Denoiser evaluations": "denoiser_evaluations_per_image",
        "Guide evaluations": "guide_evaluations_per_image",
    }
    return Table(
        f"{int(cost['images']):,} pictures on {cost['device']} in {cost['dtype']}, "
        f"batches of {cost['batch_size']}.",
        (Column("Cost", False), Column("Per image")),
        tuple((name, significant(cost[key])) for name, key in keys.items()),
    )


def settings_table(material: Material) -> Table:
    """The recipe's choices that the results depend on most."""
    recipe, counts = material.recipe, material.results.get("counts", {})
    sampling, text, contour = recipe.sampling, recipe.guidance.text, recipe.guidance.contour
    k = recipe.guidance.classifier
    switch = f"u ≥ {k.switch:g}" if k.switch_sigma is None else f"σ ≤ {k.switch_sigma:g}"
    splits = ", ".join(f"{counts[x]:,} {x}" for x in ("train", "val", "test") if counts.get(x))
    sources = len({row["source"] for row in material.contours})
    rows = [
        ("Recipe", recipe.name),
        (
            "Recipe seed; training seeds",
            f"{recipe.seed}; {_list(recipe.downstream.seeds)}",
        ),
        ("Classes", f"{len(material.results.get('classes', [])):,}"),
        ("Photos", splits or "not recorded"),
        ("Contours", f"{len(material.contours):,} of {sources:,} photos" if sources else "none"),
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
        ("Filter", wording.filter_rules(recipe.filter.model_dump())),
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
    test = has_test(results)
    arms = read_arms(results, material.predictions, recipe.seed)
    arm = wording.main_arm(arms)
    finished = [row for row in material.traces if not row.get("error")]
    curves = figures.read_curves(finished) if finished else None
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
        "arms_table": arms_table(arms, test),
        "bars": figures.interval_bars([a.difference for a in arms]),
        "class_table": by_class,
        "method": wording.verdict_method(arm, test, str(results.get("chosen_by", "not recorded"))),
        "gallery": material.gallery,
        "picture_labels": tuple(PICTURES.values()),
        "guide_off": not recipe.guidance.consulted,
        "curves": curves,
        "charts": [figures.chart(c, curves) for c in curves.curves] if curves else [],
        "curves_table": figures.curves_table(curves) if curves else None,
        "calibration": calibration_table(material.calibration) if material.calibration else None,
        "cost": cost_table(material.cost) if material.cost else None,
        "filtered": wording.filter_sentence(material.filtered) if material.filtered else None,
        "settings": settings_table(material),
        "commands": material.commands,
        "limits": _limits(material, arms, test),
    }


def _limits(material: Material, arms: Sequence[Arm], test: bool) -> tuple[str, ...]:
    return wording.limits(
        arms,
        test,
        cross_validated=(material.calibration or {}).get("source") == "cross-validation",
        failed=sum(bool(row.get("error")) for row in material.traces),
        missing={
            arm["name"]: len(arm["missing_classes"])
            for arm in material.results["arms"]
            if arm.get("missing_classes")
        },
        gallery=bool(material.gallery),
        confident=any(row.confidence is not None for row in material.gallery),
    )


def render_html(context: Mapping[str, Any]) -> str:
    env = _environment(autoescape=True, finalize=_finalize_html)
    env.globals.update(width=figures.WIDTH, height=figures.HEIGHT, chart_left=figures.LEFT)
    env.globals.update(
        chart_right=figures.WIDTH - figures.RIGHT,
        chart_top=figures.TOP,
        chart_bottom=figures.HEIGHT - figures.BOTTOM,
    )
    return env.get_template("report.html.j2").render(context)


def render_markdown(context: Mapping[str, Any]) -> str:
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
    return Environment(
        loader=PackageLoader("higfa_cli.report"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **options,
    )
