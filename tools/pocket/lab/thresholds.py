"""What the method was asked to reach, held against measured numbers.

A verdict is reckoned from the numbers whenever a page is rendered, and stands in no file: a page
cannot show one that its numbers do not carry.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from tools.pocket.lab.text import percent

Word = Literal["reached", "MISSED", "no evidence", "not comparable"]

# From this confidence on, the guide counts as content with a picture.
CONTENT = 0.5
# What an interval over several trainings resamples; older ones resample pictures alone.
BOTH = "trainings and pictures"
GAIN, LOST_DIVERSITY, ECE = 0.05, 0.02, 0.05


@dataclass(frozen=True)
class Verdict:
    """A figure, what was asked of it, what was measured, and the verdict in a word."""

    figure: str
    asked: str
    measured: str
    word: Word


def _word(reached: bool) -> Word:
    return "reached" if reached else "MISSED"


def verdicts(parts: Mapping[str, Any]) -> Iterator[Verdict]:
    """The verdicts on those parts of bars.json that were measured."""
    if "gain" in parts:
        yield _gain(parts["gain"]["difference"])
    if "calibration" in parts:
        yield _calibration(parts["calibration"]["calibration"])
    if "gap" in parts:
        yield _gap(parts["gap"])
    if "trainings" in parts:
        yield _trainings(parts["trainings"])
    if "sweep" in parts:
        for norm, found in parts["sweep"]["matched"].items():
            yield diversity(norm, found)


def _gain(difference: Sequence[float]) -> Verdict:
    return Verdict(
        "HiGFA minus text + contour at HiGFA's strengths, judge agreement",
        f"at least {100 * GAIN:+.0f} points, 95 % interval above 0",
        f"{percent(difference)} points",
        _word(difference[0] >= GAIN and difference[1] > 0),
    )


def _calibration(calibration: Mapping[str, Any]) -> Verdict:
    ece = calibration["overall"]["ece_after"]
    return Verdict(
        f"ECE of the guide at the guided noise levels after temperature ({calibration['source']})",
        f"at most {ECE}",
        f"{ece:.3f} (before: {calibration['overall']['ece_before']:.3f})",
        _word(ece <= ECE),
    )


def _gap(part: Mapping[str, Any]) -> Verdict:
    return Verdict(
        "Adversarial gap of HiGFA against classifier from the first step",
        "smaller",
        f"{100 * part['higfa']:.1f} against {100 * part['first_step']:.1f} points; difference "
        f"{percent(part['difference'])}",
        _word(part["difference"][0] > 0),
    )


def _trainings(part: Mapping[str, Any]) -> Verdict:
    """A mean above 0 counts only where its interval knows the luck of training too."""
    value, low, _ = part["difference"]
    sure = low > 0 and part["resampled"] == BOTH
    each = ", ".join(f"{100 * row['difference'][0]:.1f}" for row in part["trainings"])
    return Verdict(
        "Guide trained with noised images minus guide of clean photos, judge agreement, mean of "
        f"{len(part['trainings'])} trainings of each",
        "higher",
        f"{percent(part['difference'])} points, {part['resampled']} resampled; by training {each}",
        "MISSED" if value <= 0 else "reached" if sure else "no evidence",
    )


def diversity(norm: str, found: Mapping[str, Any]) -> Verdict:
    """HiGFA's diversity against the fixed strength's, as `matched` gives it."""
    change = found["change"]
    if change is None:
        text = "not comparable: the fixed classifier agrees more at every S_K"
    elif found["scale"] is None:
        text = f"{100 * change:+.1f} % (at HiGFA's agreement)"
    else:
        text = (
            f"{100 * change:+.1f} % (HiGFA's agreement is out of its reach; at its best, S_K "
            f"{found['scale']:g} with {100 * found['agreement']:.1f} %)"
        )
    return Verdict(
        f"HiGFA's diversity against fixed strength (grad_norm {norm}) at matched agreement",
        f"no worse than {100 * LOST_DIVERSITY:.0f} %",
        text,
        "not comparable" if change is None else _word(change >= -LOST_DIVERSITY),
    )


def matched(
    points: Sequence[Mapping[str, Any]], agreement: float, distance: float
) -> dict[str, float | None]:
    """HiGFA's distance relative to the fixed strength's at HiGFA's agreement.

    `points`: a sweep in the order of S_K. `change`: None where every S_K agrees more than HiGFA.
    Where none agrees as much, `scale` and `agreement` are those of the point that agrees most.
    """
    there = distance_at([(p["agreement"][0], p["distance"]) for p in points], agreement)
    best = max(points, key=lambda point: point["agreement"][0])
    if there is not None:
        return {"change": distance / there - 1, "scale": None, "agreement": None}
    if best["agreement"][0] < agreement:
        change = distance / best["distance"] - 1
        return {"change": change, "scale": best["scale"], "agreement": best["agreement"][0]}
    return {"change": None, "scale": None, "agreement": None}


def distance_at(curve: Sequence[tuple[float, float]], agreement: float) -> float | None:
    """Distance where a curve of (agreement, distance) first meets an agreement, interpolated.

    None where it never does.
    """
    for (a, d), (b, e) in pairwise(curve):
        if min(a, b) <= agreement <= max(a, b):
            share = 0.0 if a == b else (agreement - a) / (b - a)
            return d + share * (e - d)
    return None


def blame(right_before: bool, guide_p: float) -> str:
    """What a wrong picture's arms, and its guide, say in one line."""
    before = "right" if right_before else "wrong already"
    after = "is content" if guide_p >= CONTENT else "is not content either"
    return f"{before} without the guide; the guide {after}"


def met(row: Mapping[str, Any]) -> str:
    """The verdict on a row of the instruments; "" where nothing was asked. NaN reaches nothing."""
    if row["threshold"] is None:
        return ""
    return "reached" if row["value"] >= row["threshold"] else "**MISSED**"
