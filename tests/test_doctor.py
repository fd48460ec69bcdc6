"""`higfa doctor`: what is missing, said before any work, and the self-check of tiny models."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from diffusers import ControlNetModel
from huggingface_hub import constants
from typer.testing import CliRunner, Result

from higfa_cli.cli.app import app
from higfa_cli.forecast import capacity, estimate
from higfa_cli.forecast.estimate import ALLOWANCE
from higfa_cli.forecast.findings import Findings
from higfa_cli.forecast.model_files import (
    FOLDER,
    MissingFile,
    missing_files,
    missing_weights,
)
from higfa_cli.forecast.repository import ENTIRE_REPOSITORY
from higfa_cli.models.machine import Device, device_of
from higfa_cli.recipe.classifiers import Training
from higfa_cli.recipe.drawing import Model
from higfa_cli.recipe.load import load_recipe
from higfa_cli.stages.context import make_context
from higfa_cli.text import gib
from tests.support import tiny
from tests.support.recipes import drawing_keys, drawing_recipe, load_model, write_recipe
from tests.support.shapes import write_class_folders

CHECKS = [
    "recipe",
    "data",
    "prompts",
    "model files",
    "model",
    "device",
    "dtype",
    "memory",
    "disk",
    "time",
]
ROOT = Path(__file__).parent.parent
XL = "stabilityai/stable-diffusion-xl-base-1.0"


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: Path) -> Path:
    """An empty current folder and hub cache; returns the cache."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return offline


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    folder = tmp_path_factory.mktemp("models")
    families = ("sd", "sdxl", "sd3", "sd35")
    return {family: tiny.make_model(folder / family, family=family) for family in families}


def small_recipe(folder: Path, model: Path, controlnet: Path, **drawing: Any) -> Path:
    write_class_folders(folder / "photos" / "train", 2, 0)
    return write_recipe(
        folder / "tiny.yaml", (model, controlnet), **drawing_keys(**{"steps": 4} | drawing)
    )


def copied(models: dict[str, tuple[Path, Path]], folder: Path) -> tuple[Path, Path]:
    for source in models["sd"]:
        shutil.copytree(source, folder / source.name)
    return folder / "sd", folder / "controlnet"


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["doctor", *map(str, words)])


def examine(*words: str | Path, exit_code: int = 0) -> dict[str, Any]:
    result = run(*words, "--json")
    assert result.exit_code == exit_code, result.output
    answer: dict[str, Any] = json.loads(result.stdout)
    assert answer["ok"] == (exit_code == 0)
    return answer


def row(answer: dict[str, Any], check: str) -> dict[str, Any]:
    return next(one for one in answer["checks"] if one["check"] == check)


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


