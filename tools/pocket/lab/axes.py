"""The axes of the ablation (axes.yaml), and their values around a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from higfa_cli.recipe.arms import HIGFA, TEXT_CONTOUR, Changes
from higfa_cli.recipe.load import override_recipe
from higfa_cli.recipe.schema import Recipe
from tools.pocket.lab.arms import ARMS, TEXT, TITLES, arm_name

SWITCH = "classifier.switch"


@dataclass(frozen=True)
class Sweep:
    """What an axis varies, before there is a recipe; fields as axes.yaml says."""

    title: str
    keys: Sequence[str]
    points: Sequence[Sequence[Any]]
    label: str = "{:g}"
    base: str = HIGFA
    own: bool = False
    multiples: bool = False
    but_own: bool = False
    still: str = ""


@dataclass(frozen=True)
class Value:
    """One row of a table.

    `arm`: its name; the recipe's own where it changes nothing. `guide_tau`: its guide is trained
    for this tau, not for the recipe's.
    """

    label: str
    arm: str
    changes: Changes
    guide_tau: float | None = None


@dataclass(frozen=True)
class Axis:
    """One table: what is varied, and its values, of which one is the recipe."""

    name: str
    title: str
    values: tuple[Value, ...]


SWEEPS = {
    name: Sweep(**values)
    for name, values in yaml.safe_load(
        Path(__file__).with_name("axes.yaml").read_text(encoding="utf-8")
    ).items()
}


def axes_around(recipe: Recipe) -> tuple[Axis, ...]:
    """All axes. Each holds the recipe itself as one of its values."""
    conditions = [Value(TITLES[arm], arm, ARMS[arm]) for arm in (TEXT, TEXT_CONTOUR)]
    axes = {"conditions": ("What the picture is drawn from", conditions)}
    axes |= {name: (sweep.title, _values(name, sweep, recipe)) for name, sweep in SWEEPS.items()}
    return tuple(_with_recipe(name, *axis, recipe) for name, axis in axes.items())


def switched_at(tau: float) -> dict[str, Any]:
    """The keys of a switch."""
    return {"guidance.classifier.switch_sigma": None, f"guidance.{SWITCH}": tau}


def _with_recipe(name: str, title: str, values: list[Value], recipe: Recipe) -> Axis:
    values = [
        Value(value.label, HIGFA, {}) if override_recipe(recipe, value.changes) == recipe else value
        for value in values
    ]
    if all(value.arm != HIGFA for value in values):
        values.append(Value("recipe", HIGFA, {}))
    return Axis(name, title, tuple(values))


def _values(name: str, sweep: Sweep, recipe: Recipe) -> list[Value]:
    section, leaf = sweep.keys[0].split(".")
    own = getattr(getattr(recipe.guidance, section), leaf)
    by_sigma = recipe.guidance.classifier.switch_sigma is not None
    points = [tuple(point) for point in sweep.points]
    if sweep.multiples:
        points = [(point[0] * own,) for point in points]
    if sweep.own and not (by_sigma and sweep.keys[0] == SWITCH):
        points = sorted({*points, (float(own),)})
    if sweep.but_own:
        points = [point for point in points if point[0] != own]
    return [_value(name, sweep, point, recipe) for point in points]


def _value(name: str, sweep: Sweep, point: tuple[Any, ...], recipe: Recipe) -> Value:
    changes = dict(ARMS[sweep.base])
    # Floors play no part in a constant strength.
    if sweep.still and point != ("constant",):
        scale = getattr(recipe.guidance, sweep.still).scale
        changes[f"guidance.{sweep.still}.floor"] = scale
    tau = None
    if sweep.keys[0] == SWITCH:
        changes |= switched_at(point[0])
        classifier = recipe.guidance.classifier
        same = classifier.switch_sigma is None and point[0] == classifier.switch
        tau = None if same else point[0]
    changes |= {f"guidance.{key}": value for key, value in zip(sweep.keys, point, strict=True)}
    label = sweep.label.format(*point)
    return Value(label, arm_name(name, label), changes, tau)
