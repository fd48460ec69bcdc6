"""The method's constants, one at a time and some together, around the recipe's, on val contours.

    python -m tools.pocket.lab.ablation --workspace DIR --out OUT [--axes tau gamma ...]

Writes data/ablation.json and the page ablation.md to OUT after every axis, and a strip of pictures
of every axis: to OUT/pictures where the page shows it, to DIR/strips otherwise.
Run again to resume: what was drawn or trained is read from the workspace, and axes that were
measured before under the same recipe, guide, judges and contours stay in the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, product
from typing import Any

from higfa_cli.errors import UserError
from higfa_cli.method.guidance import Guidance
from higfa_cli.recipe.load import load_recipe, override_recipe
from higfa_cli.recipe.schema import Recipe
from tools.pocket.lab import figures, pages, strips
from tools.pocket.lab.bench import (
    Bench,
    Features,
    Request,
    command,
    open_bench,
    start_results,
)
from tools.pocket.lab.draw import HIGFA, TEXT_CONTOUR, TEXT_ONLY, Arm, prepare
from tools.pocket.lab.scores import Score

PER_CLASS = 10
SPLIT = "val"

# Values of the axes that are one key of `guidance`; the recipe's own is added to them.
SCALARS: dict[str, tuple[str, tuple[float, ...]]] = {
    "text-scale": ("text.scale", (3.0, 6.0, 10.0, 14.0)),
    "contour-scale": ("contour.scale", (1.0, 2.0, 3.0, 6.0)),
    "text-floor": ("text.floor", (0.0, 1.0, 2.0)),
    "contour-floor": ("contour.floor", (0.0, 0.5, 1.0)),
}
CHOICES: dict[str, tuple[str, tuple[str, ...]]] = {
    "modulation": ("classifier.modulation", ("constant", "rising", "falling")),
    "read": ("classifier.read", ("conditional", "composed")),
    "confidence": ("classifier.confidence", ("probability", "margin")),
    "gradient": ("classifier.gradient", ("x0", "x_t")),
}
TAUS = (0.3, 0.5, 0.7, 0.85)
# Constants that depend on each other: tau, S_C and S_K.
TOGETHER = tuple(product((0.3, 0.5, 0.7), (1.0, 2.0), (1.0, 2.0)))
# Strengths of text alone, and pairs of S_T and S_C, without a guide: the method is compared with
# text + contour at its best, not only at the recipe's own.
WORDS = (1.0, 2.0, 3.0, 4.0, 6.0, 10.0)
PLAIN = (
    (1.0, 1.0), (3.0, 1.0), (4.0, 1.0), (6.0, 1.0), (3.0, 2.0), (4.0, 2.0), (6.0, 2.0),
    (4.0, 3.0), (6.0, 3.0), (10.0, 3.0), (4.0, 4.0), (6.0, 6.0),
)  # fmt: skip
# Pairs of gamma and S_K: (1 - p)^gamma makes every strength smaller, so that gammas compared at
# one S_K differ in how hard they push before they differ in when.
GAMMAS = (
    (0.0, 0.25), (0.0, 0.5), (0.0, 1.0), (0.0, 2.0), (0.5, 0.5), (0.5, 1.0), (0.5, 2.0),
    (1.0, 1.0), (1.0, 2.0), (1.0, 4.0), (2.0, 2.0), (2.0, 4.0),
)  # fmt: skip
# S_K as multiples of the recipe's; with grad_norm the gradient has another size, so S_K too.
MULTIPLES = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
SCALES_OF_NORM: dict[str, tuple[float, ...]] = {
    "none": (10.0, 20.0, 40.0, 80.0),
    "rms": (0.5, 1.0, 2.0, 4.0),
}


@dataclass(frozen=True)
class Value:
    """One row of a table. `guide_tau`: its guide is trained for this tau, not for the recipe's."""

    label: str
    settings: Mapping[str, Any]
    guide_tau: float | None = None


@dataclass(frozen=True)
class Axis:
    """One table: what is varied, and its values."""

    name: str
    title: str
    values: tuple[Value, ...]