@pytest.mark.parametrize(("name", "offline"), [("aircraft", False), ("aircraft-sd15", True)])
def test_missing_files_are_named_with_their_command(
    monkeypatch: pytest.MonkeyPatch, name: str, offline: bool
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    answer = examine(name, exit_code=1)
    assert [one["check"] for one in answer["checks"]] == CHECKS
    assert row(answer, "data")["status"] == "failed"
    assert "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/" in row(answer, "data")["remedy"]
    assert row(answer, "model files")["status"] == "failed"
    assert row(answer, "model")["status"] == "ok"
    assert "13,336 pictures (published split sizes)" in row(answer, "disk")["detail"]
    settings = load_recipe(name).recipe.model
    wanted = {(one["repo"], one["revision"], one["file"]) for one in answer["missing_files"]}
    files = [
        "model_index.json",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "text_encoder/model.fp16.safetensors",
        "tokenizer/merges.txt",
        "vae/config.json",
    ]
    if settings.base == XL:
        files += ["text_encoder_2/model.fp16.safetensors", "tokenizer_2/merges.txt"]
    assert wanted >= {(settings.base, settings.revision, file) for file in files}
    control = (settings.controlnet, settings.controlnet_revision)
    assert (*control, "diffusion_pytorch_model.fp16.safetensors") in wanted
    assert ("timm/resnet50.a1_in1k", None, "model.safetensors") in wanted
    for one in answer["missing_files"]:
        assert one["remedy"].startswith(f"hf download {one['repo']}")
        assert one["file"] in one["remedy"]
        assert one["revision"] is None or f"--revision {one['revision']}" in one["remedy"]
        assert shlex.split(one["remedy"], comments=True)[3] == (
            "--revision" if one["revision"] else "model.safetensors"
        )
    # The whole of both models and the classifier, in half precision: 9 GiB, or 3 GiB for SD 1.5.
    gib = float(re.search(r"about ([\d.]+) GiB of weights", row(answer, "disk")["detail"])[1])  # type: ignore[index]
    assert (8.5 < gib < 9.2) if settings.base == XL else (2 < gib < 3)
    time = row(answer, "time")
    assert time["status"] == "ok" and "not known before a preview" in time["detail"]
    assert answer["next"] == (
        f"put the data right (see `data` above), then run `higfa doctor {name}` again"
    )


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


def test_cached_files_are_found_at_their_revision(
    hub: Path, models: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    revision = "0123456789abcdef0123456789abcdef01234567"
    for repo, source in zip(("some/sd", "some/controlnet"), models["sd"], strict=True):
        folder = hub / f"models--{repo.replace('/', '--')}"
        shutil.copytree(source, folder / "snapshots" / revision)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(revision)
    both = {"base": "some/sd", "controlnet": "some/controlnet"}
    pinned = Model(**both, revision=revision, controlnet_revision=revision)
    assert missing_files(Model(**both), tmp_path) == []
    assert missing_files(pinned, tmp_path) == []
    other = missing_files(pinned.model_copy(update={"revision": "f" * 40}), tmp_path)
    assert [(one.repo, one.revision, one.file) for one in other] == [
        ("some/sd", "f" * 40, ENTIRE_REPOSITORY)
    ]
    half = missing_files(pinned.model_copy(update={"variant": "fp16"}), tmp_path)
    assert {one.file for one in half} == {
        "text_encoder/model.fp16.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "diffusion_pytorch_model.fp16.safetensors",
    }


def test_a_broken_folder_is_named_to_the_file(
    models: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    model, controlnet = copied(models, tmp_path)
    settings = Model(base=str(model), controlnet=str(controlnet))

    def missing() -> list[str]:
        return [one.file for one in missing_files(settings, tmp_path)]

    assert missing() == []
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])  # an interrupted copy
    assert missing() == ["unet/diffusion_pytorch_model.safetensors"]
    weights.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert missing() == ["unet/diffusion_pytorch_model.safetensors"]
    weights.unlink()
    answer = examine(small_recipe(tmp_path, model, controlnet), exit_code=1)
    (lost,) = answer["missing_files"]
    assert lost["file"] == "unet/diffusion_pytorch_model.safetensors"
    assert str(model) in lost["remedy"]
    weights.write_bytes(whole)
    (model / "tokenizer" / "tokenizer.json").unlink()
    (controlnet / "config.json").unlink()
    assert missing() == ["tokenizer/vocab.json", "tokenizer/merges.txt", "config.json"]
    (model / "model_index.json").write_text("{")
    assert missing()[0] == "model_index.json"


def test_every_file_of_a_model_counts(models: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    """With T5 beside both CLIPs, and without it."""
    model, controlnet = (tmp_path / "three", models["sd3"][1])
    shutil.copytree(models["sd3"][0], model)
    settings = Model(base=str(model), controlnet=str(controlnet))
    assert missing_files(settings, tmp_path) == []
    gone = [
        "tokenizer_3/tokenizer.json",
        "text_encoder_3/model.safetensors",
        "transformer/config.json",
    ]
    for file in gone:
        (model / file).unlink()
    found = {one.file for one in missing_files(settings, tmp_path)}
    assert found == {"tokenizer_3/spiece.model", *gone[1:]}
    base, controlnet = map(str, models["sd35"])
    assert missing_files(Model(base=base, controlnet=controlnet), tmp_path) == []


def test_a_solver_of_another_family_is_named(
    models: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    recipe = small_recipe(tmp_path, *models["sd3"])
    failed = row(examine(recipe, exit_code=1), "model")
    assert failed["detail"].endswith("`ddim` cannot draw from Stable Diffusion 3")
    assert failed["remedy"] == "use flow-euler"
    answer = examine(recipe, "--set", "sampling.scheduler=flow-euler")
    assert row(answer, "model")["detail"] == "Stable Diffusion 3, flow; flow-euler, 32 px"


def test_pickles_alone_do_not_do(models: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    model, controlnet = copied(models, tmp_path)
    weights = controlnet / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    settings = Model(base=str(model), controlnet=str(controlnet))
    (lost,) = missing_files(settings, tmp_path)
    assert lost.key == "model.controlnet"
    assert "only pickles are here (diffusion_pytorch_model.bin)" in lost.remedy
    assert "safe_serialization=True" in lost.remedy


def test_shards_are_counted(models: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    model, controlnet = models["sd"]
    net = ControlNetModel.from_pretrained(controlnet)
    net.save_pretrained(tmp_path / "shards", max_shard_size="60KB")
    settings = Model(base=str(model), controlnet=str(tmp_path / "shards"))
    assert missing_files(settings, tmp_path) == []
    shards = sorted((tmp_path / "shards").glob("*-of-*.safetensors"))
    assert len(shards) > 1
    shards[1].unlink()
    assert [one.file for one in missing_files(settings, tmp_path)] == [shards[1].name]


def test_a_folder_is_ready_exactly_when_it_loads(
    models: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    """A variant: diffusers takes plain parts beside one of the variant, but never only those."""
    from higfa_cli.errors import UserError

    model, controlnet = copied(models, tmp_path)
    control = controlnet / "diffusion_pytorch_model.safetensors"
    control.rename(controlnet / "diffusion_pytorch_model.fp16.safetensors")
    recipe = drawing_recipe(model, controlnet, size=32, variant="fp16", steps=2)
    settings = recipe.model

    def loads() -> bool:
        try:
            load_model(recipe, ["", "a bird"], tmp_path)
        except UserError:
            return False
        return True

    assert not loads() and missing_files(settings, tmp_path)
    unet = model / "unet" / "diffusion_pytorch_model.safetensors"
    unet.rename(model / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    assert loads() and not missing_files(settings, tmp_path)


def test_paths_and_names_that_lead_nowhere(tmp_path: Path) -> None:
    gone = Model(base="./gone", controlnet="a/b/c", gradient_autoencoder="some/taesd")
    found = missing_files(gone, tmp_path)
    assert [one.key.removeprefix("model.") for one in found] == [
        "base",
        "controlnet",
        "gradient_autoencoder",
        "gradient_autoencoder",
    ]
    for one, ref in zip(found, ("./gone", "a/b/c"), strict=False):
        assert (one.file, one.revision) == (FOLDER, None)
        assert one.remedy.startswith(f"no folder {ref} (looked in the recipe's folder and the cur")
        assert "not in the hub cache; correct the path, or fetch the repository" in one.remedy
        assert not one.is_command
    assert found[2].remedy == (
        "hf download some/taesd config.json diffusion_pytorch_model.safetensors"
    )


def test_a_folder_that_is_not_there_is_no_hub_id(hub: Path, tmp_path: Path) -> None:
    """`models/canny` beside a folder `models`: no download, and no revision of another model."""
    settings = Model(
        base=XL, controlnet="models/canny", revision="1" * 40, controlnet_revision="2" * 40
    )

    def control(settings: Model, offline: bool = False) -> list[MissingFile]:
        return [
            one
            for one in missing_files(settings, tmp_path / "here", offline)
            if one.key == "model.controlnet"
        ]

    assert all(one.is_command and one.revision == "2" * 40 for one in control(settings))
    (tmp_path / "here" / "models").mkdir()
    (lost,) = control(settings)
    assert (lost.repo, lost.file, lost.revision) == ("models/canny", FOLDER, None)
    assert "no folder models/canny" in lost.remedy and "hf download" not in lost.remedy
    # Of what the cache holds a part of, the rest can be fetched.
    (hub / "models--models--canny").mkdir(parents=True)
    assert all(one.is_command for one in control(settings))
    # A known hub id is one, whatever folders there are.
    (tmp_path / "here" / "stabilityai").mkdir()
    found = missing_files(settings, tmp_path / "here")
    assert {one.revision for one in found if one.repo == XL} == {"1" * 40}
    other = settings.model_copy(update={"controlnet": "some/control", "controlnet_revision": None})
    assert {one.remark for one in control(other, offline=True)} == {
        "no folder some/control (looked in the recipe's folder and the current one) and not in the "
        "hub cache; correct the path, or fetch the repository:"
    }


def test_a_missing_folder_is_said_once_and_stops_the_rest(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    recipe = small_recipe(tmp_path, Path("models/sd"), Path("models/canny"))
    answer = examine(recipe, exit_code=1)
    assert "no folder models/sd" in row(answer, "model files")["detail"]
    assert row(answer, "model files")["remedy"].startswith("correct the path")
    assert answer["next"].startswith("correct the paths above, then run `higfa doctor")
    shown = run(recipe).stdout
    assert "  no folder models/canny\n" in shown and "hf download" not in shown
    dry = CliRunner().invoke(app, ["synthesize", str(recipe), "--dry-run"])
    assert "no folder models/sd" in dry.stdout and "hf download" not in dry.stdout


@pytest.mark.fault(
    "models", "a folder that is here and is no model", "named, and not called absent"
)
def test_a_folder_of_something_else_is_not_called_absent(tmp_path: Path) -> None:
    for name, file in (("lora", "pytorch_lora_weights"), ("canny", "learned_embeds")):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{file}.safetensors").write_bytes(bytes(9))
    shown = run(small_recipe(tmp_path, Path("lora"), Path("canny"))).stdout
    assert "no folder" not in shown and "LoRA" in shown and "canny is" in shown


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
