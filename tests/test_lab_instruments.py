"""The instruments: the table, and a whole run on tiny parts."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from higfa_cli.errors import UserError
from higfa_cli.recipe.strict_yaml import dump_yaml
from tests.support.lab_project import blobs
from tests.support.tiny import make_model
from tools.pocket.lab import features, instruments, measure, pages
from tools.pocket.lab.draw import Pictures
from tools.pocket.lab.features import FeatureSpace
from tools.pocket.lab.figures import Interval
from tools.pocket.lab.freeze import data_hash
from tools.pocket.lab.judges import (
    ARCHITECTURES,
    JudgeSpec,
    build,
    check_data,
    check_jury,
    jury_log_probabilities,
    load_judges,
    save_judge,
    votes,
)
from tools.pocket.lab.laboratory import Instruments, open_instruments
from tools.pocket.lab.measure import Pools, Row, row
from tools.pocket.lab.options import Options
from tools.pocket.lab.scores import Score
from tools.pocket.lab.thresholds import met
from tools.pocket.pocket_render.catalogue import load_classes

SIZE, PER_CLASS = 32, 4
ROOT = Path(__file__).resolve().parent.parent
CLASSES = tuple(load_classes())


def test_bars_are_judged_by_the_numbers() -> None:
    assert met(asdict(Row("a", 0.85, threshold=0.85))) == "reached"
    assert met(asdict(Row("a", 0.8499999, threshold=0.85))) == "**MISSED**"
    assert met(asdict(Row("a", math.nan, threshold=0.85))) == "**MISSED**"
    assert met(asdict(Row("a", 0.1))) == ""
    low = row("share", Interval(0.5, 0.4, 0.6), threshold=0.65, about="n")
    rows = [asdict(one) for one in (low, Row("speed", 6.0, threshold=5.0, unit="per second"))]
    data = pages.read(ROOT / "docs")
    data["instruments"] |= {"parts": {"text": rows}}
    text = pages.render("instruments", data)
    assert "| share | 50.0 % | 40.0 % to 60.0 % | at least 65.0 % | **MISSED** | n |" in text
    assert "| speed | 6.00 / s |  | at least 5.00 / s | reached |  |" in text


def write_judges(folder: Path, *sizes: int, data: str | None = None) -> Path:
    """Random judges."""
    for seed, name in enumerate(ARCHITECTURES):
        torch.manual_seed(seed)
        spec = JudgeSpec(name, CLASSES, sizes, 1.0, data or data_hash())
        save_judge(folder / f"{name}.safetensors", build(name, len(CLASSES)), spec)
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rendered pools, judges, a tiny generator, photos and a recipe."""
    root = tmp_path_factory.mktemp("lab")
    for offset, pool in enumerate(("web", "train", "test")):
        images = root / "rendered" / pool / "images"
        images.mkdir(parents=True)
        rows = []
        for number, variant in enumerate(v for v in CLASSES for _ in range(PER_CLASS)):
            identity = f"{offset}{number:03d}"
            Image.fromarray(blobs(1000 * offset + number, 48)).save(images / f"{identity}.jpg")
            rows.append({"id": identity, "file": f"images/{identity}.jpg", "variant": variant})
            if pool == "train":
                own = root / "photos" / "train" / variant
                own.mkdir(parents=True, exist_ok=True)
                Image.fromarray(blobs(number, SIZE)).save(own / f"{identity}.png")
        lines = "".join(json.dumps(one) + "\n" for one in rows)
        (images.parent / "records.jsonl").write_text(lines, encoding="utf-8")
    write_judges(root / "judges", SIZE, 48)
    model, controlnet = make_model(root / "model", family="pocket-like")
    recipe: dict[str, Any] = {
        "name": "lab",
        "data": {"layout": "imagefolder", "root": str(root / "photos")},
        "contours": {"canny_low": 10.0, "canny_high": 20.0},
        "size": SIZE,
        "model": {"base": str(model), "controlnet": str(controlnet)},
        "sampling": {"steps": 2},
        "prompts": {"templates": ["a {words}"]},
        "run": {"device": "cpu"},
    }
    (root / "recipe.yaml").write_text(dump_yaml(recipe), encoding="utf-8")
    return root


@contextmanager
def opened(
    home: Path, out: Path, judges: Path | None = None
) -> Iterator[tuple[Instruments, Pools]]:
    """The instruments on the tiny parts."""
    options = Options(
        recipe=str(home / "recipe.yaml"),
        judges=judges or home / "judges",
        workspace=out / "workspace",
        out=out,
        per_class=PER_CLASS,
        workers=1,
        rendered=home / "rendered",
    )
    space = FeatureSpace()
    with open_instruments(options, "train", space, guide=None) as found:
        yield found, instruments.pools_of(found, space)