def axes_around(recipe: Recipe) -> tuple[Axis, ...]:
    """All axes. Each holds the recipe itself as one of its values."""
    own = recipe.guidance
    found = [
        Axis(
            "conditions",
            "What the picture is drawn from",
            (
                Value("text only", TEXT_ONLY.settings),
                Value("text + contour", TEXT_CONTOUR.settings),
            ),
        ),
        _words(),
        _plain(),
        _tau(own),
        _together(own),
        *(_scalar(name, own) for name in ("text-scale", "contour-scale")),
        _classifier_scale(own),
        _gamma(),
        _choice("modulation"),
        _alone("text", "contour", own),
        _alone("contour", "text", own),
        *(_scalar(name, own) for name in ("text-floor", "contour-floor")),
        _grad_norm(own),
        *(_choice(name) for name in ("read", "confidence", "gradient")),
    ]
    return tuple(_with_recipe(axis, recipe) for axis in found)


def is_recipe(value: Value, recipe: Recipe) -> bool:
    """Whether a value changes nothing."""
    return override_recipe(recipe, value.settings) == recipe


def _with_recipe(axis: Axis, recipe: Recipe) -> Axis:
    if any(is_recipe(value, recipe) for value in axis.values):
        return axis
    return Axis(axis.name, axis.title, (*axis.values, Value("recipe", {})))


def _scalar(name: str, own: Guidance) -> Axis:
    key, listed = SCALARS[name]
    section, leaf = key.split(".")
    values = sorted({*listed, float(getattr(getattr(own, section), leaf))})
    return Axis(name, f"`{key}`", tuple(Value(f"{v:g}", {f"guidance.{key}": v}) for v in values))


def _choice(name: str) -> Axis:
    key, listed = CHOICES[name]
    return Axis(name, f"`{key}`", tuple(Value(v, {f"guidance.{key}": v}) for v in listed))


def _words() -> Axis:
    values = (Value(f"{v:g}", {**TEXT_ONLY.settings, "guidance.text.scale": v}) for v in WORDS)
    return Axis("words", "Text alone: `text.scale`", tuple(values))


def _plain() -> Axis:
    values = (
        Value(
            f"S_T {text:g}, S_C {contour:g}",
            {
                **TEXT_CONTOUR.settings,
                "guidance.text.scale": text,
                "guidance.contour.scale": contour,
            },
        )
        for text, contour in PLAIN
    )
    return Axis("plain", "Text + contour without the guide", tuple(values))


def _switched(
    label: str, tau: float, own: Guidance, settings: Mapping[str, Any] | None = None
) -> Value:
    """A value that switches on at `tau`, with a guide trained for the levels that this guides."""
    kept = own.classifier.switch_sigma is None and tau == own.classifier.switch
    return Value(label, {**_switch(tau), **(settings or {})}, None if kept else tau)


def _switch(tau: float) -> dict[str, Any]:
    return {"guidance.classifier.switch_sigma": None, "guidance.classifier.switch": tau}


def _tau(own: Guidance) -> Axis:
    listed = {*TAUS, own.classifier.switch} if own.classifier.switch_sigma is None else set(TAUS)
    title = "`classifier.switch` (tau); each value has a guide trained at the levels it guides"
    return Axis("tau", title, tuple(_switched(f"{v:g}", v, own) for v in sorted(listed)))


def _together(own: Guidance) -> Axis:
    values = (
        _switched(
            f"tau {tau:g}, S_C {contour:g}, S_K {scale:g}",
            tau,
            own,
            {"guidance.contour.scale": contour, "guidance.classifier.scale": scale},
        )
        for tau, contour, scale in TOGETHER
    )
    title = "tau, `contour.scale` and `classifier.scale` together; each tau has a guide of its own"
    return Axis("together", title, tuple(values))


def _classifier_scale(own: Guidance) -> Axis:
    scales = [multiple * own.classifier.scale for multiple in MULTIPLES]
    values = (Value(f"{v:g}", {"guidance.classifier.scale": v}) for v in scales)
    return Axis("classifier-scale", "`classifier.scale` (S_K)", tuple(values))


