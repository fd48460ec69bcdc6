"""The report stage on a fabricated workspace whose right answers are known."""

from __future__ import annotations

import csv
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from higfa_cli.artifacts.artifact import write_rows
from higfa_cli.errors import UserError
from higfa_cli.report import tables, wording
from higfa_cli.report.stats import Difference
from higfa_cli.stages import report
from higfa_cli.stages.report_inputs import report_inputs
from tests.support.report_project import (
    BETTER,
    HOSTILE,
    REAL,
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
