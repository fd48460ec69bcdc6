"""Captions of web pictures, wrong or vague at fixed rates as web captions are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from tools.pocket.pocket_render.catalogue import AircraftClass

AIRLINES_FILE = Path(__file__).parents[1] / "airline_names.json"
CAPTION_RATES = {"variant": 0.55, "family": 0.25, "maker": 0.15, "wrong_sibling": 0.05}
# A plain form is the most frequent, so that a short prompt is near what training saw.
_FORMS = ("a photo of {} {}", "{} {}", "a photo of {}")
_FORM_RATES = (0.6, 0.2, 0.2)
# Photo sites name the airline about as often as not.
AIRLINE_RATE = 0.5
_AIRLINE_FORMS = ("{airline} {words}", "{words} of {airline}")


@dataclass(frozen=True)
class Caption:
    """A caption of a web picture.

    kind: which kind of truth it tells (a key of CAPTION_RATES). words: those that name the
    aircraft. airline: the name told, or "".
    """

    text: str
    kind: str
    words: str
    airline: str = ""


@cache
def airline_names() -> dict[str, str]:
    """Airline -> the name that a caption may tell. Only airlines of the pool `web` have one."""
    names: dict[str, str] = json.loads(AIRLINES_FILE.read_text(encoding="utf-8"))
    return names


def with_article(words: str) -> str:
    """Put "a" or "an" in front, as "an Airbus A320 airliner"."""
    return ("an " if words[0].upper() in "AEIO" else "a ") + words


def family_words(aircraft: AircraftClass) -> str:
    """The family with its maker in front, such as "Airbus A320 family airliner"."""
    maker, family = aircraft.manufacturer, aircraft.family
    name = family if family.startswith(maker) else f"{maker} {family}"
    return f"{name} family airliner"


def siblings(aircraft: AircraftClass, classes: Mapping[str, AircraftClass]) -> list[str]:
    """Other variants of the family or, if it has none, of the same maker; else of any maker."""
    others = [c for c in classes.values() if c.variant != aircraft.variant]
    for key in ("family", "manufacturer"):
        same = [c.variant for c in others if getattr(c, key) == getattr(aircraft, key)]
        if same:
            return sorted(same)
    return sorted(c.variant for c in others)


def draw_caption(
    rng: np.random.Generator,
    aircraft: AircraftClass,
    scene: str,
    classes: Mapping[str, AircraftClass],
    airline: str = "",
) -> Caption:
    """Draw one noisy caption for a picture of ``aircraft``; half of them tell the airline's name.

    ``airline``: the name, or "" where none may be told.
    """
    kind = str(rng.choice(list(CAPTION_RATES), p=list(CAPTION_RATES.values())))
    if kind == "variant":
        words = aircraft.words
    elif kind == "family":
        words = family_words(aircraft)
    elif kind == "maker":
        words = f"{aircraft.manufacturer} airliner"
    else:
        words = classes[str(rng.choice(siblings(aircraft, classes)))].words
    form = str(rng.choice(_FORMS, p=_FORM_RATES))
    # Drawn last, so that everything else about a picture is the same with and without airlines.
    told = airline if rng.random() < AIRLINE_RATE else ""
    order = str(rng.choice(_AIRLINE_FORMS))
    name = order.format(airline=told, words=words) if told else words
    if form.startswith("a photo"):
        name = with_article(name)
    return Caption(form.format(name, scene).strip(), kind, words, told)
