"""Numbers that go wrong, and the second signal: what the method and the program make of them."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from higfa_cli.artifacts.atomic import read_jsonl
from tests.support import tiny
from tests.support.drawing import loaded, make_guide, pictures, pixels
from tests.support.fault_project import ROOT, one_line, tree, write_project
from tests.support.forks import Forks
from tests.support.signals import heed_signals
from tests.support.strengths import strengths

GUIDE = {"backbone": "test_resnet.r160_in1k", "pretrained": False, "image_size": 32, "epochs": 1}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return tiny.make_model(tmp_path_factory.mktemp("tiny"))


@pytest.mark.fault(
    "numbers",
    "confidence of exactly 0 or 1",
    "finite, neighbours unchanged, no gradient where it is 1",
)
@pytest.mark.parametrize("read", ["conditional", "composed"])
@pytest.mark.parametrize("grad_norm", ["none", "rms"])
def test_confidence_of_exactly_one_and_zero(
    folders: tuple[Path, Path], grad_norm: str, read: str
) -> None:
    model = loaded(folders)
    guidance = strengths(
        text=1.0, contour=1.0, classifier=2.0, switch=0.5, grad_norm=grad_norm, read=read
    )
    sure, unsure = make_guide(bias=1e4), make_guide()
    one, zero = pictures(model, guidance, sure, targets=(0, 1))
    assert (one.trace["p"][-1], zero.trace["p"][-1]) == (1.0, 0.0)
    for drawn in (one, zero):
        assert drawn.error is None
        assert all(
            np.isfinite(v) for values in drawn.trace.values() for v in values if v is not None
        )
    # The neighbour of a picture with p = 0 is drawn as beside any other.
    beside = pictures(model, guidance, sure, targets=(0, 0))[0]
    assert np.array_equal(beside.pixels, one.pixels)
    # Nothing is left to say for a guide that is sure: its gradient is zero.
    assert one.trace["grad_norm"][-1] == 0.0
    assert not np.array_equal(pixels(pictures(model, guidance, unsure)), pixels([one, zero]))


@pytest.mark.fault("numbers", "zero gradient", "stays zero")
def test_a_guide_that_is_blind_has_no_gradient_and_spoils_nothing(
    folders: tuple[Path, Path],
) -> None:
    model = loaded(folders)
    for grad_norm in ("none", "rms"):
        guidance = strengths(classifier=2.0, switch=0.5, grad_norm=grad_norm)
        for drawn in pictures(model, guidance, make_guide(weight=0.0)):
            assert drawn.trace["grad_norm"][-1] == 0.0
            assert drawn.error is None


@pytest.mark.fault(
    "numbers",
    "every picture fails",
    "exit 3, counted and listed; later stages refuse; the mended model draws them all",
)
def test_all_pictures_failed_is_said_counted_and_stops_what_follows(
    forks: Forks, tmp_path: Path
) -> None:
    recipe = write_project(tmp_path, per_class=1, models=True)
    healthy = tmp_path / "healthy"
    weights = next((tmp_path / "models/sd/unet").glob("*.safetensors"))
    shutil.copy(weights, healthy)
    broken = load_file(weights)
    broken["conv_out.bias"] = torch.full_like(broken["conv_out.bias"], float("nan"))
    save_file(broken, weights, metadata={"format": "pt"})
    workspace = ["--workspace", tmp_path / "w"]
    assert forks.run("contours", recipe, *workspace)[0] == 0
    code, out, err = forks.run("synthesize", recipe, *workspace, "--json")
    assert code == 3, err
    summary = json.loads(out)["summary"]["higfa"]
    assert (summary["images"], summary["failed"], summary["failures"]) == (0, 4, {"not finite": 4})
    rows = read_jsonl(tmp_path / "w/synthesize/higfa/failed.jsonl")
    assert len(rows) == 4 and all(row["error"].startswith("not finite") for row in rows)
    assert read_jsonl(tmp_path / "w/synthesize/higfa/images/metadata.jsonl") == []
    code, _, err = forks.run("filter", recipe, *workspace)
    assert code == 1
    one_line(err, "synthesize")
    # The model mended, the same command draws them all.
    shutil.copy(healthy, weights)
    code, out, err = forks.run("synthesize", recipe, *workspace, "--json")
    assert code == 0, err
    assert json.loads(out)["summary"]["higfa"]["images"] == 4


@pytest.mark.fault("numbers", "a class with one photo", "trains, repeatable")
def test_class_with_one_photo(forks: Forks, tmp_path: Path) -> None:
    recipe = write_project(tmp_path, per_class=3, models=True, guide={**GUIDE, "batch_size": 4})
    for number in (1, 2):
        (tmp_path / f"photos/train/red disc/{number}.png").unlink()
    arguments = [recipe, "--workspace", tmp_path / "w"]
    assert forks.run("contours", *arguments)[0] == 0
    code, _, err = forks.run("finetune-guide", *arguments)
    assert code == 0, err
    calibration = json.loads((tmp_path / "w/finetune-guide/calibration.json").read_text())
    assert calibration["temperature"] > 0
    before = tree(tmp_path / "w/finetune-guide")
    assert forks.run("finetune-guide", *arguments, "--force")[0] == 0
    assert tree(tmp_path / "w/finetune-guide") == before


# Signals, on a small program under the same guard.

SCRIPT = """
import time, typer
from higfa_cli.cli.guard import Guarded
app = typer.Typer(cls=Guarded, pretty_exceptions_enable=False)
@app.command()
def work() -> None:
    try:
        print("working", flush=True)
        time.sleep(60)
    finally:
        print("tidying", flush=True)
        time.sleep(60)
@app.command()
def other() -> None:
    pass
app()
"""


@pytest.mark.fault("stop", "a second signal", "ends at once, resumable")
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_second_signal_ends_the_program_at_once(second: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "work"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        preexec_fn=heed_signals,
    ) as child:
        assert child.stdout and child.stdout.readline() == b"working\n"
        child.send_signal(signal.SIGINT)
        assert child.stdout.readline() == b"tidying\n"
        child.send_signal(second)
        assert child.wait(timeout=10) == -second


@pytest.mark.fault(
    "stop",
    "SIGHUP under `nohup`, SIGINT in the background of a script",
    "stays ignored",
)
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_signal_that_is_ignored_stays_ignored(number: int) -> None:
    """As under `nohup`, or in the background of a shell's script."""
    script = SCRIPT.replace("time.sleep(60)", "time.sleep(0.5)")
    with subprocess.Popen(
        [sys.executable, "-c", script, "work"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(number, signal.SIG_IGN) and None,
    ) as child:
        assert child.stdout and child.stdout.readline() == b"working\n"
        child.send_signal(number)
        assert child.stdout.read() == b"tidying\n"
    assert child.returncode == 0