def test_judges_of_other_data_are_refused(home: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no judge"):
        load_judges(tmp_path)
    old = load_judges(write_judges(tmp_path / "old", SIZE, data="0" * 64))
    with pytest.raises(UserError, match="other classes or pools"):
        check_data(old)
    larger = write_judges(tmp_path / "larger", 2 * SIZE)
    with (
        pytest.raises(UserError, match=f"pictures have {SIZE}"),
        opened(home, tmp_path / "out", larger),
    ):
        pass
    with pytest.raises(UserError, match="Concorde"):
        check_jury(load_judges(larger), (*CLASSES, "Concorde"), 2 * SIZE)


def test_judges_are_counted_right(home: Path, tmp_path: Path) -> None:
    with opened(home, tmp_path) as (found, pools):
        rows = {one.figure: one for one in instruments.judges_part(found, pools)}
    assert len(rows) == 12 and "jury at 48 px: accuracy" in rows
    judge = load_judges(home / "judges")[0]
    right = judge.log_probabilities(pools.test.pictures).argmax(1) == pools.test.labels
    own = rows[f"{judge.spec.architecture} at {SIZE} px: accuracy"]
    assert own.value == pytest.approx(right.double().mean().item())
    assert own.threshold == 0.85 and met(asdict(own)) == "**MISSED**"


def test_failed_pictures_never_agree(home: Path, tmp_path: Path) -> None:
    with opened(home, tmp_path) as (found, pools):
        jury = jury_log_probabilities(found.judges, pools.test.pictures)
    failed = torch.arange(len(jury)) < 16
    pictures = Pictures(pictures=pools.test.pictures, labels=jury.argmax(1), failed=failed)
    seen = votes(found.judges, pictures.pictures, CLASSES)
    # Agreement reads no features, whose weights need not be installed.
    score = Score(pictures, seen, torch.zeros(len(jury), 1))
    first, *_, log_p = measure.agreement_rows(score, found.judges)
    assert first.value == pytest.approx(1 - 16 / len(jury)) and "16 pictures failed" in first.about
    assert log_p.value == pytest.approx(jury[16:].max(dim=1).values.mean().item(), abs=1e-5)


def test_parts_are_kept_until_their_inputs_change(home: Path, tmp_path: Path) -> None:
    judges, out = write_judges(tmp_path / "judges", SIZE), tmp_path / "out"
    path = out / "data" / "instruments.json"

    def measured(bench: tuple[Instruments, Pools], *only: str) -> dict[str, Any]:
        instruments.measure_parts("instruments", instruments.PARTS, *bench, only)
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return stored

    with opened(home, out, judges) as bench:
        stored = measured(bench, "judges", "warp")
        assert list(stored["parts"]) == ["judges", "warp"]
        stored["parts"]["judges"][0]["value"] = 0.123
        path.write_text(json.dumps(stored), encoding="utf-8")
        assert measured(bench, "warp")["parts"] == stored["parts"]
    torch.manual_seed(9)
    name, spec = "resnet10t", load_judges(judges)[0].spec
    save_judge(judges / f"{name}.safetensors", build(name, len(CLASSES)), spec)
    with opened(home, out, judges) as changed:
        assert list(measured(changed, "autoencoder")["parts"]) == ["autoencoder"]
    page = (out / "instruments.md").read_text(encoding="utf-8")
    assert "Not measured: Judges on test photos" in page


def test_whole_run(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(features.PACKAGE)
    for name, small in (("STEPS", 2), ("BATCH", 2), ("THREADS", 1), ("ROUNDS", 1)):
        monkeypatch.setattr(instruments, f"SPEED_{name}", small)
    command = ["instruments", "--rendered", str(home / "rendered"), "--judges"]
    docs = tmp_path / "docs"
    command += [str(home / "judges"), "--workspace", str(tmp_path / "workspace")]
    command += ["--out", str(docs), "--workers", "1"]
    command += ["--recipe", str(home / "recipe.yaml"), "--per-class"]
    monkeypatch.setattr(sys, "argv", [*command, str(PER_CLASS)])
    instruments.main()
    printed = capsys.readouterr().out
    written = json.loads((docs / "data" / "instruments.json").read_text(encoding="utf-8"))
    assert list(written["parts"]) == list(instruments.PARTS)
    assert (docs / "instruments.md").read_text(encoding="utf-8") in printed
    assert "**MISSED**" in printed and "reached" in printed
    for name in ("text", "contour"):
        rows = {one["figure"]: one for one in written["parts"][name]}
        assert rows["jury agreement"]["low"] <= rows["jury agreement"]["value"]
        assert {"recall", "coverage", "copies", "edge overlap", "intra-class distance"} <= set(rows)
        assert 0 <= rows["copies"]["value"] <= 1 and rows["intra-class distance"]["value"] > 0
    with Image.open(docs / "pictures" / "text-only.png") as sheet:
        assert sheet.size[0] == 16 * (SIZE + 2)
    before = hashlib.sha256((docs / "data" / "instruments.json").read_bytes()).hexdigest()
    instruments.main()
    assert "measuring" not in capsys.readouterr().out
    after = hashlib.sha256((docs / "data" / "instruments.json").read_bytes()).hexdigest()
    assert before == after
    monkeypatch.setattr(sys, "argv", [*command, "1"])
    with pytest.raises(SystemExit) as stopped:
        instruments.main()
    assert stopped.value.code == 1 and "--per-class 1" in capsys.readouterr().err
