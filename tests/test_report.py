"""The report stage on a fabricated workspace whose right answers are known."""

from __future__ import annotations

import csv
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

from higfa_cli.artifacts.artifact import write_rows
from higfa_cli.artifacts.fingerprint import hash_bytes
from higfa_cli.artifacts.rows import TraceRow
from higfa_cli.errors import UserError
from higfa_cli.report import figures, tables, wording
from higfa_cli.report.stats import Answer, Difference, mean_std, paired_difference
from higfa_cli.stages import report
from higfa_cli.stages.report_inputs import report_inputs
from tests.support.report_project import (
    BETTER,
    HOSTILE,
    REAL,
    SEEDS,
    SWAPPED,
    WAYS,
    context,
    draw_aircraft,
    workspace,
    write_downstream,
    write_predictions,
    write_synthesis,
)
from tests.support.shapes import picture_row

# --- a workspace made in code -----------------------------------------------------------------


# --- statistics -------------------------------------------------------------------------------


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


# --- tables and escaping ----------------------------------------------------------------------


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


# --- figures ----------------------------------------------------------------------------------


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


# --- the stage --------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def helped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    root = tmp_path_factory.mktemp("helped")
    summary = report.run(workspace(root, BETTER))
    return root / "report", summary


def test_page_is_self_contained(helped: tuple[Path, dict[str, Any]]) -> None:
    text = (helped[0] / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    names = {name for name, _ in page.tags}
    assert not names & {"script", "iframe", "object", "embed", "base", "form", "use", "image"}
    images = page.attributes("img")
    assert len(images) == 4 * len(WAYS)
    assert all((i["src"] or "").startswith("data:image/png;base64,iVBOR") for i in images)
    assert all(i["alt"] for i in images)
    for tag, attrs in page.tags:
        assert not any(key.startswith("on") for key in attrs), (tag, attrs)
        for key in ("href", "src", "srcset", "action", "xlink:href"):
            assert (attrs.get(key) or "data:").startswith("data:"), (tag, attrs)
    assert "url(" not in text
    assert "@import" not in text
    assert not re.search(r"(https?:)?//[a-z]", text.split("<body>")[0])
    policy = next(m for m in page.attributes("meta") if m.get("http-equiv"))
    assert policy["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_page_says_what_was_measured(helped: tuple[Path, dict[str, Any]]) -> None:
    directory, summary = helped
    text = " ".join(" ".join(Page((directory / "report.html").read_text("utf-8")).text).split())
    assert summary["verdict"] == "Helped"
    assert "test accuracy rose by 15.0 points" in text
    assert "3 seeds, 200 test photos" in text
    # 120, 116 and 124 right of 200: mean 60 %, std 2 %.
    assert "60.0 ± 2.0" in text
    assert "75.0 ± 2.0" in text
    assert HOSTILE in text
    assert "guide's confidence 0.62" in text
    assert "T = 1.83" in text
    assert "0.214" in text
    assert "240 of 120 photos" in text
    assert "higfa run 'my recipe.yaml'" in text
    assert "higfa 1.5 60 6" in text
    assert "2001" not in text
    assert text.index("Helped") < text.index("Results") < text.index("How the verdict was made")
    headings = ["Gallery", "over the steps", "Calibration", "Cost", "How it was made", "Limits"]
    places = [text.index(h) for h in headings]
    assert places == sorted(places)


def test_csv_reads_back(helped: tuple[Path, dict[str, Any]]) -> None:
    rows = list(csv.DictReader(io.StringIO((helped[0] / "results.csv").read_text("utf-8"))))
    assert [row["arm"] for row in rows] == ["real", "real+higfa"]
    assert float(rows[0]["test_accuracy_mean"]) == pytest.approx(0.6)
    assert float(rows[0]["test_accuracy_std"]) == pytest.approx(0.02)
    assert rows[0]["difference_points"] == ""
    assert float(rows[1]["difference_points"]) == pytest.approx(15.0)
    assert float(rows[1]["difference_low"]) > 0
    assert (rows[1]["verdict"], rows[1]["paired_test_images"]) == ("helped", "200")


def test_markdown_and_latex(helped: tuple[Path, dict[str, Any]]) -> None:
    markdown = (helped[0] / "report.md").read_text("utf-8")
    assert "<img" not in markdown
    assert "&lt;img src=x onerror=alert(1)&gt;" in markdown
    links = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", markdown)
    assert len(links) == 4 * len(WAYS)
    assert all((helped[0] / unquote(link)).is_file() for link in links)
    # Every table row has as many cells as its header.
    for block in re.findall(r"(?:^\|.*\n)+", markdown, flags=re.M):
        cells = [len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()]
        assert len(cells) >= 3, block
        assert len(set(cells)) == 1, block
    latex = (helped[0] / "results.tex").read_text("utf-8")
    assert r"real+higfa & 240 & 75.0 $\pm$ 2.0" in latex
    assert latex.isascii()


def test_same_input_same_bytes(tmp_path: Path, helped: tuple[Path, dict[str, Any]]) -> None:
    report.run(workspace(tmp_path, BETTER))
    for name in ("report.html", "report.md", "results.csv", "results.tex"):
        assert (tmp_path / "report" / name).read_bytes() == (helped[0] / name).read_bytes()


def test_hurt_and_no_evidence(tmp_path: Path) -> None:
    ctx = workspace(tmp_path, SWAPPED)
    assert report.run(ctx)["verdict"] == "No evidence"
    write_downstream(tmp_path, {"real": BETTER, "real+higfa": REAL}, 200, test=True)
    summary = report.run(ctx)
    assert summary["verdict"] == "Hurt"
    assert "fell by 15.0 points" in summary["sentence"]


def test_no_test_split_gives_no_verdict(tmp_path: Path) -> None:
    summary = report.run(workspace(tmp_path, BETTER, test=False))
    assert summary["verdict"] == "No verdict is possible"
    assert "no test split" in summary["sentence"]
    markdown = (tmp_path / "report/report.md").read_text("utf-8")
    assert "Validation accuracy" in markdown
    assert "61.0 ± 1.0" in markdown


def test_only_real_arm_and_nothing_else(tmp_path: Path) -> None:
    write_downstream(tmp_path, {"real": REAL}, 200, test=True)
    summary = report.run(context(tmp_path))
    assert "nothing to compare" in summary["sentence"]
    for name in ("report.md", "report.html"):
        text = (tmp_path / "report" / name).read_text("utf-8")
        for missing in ("No gallery", "No traces", "No calibration", "No cost"):
            assert missing in text


def test_guide_off(tmp_path: Path) -> None:
    workspace(tmp_path, BETTER)
    write_synthesis(tmp_path, guided=False)
    report.run(context(tmp_path, switch=1.0))
    text = (tmp_path / "report/report.html").read_text("utf-8")
    assert "The guide was off" in text
    assert "nothing to calibrate" in text
    assert "not read" in text
    assert "guide's confidence 0" not in text


def test_missing_results_name_the_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="higfa train-downstream"):
        report.run(context(tmp_path))
    assert not (tmp_path / "report").exists()


def test_predictions_that_contradict_the_results_are_refused(tmp_path: Path) -> None:
    ctx = workspace(tmp_path, BETTER)
    path = tmp_path / "train-downstream/arms/real/seed-1/predictions.csv"
    write_predictions(path, set(range(10)), 200)
    with pytest.raises(UserError, match=r"real, seed 1.*0\.9500.*0\.5800"):
        report.run(ctx)
    path.unlink()
    with pytest.raises(UserError, match=r"predictions\.csv is missing"):
        report.run(ctx)
    assert not (tmp_path / "report").exists()


def test_gallery_cannot_reach_outside(tmp_path: Path) -> None:
    ctx = workspace(tmp_path, BETTER)
    draw_aircraft(tmp_path / "secret.png", "source", 0)
    row = picture_row(id="id0", cls="A320", file_name="no 0.png", contour="../secret.png")
    write_rows(tmp_path / "synthesize/gallery/images/metadata.jsonl", [row])
    with pytest.raises(UserError, match=r"secret\.png. leaves it"):
        report.run(ctx)


def test_inputs_name_what_changed(tmp_path: Path) -> None:
    ctx = workspace(tmp_path, BETTER)
    before = report_inputs(ctx)
    assert before.key == report_inputs(ctx).key
    write_predictions(
        tmp_path / "train-downstream/arms/real/seed-1/predictions.csv", set(range(9)), 200
    )
    after = report_inputs(ctx)
    changed = {k for k in after.files if after.files[k] != before.files[k]}
    assert changed == {"train-downstream/arms"}
    # An unused guide is no input, so its state cannot hold the report up.
    assert "finetune-guide/calibration.json" in before.files
    assert "finetune-guide/calibration.json" not in report_inputs(context(tmp_path, switch=1)).files


def test_limits_depend_on_the_numbers() -> None:
    mixed = Difference(0.5, -1, 2, 40, 9, (0, 1), (1.5, -0.5))
    arms = [tables.Arm("real", 0, (), None), tables.Arm("real+higfa", 9, (), mixed)]
    facts: dict[str, Any] = {"arms": arms, "test": True, "gallery": [{"confidence": 0.5}]}
    faults = {"cross_validated": True, "failed": 2, "missing": {"real+x": 3}}
    faults |= {"worthless": ["The guide guesses"]}
    faults["notes"] = ["2 test photos are training photos too"]
    text = " ".join(wording.sentences("limits", arm=arms[1], **facts, **faults))
    for part in (
        "seeds disagree",
        "40 test photos",
        "cross-validation",
        "2 pictures failed",
        "of 3 of",
        "The guide guesses.",
        "2 test photos are training photos too.",
    ):
        assert part in text
    calm = Difference(0.5, -1, 2, 400, 9, (0, 1), (0.5, 0.5))
    arms[1] = tables.Arm("real+higfa", 9, (), calm)
    faults = {"cross_validated": False, "failed": 0, "missing": {}, "worthless": [], "notes": ()}
    text = " ".join(wording.sentences("limits", arm=arms[1], **facts, **faults))
    for part in ("seeds disagree", "rough", "cross-validation", "failed", "real+x"):
        assert part not in text


def test_how_checkpoints_were_chosen_is_told() -> None:
    told = {
        how: wording.sentences("method", arm=None, test=True, chosen_by=how)[-1]
        for how in ("val", "last", "a fifth")
    }
    assert "best on the validation photos;" in told["val"]
    assert "last checkpoint" in told["last"]
    assert "best on a fifth;" in told["a fifth"]
