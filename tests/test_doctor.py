"""`higfa doctor`: what is missing, said before any work, and the self-check of tiny models."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from diffusers import ControlNetModel

from higfa_cli.forecast import capacity, estimate
from higfa_cli.forecast.estimate import ALLOWANCE
from higfa_cli.forecast.findings import Findings
from higfa_cli.forecast.model_files import missing_weights
from higfa_cli.models.machine import Device, device_of
from higfa_cli.recipe.classifiers import Training
from higfa_cli.recipe.load import load_recipe
from higfa_cli.stages.context import make_context
from higfa_cli.text import gib
from tests.support.doctor import CHECKS, copied, examine, row, run, small_recipe

pytestmark = pytest.mark.usefixtures("hub")
ROOT = Path(__file__).parent.parent


def test_help() -> None:
    assert "Say before any work what is missing." in run("--help").stdout


def test_the_pocket_is_well() -> None:
    answer = examine("pocket")
    assert [one["check"] for one in answer["checks"]] == CHECKS
    assert all(one["status"] == "ok" for one in answer["checks"]), answer["checks"]
    assert answer["missing_files"] == []
    assert answer["next"] == "higfa contours pocket"
    assert "1,056 pictures" in row(answer, "disk")["detail"]
    assert "none longer than 32 tokens" in row(answer, "prompts")["detail"]


def test_people_see_one_line_per_check_and_each_command_once() -> None:
    # The unknown model keeps this quick: nothing is counted.
    shown = run("aircraft", "--set", "model.base=some/model")
    assert shown.exit_code == 1 and "Traceback" not in shown.output
    lines = shown.stdout.splitlines()
    checks = [line.split() for line in lines if line.startswith(("ok ", "FAILED ", "warning "))]
    assert [" ".join(words[1:3]) for words in checks if words[1] == "model"] == [
        "model files",
        "model not",
    ]
    assert len(checks) == len(CHECKS)
    data = next(index for index, line in enumerate(lines) if line.startswith("FAILED   data"))
    assert lines[data + 1].startswith(" " * 9) and "-> get it from" in lines[data + 1]
    assert "  the whole of some/model at 462165984030" in lines
    assert "  2 files of diffusers/controlnet-canny-sdxl-1.0 at eb115a19a10d" in lines
    commands = [line for line in lines if line.startswith("hf download")]
    assert len(commands) == len(set(commands)) == 3
    assert "--include '*.safetensors'" in commands[0]
    # A shell refuses none of them; what is said beside them is a comment.
    script = "\n".join(lines[lines.index("what to do:") + 1 : -1])
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    assert script.splitlines()[2] == "# or set guide.weights, or guide.pretrained: false"
    assert lines[-1].startswith("next: put the data right")
    assert shown.stderr == ""


@pytest.mark.parametrize(("size", "near"), [(33, "32 or 36"), (2, "4")], ids=("33", "2"))
def test_a_wrong_size_is_the_failed_row(
    models: dict[str, tuple[Path, Path]], tmp_path: Path, size: int, near: str
) -> None:
    recipe = small_recipe(tmp_path, *models["sd"])
    answer = examine(recipe, "--set", f"size={size}", exit_code=1)
    failed = [one for one in answer["checks"] if one["status"] == "failed"]
    (wrong,) = failed
    assert f"size: {size} is not a multiple of 4" in wrong["detail"]
    assert wrong["remedy"] == f"set size to {near}"
    for check in ("memory", "time"):
        assert row(answer, check)["detail"] == "not known before what fails above is mended"


def test_memory_is_held_against_what_the_run_may_take(
    models: dict[str, tuple[Path, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(str(small_recipe(tmp_path, *models["sd"], batch_size=1)))
    findings = Findings(make_context(recipe), device=device_of("cpu"))
    arm, cost = findings.costliest
    assert cost.architecture is not None
    need = estimate.memory_of(arm, cost.architecture, 1)
    working = need.peak - need.weights

    def status(available: int, total: int) -> str:
        found = SimpleNamespace(available=available, total=total)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: found)
        found_row = capacity.memory(findings)
        assert "for 1 picture; " in found_row.detail and "50% of which" in found_row.detail
        return found_row.status

    # Half of what is left beside the weights.
    enough = need.weights + 2 * working
    assert status(enough, 2 * enough) == "ok"
    assert status(enough - 2, enough) == "warning"
    assert status(enough // 2, enough // 2) == "failed"
    # A GPU is asked for all of it, and for what no estimate sees.
    total = need.peak + ALLOWANCE
    for free, of, expected in (
        (total, total, "ok"),
        (9, total, "warning"),
        (9, total - 1, "failed"),
    ):
        findings.device = Device("cuda:0", "cuda", "a GPU", free, of)
        found_row = capacity.memory(findings)
        assert found_row.status == expected
        assert "for 1 picture, plus about 1.5 GiB for CUDA; " in found_row.detail
    assert gib(ALLOWANCE) == "1.5 GiB"
    assert re.search(r"Add about 1.5 GiB", (ROOT / "docs" / "memory.md").read_text())


def test_start_weights_of_classifiers(tmp_path: Path) -> None:
    (wanted,) = missing_weights(Training(backbone="resnet50"), tmp_path, "guide")
    assert (wanted.repo, wanted.file) == ("timm/resnet50.a1_in1k", "model.safetensors")
    assert missing_weights(Training(backbone="resnet50", pretrained=False), tmp_path, "guide") == []
    local = Training(backbone="resnet50", weights="own.safetensors")
    assert missing_weights(local, tmp_path, "guide")[0].file == "own.safetensors"
    (tmp_path / "own.safetensors").touch()
    assert missing_weights(local, tmp_path, "guide") == []


def test_a_misspelt_network_fails_one_row_alone(
    models: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    recipe = small_recipe(tmp_path, *models["sd"])
    answer = examine(recipe, "--set", "guide.backbone=resnet5O", exit_code=1)
    (failed,) = (row for row in answer["checks"] if row["status"] == "failed")
    assert failed["check"] == "model files"
    assert failed["detail"] == "guide.backbone: timm has no model `resnet5O`"
    assert "resnet50" in failed["remedy"]
    unknown = [row["detail"] for row in answer["checks"] if row["check"] in ("memory", "time")]
    assert unknown == ["not known before what fails above is mended"] * 2


def test_failures_are_rows(models: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, *models["sd"])
    answer = examine(recipe, "--device", "cuda:77", exit_code=1)
    assert [one["check"] for one in answer["checks"]] == CHECKS
    assert [one["check"] for one in answer["checks"] if one["status"] == "failed"] == ["device"]
    assert "cuda:77" in row(answer, "device")["detail"]
    assert answer["next"] is None
    odd = examine(recipe, "--set", "size=33", exit_code=1)
    assert "33 is not a multiple of 4" in row(odd, "model")["detail"]
    mixed = examine(recipe, "--set", f"model.controlnet={models['sdxl'][1]}", exit_code=1)
    assert "use a ControlNet made for it" in row(mixed, "model")["remedy"]
    lost = examine(recipe, "--set", "data.root=nowhere", exit_code=1)
    assert row(lost, "data")["remedy"] == "correct data.root"
    assert row(lost, "disk")["status"] == "warning"
    invalid = examine(recipe, "--set", "sampling.steps=0", exit_code=1)
    assert [one["check"] for one in invalid["checks"]] == ["recipe"]


def test_notes_are_for_people(
    models: dict[str, tuple[Path, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small_recipe(tmp_path, *models["sd"])
    notes = ["counting the model's arithmetic, once ...", "estimating the model's memory, once ..."]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert run(recipe).stderr.splitlines() == notes
    assert run(recipe).stderr == ""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert run(recipe, "--json").stderr == ""


def test_warnings_do_not_fail(models: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    long = "a very long description " * 10 + "of a {words}"
    recipe = small_recipe(tmp_path, *models["sd"], dtype="float16")
    answer = examine(recipe, "--set", f"prompts.templates=['{long}']")
    assert row(answer, "dtype")["status"] == "warning"
    assert row(answer, "prompts")["status"] == "warning"
    assert "blue disc" in row(answer, "prompts")["detail"]
    assert row(answer, "prompts")["detail"].startswith("4 classes have prompts that")
    assert answer["next"].startswith("higfa contours")


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "sd35"])
def test_self_check_draws_and_compares(
    models: dict[str, tuple[Path, Path]], tmp_path: Path, family: str
) -> None:
    solver = "flow-euler" if family.startswith("sd3") else "euler"
    recipe = small_recipe(tmp_path, *models[family], scheduler=solver)
    answer = examine(recipe, "--self-check")
    found = answer["self_check"]
    assert [one["check"] for one in found["checks"]] == [
        "finite",
        "not constant",
        "text moves the picture",
        "contour moves the picture",
        "guide's gradient",
        "as the stock pipeline",
    ]
    assert all(one["status"] == "ok" for one in found["checks"]), found["checks"]
    assert found["measured"]["seconds_per_guided_step"] > 0
    block = found["block"]
    assert block.startswith("```text\n") and block.endswith("\n```")
    for word in (f"torch {torch.__version__.split('+')[0]}", "local folder", "euler", "4 classes"):
        assert word in block
    assert str(tmp_path) not in block and str(models[family][0].parent) not in block
    assert str(Path.home()) not in block and not re.search(r"(^|\s)/\w", block)
    if family == "sd":
        shown = run(recipe, "--self-check")
        assert shown.exit_code == 0 and "```text" in shown.stdout
    assert not (tmp_path / "here" / "runs").exists()


def test_self_check_sees_a_control_net_without_effect(
    models: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    model, controlnet = copied(models, tmp_path)
    net = ControlNetModel.from_pretrained(controlnet)
    for parameter in net.controlnet_cond_embedding.conv_out.parameters():
        torch.nn.init.zeros_(parameter)
    net.save_pretrained(controlnet)
    answer = examine(small_recipe(tmp_path, model, controlnet), "--self-check", exit_code=1)
    bad = [one["check"] for one in answer["self_check"]["checks"] if one["status"] == "failed"]
    assert bad == ["contour moves the picture"]
    assert "FAILED: contour moves the picture" in answer["self_check"]["block"]


def test_self_check_waits_for_the_files(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, Path("some/model"), Path("some/controlnet"))
    answer = examine(recipe, "--self-check", exit_code=1)
    assert answer["self_check"]["checks"][0]["detail"] == "not done: model files are missing"
