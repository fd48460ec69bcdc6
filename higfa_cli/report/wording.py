"""Sentences of the report that depend on the numbers; most stand in `templates/*.txt.j2`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from higfa_cli.artifacts.rows import PictureFault
from higfa_cli.recipe.arms import HIGFA as METHOD
from higfa_cli.recipe.arms import REAL, TEXT_CONTOUR, trained_as
from higfa_cli.recipe.classifiers import Filter
from higfa_cli.report.stats import FEWEST_SEEDS, RESAMPLES
from higfa_cli.report.tables import Arm, interval_text, number
from higfa_cli.text import inert, plural

if TYPE_CHECKING:
    from jinja2 import Environment

HIGFA = trained_as(METHOD)
REJECTED: dict[PictureFault, str] = {
    "confidence": "below the guide's confidence",
    "top_k": "not among the guide's first choices",
    "best_of": "less sure than another picture of the same photo",
    "duplicate": "too close to the source photo",
    "constant": "nearly uniform",
}


class Headline(NamedTuple):
    """`kind`: helped, hurt, no-evidence or none."""

    kind: str
    word: str
    sentence: str


def environment(**options: Any) -> Environment:
    """jinja2's environment over the report's templates."""
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


def sentences(name: str, **facts: object) -> list[str]:
    """The lines of `templates/NAME.txt.j2`, with `facts`."""
    text = _plain_environment().get_template(f"{name}.txt.j2").render(facts)
    return [line for line in text.split("\n") if line]


@cache
def _plain_environment() -> Environment:
    # What a user has named must not end a line.
    env = environment(finalize=lambda value: inert(value) if isinstance(value, str) else value)
    env.filters.update(comma="{:,}".format, g="{:g}".format, number=number, plural=plural)
    env.filters.update(signed=lambda value: number(value, sign=True), interval=interval_text)
    env.globals.update(real=REAL, higfa=HIGFA, text_contour=trained_as(TEXT_CONTOUR))
    env.globals.update(fewest_seeds=FEWEST_SEEDS, resamples=RESAMPLES, rejected=REJECTED)
    return env


def main_arm(arms: Sequence[Arm]) -> Arm | None:
    """The arm that the verdict is about: HiGFA's, or the first one with added pictures."""
    added = [arm for arm in arms if arm.name != REAL]
    return next((arm for arm in added if arm.name == HIGFA), added[0] if added else None)


def headline(arms: Sequence[Arm], test: bool, worthless: str | None = None) -> Headline:
    """The verdict; `worthless`: why there can be none."""
    if worthless is not None:
        return Headline("none", "No result", f"{worthless}.")
    return Headline(*sentences("headline", arm=main_arm(arms), test=test))


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
