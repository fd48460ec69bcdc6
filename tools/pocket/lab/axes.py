"""The axes of the ablation, as data, and their values around a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from higfa_cli.recipe.load import override_recipe
from higfa_cli.recipe.schema import Recipe
from tools.pocket.lab.arms import TEXT_CONTOUR, TEXT_ONLY

SWITCH, SCALE = "classifier.switch", "classifier.scale"


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


@dataclass(frozen=True)
class Sweep:
    """What an axis varies, before there is a recipe.

    `keys`: below `guidance`; each of `points` gives them values, and `label` is formatted with
    these. `base`: other settings of every value. `own`: the recipe's value is added to the points.
    `multiples`: points are multiples of the recipe's value. `but_own`: points with the recipe's
    value of the first key are left out. `still`: this strength is held at its scale, except where
    no strength moves.
    """

    name: str
    title: str
    keys: tuple[str, ...]
    points: tuple[tuple[Any, ...], ...]
    label: str = "{:g}"
    base: Mapping[str, Any] = field(default_factory=dict)
    own: bool = False
    multiples: bool = False
    but_own: bool = False
    still: str = ""


def _each(*values: Any) -> tuple[tuple[Any, ...], ...]:
    return tuple((value,) for value in values)


_GAMMA = ("classifier.gamma", SCALE)
_MODULATION = ("classifier.modulation",), _each("constant", "rising", "falling"), "{}"
# Two strengths at which text + contour is compared with the method: at its best, not only at the
# recipe's own.
_PLAIN = (
    (1.0, 1.0), (3.0, 1.0), (4.0, 1.0), (6.0, 1.0), (3.0, 2.0), (4.0, 2.0), (6.0, 2.0),
    (4.0, 3.0), (6.0, 3.0), (10.0, 3.0), (4.0, 4.0), (6.0, 6.0),
)  # fmt: skip
# (1 - p)^gamma makes every strength smaller, so that gammas compared at one S_K differ in how hard
# they push before they differ in when.
_GAMMAS = (
    (0.0, 0.25), (0.0, 0.5), (0.0, 1.0), (0.0, 2.0), (0.5, 0.5), (0.5, 1.0), (0.5, 2.0),
    (1.0, 1.0), (1.0, 2.0), (1.0, 4.0), (2.0, 2.0), (2.0, 4.0),
)  # fmt: skip
# With another grad_norm the gradient has another size, so S_K too.
_NORMS = (*product(["none"], (10.0, 20.0, 40.0, 80.0)), *product(["rms"], (0.5, 1.0, 2.0, 4.0)))

SWEEPS = (
    Sweep(
        "words", "Text alone: `text.scale`", ("text.scale",),
        _each(1.0, 2.0, 3.0, 4.0, 6.0, 10.0), base=TEXT_ONLY.settings,
    ),
    Sweep(
        "plain", "Text + contour without the guide", ("text.scale", "contour.scale"), _PLAIN,
        "S_T {:g}, S_C {:g}", base=TEXT_CONTOUR.settings,
    ),
    Sweep(
        "tau", "`classifier.switch` (tau); each value has a guide trained at the levels it guides",
        (SWITCH,), _each(0.3, 0.5, 0.7, 0.85), own=True,
    ),
    Sweep(
        "together",
        "tau, `contour.scale` and `classifier.scale` together; each tau has a guide of its own",
        (SWITCH, "contour.scale", SCALE), tuple(product((0.3, 0.5, 0.7), (1.0, 2.0), (1.0, 2.0))),
        "tau {:g}, S_C {:g}, S_K {:g}",
    ),
    Sweep("text-scale", "`text.scale`", ("text.scale",), _each(3.0, 6.0, 10.0, 14.0), own=True),
    Sweep(
        "contour-scale", "`contour.scale`", ("contour.scale",), _each(1.0, 2.0, 3.0, 6.0), own=True
    ),
    Sweep(
        "classifier-scale", "`classifier.scale` (S_K)", (SCALE,),
        _each(0.0, 0.25, 0.5, 1.0, 2.0, 4.0), multiples=True,
    ),
    Sweep(
        "gamma", "`classifier.gamma`, with scales of its own", _GAMMA, _GAMMAS,
        "gamma {:g}, S_K {:g}",
    ),
    Sweep("modulation", "`classifier.modulation`", *_MODULATION),
    Sweep(
        "modulation-text", "`classifier.modulation` of text alone, contour held at its scale",
        *_MODULATION, still="contour",
    ),
    Sweep(
        "modulation-contour", "`classifier.modulation` of contour alone, text held at its scale",
        *_MODULATION, still="text",
    ),
    Sweep("text-floor", "`text.floor`", ("text.floor",), _each(0.0, 1.0, 2.0), own=True),
    Sweep("contour-floor", "`contour.floor`", ("contour.floor",), _each(0.0, 0.5, 1.0), own=True),
    Sweep(
        "grad-norm", "The other `classifier.grad_norm`, with scales of its own",
        ("classifier.grad_norm", SCALE), _NORMS, "{}, S_K {:g}", but_own=True,
    ),
    *(
        Sweep(name, f"`classifier.{name}`", (f"classifier.{name}",), _each(*choices), "{}")
        for name, choices in (
            ("read", ("conditional", "composed")),
            ("confidence", ("probability", "margin")),
            ("gradient", ("x0", "x_t")),
        )
    ),
)  # fmt: skip


def axes_around(recipe: Recipe, sweeps: tuple[Sweep, ...] = SWEEPS) -> tuple[Axis, ...]:
    """All axes. Each holds the recipe itself as one of its values."""
    arms = (TEXT_ONLY, TEXT_CONTOUR)
    conditions = tuple(Value(arm.name, arm.settings) for arm in arms)
    axes = [Axis("conditions", "What the picture is drawn from", conditions)]
    axes += [Axis(sweep.name, sweep.title, _values(sweep, recipe)) for sweep in sweeps]
    return tuple(_with_recipe(axis, recipe) for axis in axes)


def is_recipe(value: Value, recipe: Recipe) -> bool:
    """Whether a value changes nothing."""
    return override_recipe(recipe, value.settings) == recipe


def switched_at(tau: float) -> dict[str, Any]:
    """The settings of a switch."""
    return {"guidance.classifier.switch_sigma": None, f"guidance.{SWITCH}": tau}


def _with_recipe(axis: Axis, recipe: Recipe) -> Axis:
    if any(is_recipe(value, recipe) for value in axis.values):
        return axis
    return Axis(axis.name, axis.title, (*axis.values, Value("recipe", {})))


def _values(sweep: Sweep, recipe: Recipe) -> tuple[Value, ...]:
    section, leaf = sweep.keys[0].split(".")
    own = getattr(getattr(recipe.guidance, section), leaf)
    by_sigma = recipe.guidance.classifier.switch_sigma is not None
    points = sweep.points
    if sweep.multiples:
        points = _each(*(point[0] * own for point in points))
    if sweep.own and not (by_sigma and sweep.keys[0] == SWITCH):
        points = tuple(sorted({*points, (float(own),)}))
    if sweep.but_own:
        points = tuple(point for point in points if point[0] != own)
    return tuple(_value(sweep, point, recipe) for point in points)


def _value(sweep: Sweep, point: tuple[Any, ...], recipe: Recipe) -> Value:
    settings = dict(sweep.base)
    # Floors play no part in a constant strength.
    if sweep.still and point != ("constant",):
        scale = getattr(recipe.guidance, sweep.still).scale
        settings[f"guidance.{sweep.still}.floor"] = scale
    tau = None
    if sweep.keys[0] == SWITCH:
        settings |= switched_at(point[0])
        classifier = recipe.guidance.classifier
        kept = classifier.switch_sigma is None and point[0] == classifier.switch
        tau = None if kept else point[0]
    settings |= {f"guidance.{key}": value for key, value in zip(sweep.keys, point, strict=True)}
    return Value(sweep.label.format(*point), settings, tau)
