"""Figures of the report by hand: spread, verdicts, escaped cells, curves."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from higfa_cli.artifacts.fingerprint import hash_bytes
from higfa_cli.artifacts.rows import TraceRow
from higfa_cli.errors import UserError
from higfa_cli.report import figures, tables, wording
from higfa_cli.report.stats import Answer, mean_std, paired_difference
from tests.support.report_project import (
    BETTER,
    HOSTILE,
    REAL,
    SEEDS,
    SWAPPED,
)


def arm_of(per_seed: list[set[int]], n: int = 200) -> dict[int, tuple[Answer, ...]]:
    return {
        s: tuple(Answer(str(i), "a", "b" if i in wrong else "a") for i in range(n))
        for s, wrong in zip(SEEDS, per_seed, strict=True)
    }


def test_mean_std_by_hand() -> None:
    mean, std = mean_std([0.60, 0.58, 0.65])
    # Deviations -1, -3, 4 hundredths: sum of squares 26, over n - 1 = 2: 13, root 3.6056.
    assert mean == pytest.approx(0.61)
    assert std == pytest.approx(0.01 * math.sqrt(13))
    assert mean_std([0.5]) == (0.5, None)


def test_paired_difference_by_hand() -> None:
    found = paired_difference(arm_of(REAL), arm_of(BETTER), rng_seed=1)
    assert found is not None
    # 30 photos of 200 gained in every seed.
    assert found.points == pytest.approx(15.0)
    assert found.per_seed == pytest.approx((15.0, 15.0, 15.0))
    # Seed 0 gains photos 50..79, seed 1 54..83, seed 2 46..75: 46..83 changed somewhere.
    assert (found.images, found.seeds, found.changed) == (200, SEEDS, 38)
    # Gains over the three seeds: 4 + 4 photos at 1/3, 4 + 4 at 2/3, 22 at 1; the bootstrap's
    # standard error is the population std of the gains over sqrt(n).
    gains = np.array([0] * 162 + [1 / 3] * 8 + [2 / 3] * 8 + [1] * 22)
    assert gains.mean() == pytest.approx(0.15)
    half = 1.96 * 100 * gains.std() / math.sqrt(200)
    assert found.low == pytest.approx(15.0 - half, abs=0.35)
    assert found.high == pytest.approx(15.0 + half, abs=0.35)


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (REAL, BETTER, "helped"),
        (BETTER, REAL, "hurt"),
        (REAL, SWAPPED, "no evidence"),
        (REAL, REAL, "no evidence"),
    ],
)
def test_verdict(before: list[set[int]], after: list[set[int]], verdict: str) -> None:
    found = paired_difference(arm_of(before), arm_of(after), rng_seed=7)
    assert found is not None
    assert found.verdict == verdict
    assert found == paired_difference(arm_of(before), arm_of(after), rng_seed=7)


@pytest.mark.parametrize(("seeds", "word"), [(1, "One seed"), (2, "Two seeds")])
def test_below_three_seeds_there_are_figures_and_no_verdict(seeds: int, word: str) -> None:
    real, better = ({s: rows[s] for s in range(seeds)} for rows in map(arm_of, (REAL, BETTER)))
    found = paired_difference(real, better, rng_seed=1)
    assert found is not None and found.low > 0
    assert found.verdict == "no verdict"
    arms = [tables.Arm("real", 0, (), None), tables.Arm("real+higfa", 9, (), found)]
    shown = wording.headline(arms, test=True)
    assert (shown.kind, shown.word) == ("none", f"{word}: no verdict")
    assert "changed by +15.0 points" in shown.sentence and "200 test photos" in shown.sentence


def test_seeds_that_disagree_are_no_evidence() -> None:
    # Gains of 15, 7.5 and -5 points: each photo's mean is surely above zero, the trainings' is not.
    mixed = [set(range(50)), set(range(69)), set(range(86))]
    apart = paired_difference(arm_of(REAL), arm_of(mixed), rng_seed=1)
    alike = paired_difference(arm_of(REAL), arm_of([set(range(69))] * 3), rng_seed=1)
    assert apart is not None and alike is not None
    assert apart.points == pytest.approx(5.83, abs=0.01)
    assert apart.verdict == "no evidence" and alike.verdict == "helped"
    assert apart.high - apart.low > 2 * (alike.high - alike.low)


def test_pairing_is_by_photo_not_by_row_and_swaps_sign() -> None:
    shuffled = {s: rows[::-1] for s, rows in arm_of(BETTER).items()}
    straight = paired_difference(arm_of(REAL), arm_of(BETTER), rng_seed=3)
    assert paired_difference(arm_of(REAL), shuffled, rng_seed=3) == straight
    back = paired_difference(arm_of(BETTER), arm_of(REAL), rng_seed=3)
    assert straight is not None
    assert back is not None
    assert back.points == pytest.approx(-straight.points)


def test_only_shared_seeds_are_paired() -> None:
    real, better = arm_of(REAL), arm_of(BETTER)
    found = paired_difference({0: real[0], 1: real[1]}, {1: better[1], 2: better[2]}, 0)
    assert found is not None
    assert found.seeds == (1,)
    assert paired_difference({0: real[0]}, {1: better[1]}, 0) is None


def test_different_test_photos_cannot_be_paired() -> None:
    with pytest.raises(UserError, match="different test photos"):
        paired_difference(arm_of(REAL), arm_of(BETTER, n=199), rng_seed=0)


def test_numbers() -> None:
    assert tables.number(-1.25, 1) == "−1.2"
    assert tables.number(-0.04, 1) == "0.0"
    assert tables.number(0.36, 1, sign=True) == "+0.4"
    assert tables.number(None) == "–"
    assert tables.significant(0.0000123) == "1.23e−05"
    assert tables.spread_text((0.613, 0.012)) == "61.3 ± 1.2"


def test_csv_formulas_are_defused_and_numbers_kept() -> None:
    for text in ("=1+1", "+A1", "-A1", "@SUM(A1)", "\t=1"):
        assert tables.csv_cell(text) == "'" + text
    assert tables.csv_cell(-1.5) == -1.5
    assert tables.csv_cell("real+higfa") == "real+higfa"


def test_markdown_escape() -> None:
    assert tables.markdown_escape(HOSTILE) == "&lt;img src=x onerror=alert(1)&gt;"
    assert tables.markdown_escape("a|b\n[c](d) `e`") == r"a\|b \[c\](d) \`e\`"
    assert tables.markdown_code("a `b` c") == "``a `b` c``"


def test_latex_escape() -> None:
    assert tables.latex_escape(r"50%_a&b$#{x}\~^") == (
        r"50\%\_a\&b\$\#\{x\}\textbackslash{}\textasciitilde{}\textasciicircum{}"
    )
    table = tables.Table("", ("Arm",), (("[x]",), ("real+a_b",)))
    text = tables.latex_table(table)
    assert "{[}x{]} \\\\" in text
    assert r"real+a\_b \\" in text


def traced(p: float, k: float, id: str = "0") -> TraceRow:
    """Two steps, guided at the second."""
    return TraceRow(
        id=id,
        error=None,
        effective_batch=1,
        u=(0.0, 0.5),
        sigma=(1.0, 0.5),
        s_text=(4.0, 2.0),
        s_contour=(1.0, 1.0),
        s_classifier=(0.0, k),
        p=(None, float(p)),
        grad_norm=(None, 2.0),
    )


def test_curves_by_hand() -> None:
    curves = figures.read_curves([traced(p, 1 - p) for p in np.linspace(0, 1, 11)])
    assert curves is not None
    by_key = {c.key: c for c in curves.curves}
    assert (curves.switch, curves.images) == (1, 11)
    assert by_key["p"].mean == (None, pytest.approx(0.5))
    assert by_key["p"].low[1] == pytest.approx(0.1)
    assert by_key["p"].high[1] == pytest.approx(0.9)
    assert by_key["s_text"].mean == (4.0, 2.0)
    drawn = figures.chart(by_key["p"], curves)
    # One step from u = 0.5 to 1 at p = 0.5: from the middle to the right edge, at half height.
    assert drawn.line == "M202.0 88.0L350.0 88.0"
    assert drawn.switch == "202.0"
    with pytest.raises(UserError, match="different steps"):
        figures.read_curves([traced(0.5, 0.5), traced(0.5, 0.5).model_copy(update={"u": (0.0,)})])
    assert figures.read_curves([]) is None


def test_curves_of_many_images_hold_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Means are over all images; the band is over a sample, always the same one."""
    values = np.random.default_rng(0).uniform(size=500)
    rows = [traced(p, 0.5, id=hash_bytes(str(p).encode())[:16]) for p in values]
    exact = figures.read_curves(rows)
    monkeypatch.setattr(figures, "SAMPLE", 100)
    held = []

    def lowest(sample: list[Any]) -> list[Any]:
        held.append(len(sample))
        return sorted(sample, key=lambda entry: entry[0])[:100]

    monkeypatch.setattr(figures, "_lowest", lowest)
    sampled = figures.read_curves(iter(rows))
    assert exact is not None and sampled is not None
    assert max(held) <= 200 and sampled.images == 500
    (before, after) = (next(c for c in x.curves if c.key == "p") for x in (exact, sampled))
    assert after.mean == before.mean and after.mean[1] == pytest.approx(values.mean())
    assert after.low[1] != before.low[1]
    assert after.low[1] == pytest.approx(before.low[1], abs=0.1)
    assert figures.read_curves(reversed(rows)).curves[0].low == after.low  # type: ignore[union-attr]


def test_nice_ticks() -> None:
    assert figures.nice_ticks(1.0) == (0.0, 0.5, 1.0)
    assert figures.nice_ticks(4.0) == (0.0, 1.0, 2.0, 3.0, 4.0)
    assert figures.nice_ticks(0.0) == (0.0, 1.0)