def _gamma() -> Axis:
    values = (
        Value(
            f"gamma {gamma:g}, S_K {scale:g}",
            {"guidance.classifier.gamma": gamma, "guidance.classifier.scale": scale},
        )
        for gamma, scale in GAMMAS
    )
    return Axis("gamma", "`classifier.gamma`, with scales of its own", tuple(values))


def _alone(moved: str, still: str, own: Guidance) -> Axis:
    """Only `moved` follows the confidence: the other's floor is its scale."""
    key = "guidance.classifier.modulation"
    held = {f"guidance.{still}.floor": getattr(own, still).scale}
    values = [
        # Floors play no part in a constant strength.
        Value("constant", {key: "constant"}),
        *(Value(v, {**held, key: v}) for v in ("rising", "falling")),
    ]
    title = f"`classifier.modulation` of {moved} alone, {still} held at its scale"
    return Axis(f"modulation-{moved}", title, tuple(values))


def _grad_norm(own: Guidance) -> Axis:
    values = (
        Value(
            f"{norm}, S_K {scale:g}",
            {"guidance.classifier.grad_norm": norm, "guidance.classifier.scale": scale},
        )
        for norm, scales in SCALES_OF_NORM.items()
        if norm != own.classifier.grad_norm
        for scale in scales
    )
    return Axis(
        "grad-norm", "The other `classifier.grad_norm`, with scales of its own", tuple(values)
    )


def ablate(request: Request, names: Sequence[str], features: Features) -> dict[str, Any]:
    """Draw and measure the named axes (none named: all); returns what data/ablation.json holds.

    Raises UserError as the stages, or for an axis that is not there.
    """
    known = {axis.name: axis for axis in axes_around(load_recipe(request.recipe).recipe)}
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"--axes {unknown[0]}: no such axis; axes are {', '.join(known)}")
    with open_bench(request, SPLIT, features) as bench:
        path = request.data("ablation")
        results = start_results(path, request, bench, SPLIT)
        asked = [known[name] for name in names or known]
        # Guides before pictures: training takes both cores.
        arms = [[_arm(request, axis, value) for value in axis.values] for axis in asked]
        bench.ahead([HIGFA, *chain(*arms)])
        for axis, own in zip(asked, arms, strict=True):
            rows = _measure(request, bench, axis, own)
            parts = {**results["parts"], axis.name: {"title": axis.title, "rows": rows}}
            results["parts"] = {name: parts[name] for name in known if name in parts}
            pages.publish(request.out, "ablation", results)
    return results


def _measure(
    request: Request, bench: Bench, axis: Axis, arms: Sequence[Arm]
) -> list[dict[str, Any]]:
    """Rows of one table; its strip is written beside."""
    base = bench.measure(HIGFA)
    scores: list[tuple[str, Score]] = []
    rows = []
    for value, arm in zip(axis.values, arms, strict=True):
        same = is_recipe(value, bench.setting.ctx.recipe)
        score = base if same else bench.measure(arm)
        against = None if same else figures.paired(base.hits, score.hits)
        rows.append(
            {"value": value.label, "is_recipe": same, **score.row()}
            | {"against_recipe": against and [round(number, 4) for number in against]}
        )
        scores.append((value.label, score))
    shown = axis.name in pages.SHOWN
    folder = request.out / "pictures" if shown else request.workspace / "strips"
    strips.save(bench.strip(scores), folder / f"ablation-{axis.name}.png")
    return rows


def _arm(request: Request, axis: Axis, value: Value) -> Arm:
    """How the value is drawn; a guide of its own is trained, once for each tau."""
    name, tau = f"{axis.name} {value.label}", value.guide_tau
    if tau is None:
        return Arm(name, value.settings)
    place = request.workspace / "guides" / f"tau-{tau:g}"
    prepare(request.recipe, place, SPLIT, 1, _switch(tau))
    return Arm(name, value.settings, place / "finetune-guide" / "guide.safetensors")


def main() -> None:
    """Read the command line and measure."""
    command(__doc__.splitlines()[0], PER_CLASS, "--axes", "axes; without: all", ablate)


if __name__ == "__main__":
    main()
