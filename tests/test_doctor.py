"""`higfa doctor`: what is missing, said before any work, and the self-check of tiny models."""

from __future__ import annotations

import json
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import ControlNetModel
from huggingface_hub import constants
from typer.testing import CliRunner, Result

from higfa_cli.cli.app import app
from higfa_cli.models.model_files import WHOLE, missing_files, missing_weights
from higfa_cli.recipe.load import load_recipe
from higfa_cli.recipe.schema import Synthesize, Training
from tests import tiny
from tests.shapes import write_class_folders

CHECKS = [
    "recipe",
    "data",
    "contours",
    "prompts",
    "model files",
    "model",
    "device",
    "dtype",
    "memory",
    "disk",
    "time",
]
XL = "stabilityai/stable-diffusion-xl-base-1.0"


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty hub cache, and a network that says so when it is asked; returns the cache."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    asked = []

    def refuse(*_: Any, **__: Any) -> None:
        asked.append("the network was asked")
        raise OSError(asked[-1])

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield tmp_path / "hub"
    assert not asked


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    folder = tmp_path_factory.mktemp("models")
    return {family: tiny.make_model(folder / family, family=family) for family in ("sd", "sdxl")}


def write_recipe(folder: Path, model: Path, controlnet: Path, **synthesize: Any) -> Path:
    write_class_folders(folder / "photos" / "train", 2, 0)
    classifier = {"backbone": "test_resnet.r160_in1k", "pretrained": False, "image_size": 32}
    tree = {
        "name": "tiny",
        "device": "cpu",
        "data": {"root": "photos"},
        "contours": {"size": 32},
        "guide": classifier,
        "synthesize": {
            "model": str(model),
            "controlnet": str(controlnet),
            "size": 32,
            "steps": 4,
            **synthesize,
        },
        "downstream": classifier,
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


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
    assert all(one["ok"] is True for one in answer["checks"]), answer["checks"]
    assert answer["missing_files"] == []
    assert answer["next"] == "higfa contours --dataset pocket"
    assert "480" in row(answer, "disk")["detail"]
    assert "none longer than 77 tokens" in row(answer, "prompts")["detail"]


@pytest.mark.parametrize(("name", "offline"), [("aircraft", False), ("aircraft-sd15", True)])
def test_missing_files_are_named_with_their_command(
    monkeypatch: pytest.MonkeyPatch, name: str, offline: bool
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    answer = examine(name, exit_code=1)
    assert [one["check"] for one in answer["checks"]] == CHECKS
    assert row(answer, "data")["ok"] is False
    assert "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/" in row(answer, "data")["remedy"]
    assert row(answer, "model files")["ok"] is False
    assert row(answer, "model")["ok"] is True
    assert "6,668 pictures (published split sizes)" in row(answer, "disk")["detail"]
    settings = load_recipe(name).recipe.synthesize
    wanted = {(one["repo"], one["revision"], one["file"]) for one in answer["missing_files"]}
    files = [
        "model_index.json",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "text_encoder/model.fp16.safetensors",
        "tokenizer/merges.txt",
        "vae/config.json",
    ]
    if settings.model == XL:
        files += ["text_encoder_2/model.fp16.safetensors", "tokenizer_2/merges.txt"]
    assert wanted >= {(settings.model, settings.revision, file) for file in files}
    control = (settings.controlnet, settings.controlnet_revision)
    assert (*control, "diffusion_pytorch_model.fp16.safetensors") in wanted
    assert ("timm/resnet50.a1_in1k", None, "model.safetensors") in wanted
    for one in answer["missing_files"]:
        assert one["remedy"].startswith(f"hf download {one['repo']}")
        assert one["file"] in one["remedy"]
        assert one["revision"] is None or f"--revision {one['revision']}" in one["remedy"]
    assert answer["next"].startswith(
        f"hf download {settings.model} --revision {settings.revision} "
    )


def test_people_see_a_table_and_each_command_once() -> None:
    # The unknown model keeps this quick: nothing is reckoned.
    shown = run("aircraft", "--set", "synthesize.model=some/model")
    assert shown.exit_code == 1
    assert "FAILED" in shown.stdout and "Traceback" not in shown.output
    commands = [line for line in shown.stdout.splitlines() if line.startswith("  hf download")]
    assert len(commands) == len(set(commands)) == 3
    assert "--include '*.safetensors'" in commands[0]


def test_cached_files_are_found_at_their_revision(
    hub: Path, models: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    revision = "0123456789abcdef0123456789abcdef01234567"
    for repo, source in zip(("some/sd", "some/controlnet"), models["sd"], strict=True):
        folder = hub / f"models--{repo.replace('/', '--')}"
        shutil.copytree(source, folder / "snapshots" / revision)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(revision)
    both = {"model": "some/sd", "controlnet": "some/controlnet"}
    pinned = Synthesize(**both, revision=revision, controlnet_revision=revision)
    assert missing_files(Synthesize(**both), tmp_path) == []
    assert missing_files(pinned, tmp_path) == []
    other = missing_files(pinned.model_copy(update={"revision": "f" * 40}), tmp_path)
    assert [(one.repo, one.revision, one.file) for one in other] == [("some/sd", "f" * 40, WHOLE)]
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
    settings = Synthesize(model=str(model), controlnet=str(controlnet))

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
    answer = examine(write_recipe(tmp_path, model, controlnet), exit_code=1)
    (lost,) = answer["missing_files"]
    assert lost["file"] == "unet/diffusion_pytorch_model.safetensors"
    assert str(model) in lost["remedy"]
    weights.write_bytes(whole)
    (model / "tokenizer" / "tokenizer.json").unlink()
    (controlnet / "config.json").unlink()
    assert missing() == ["tokenizer/vocab.json", "tokenizer/merges.txt", "config.json"]
    (model / "model_index.json").write_text("{")
    assert missing()[0] == "model_index.json"


def test_pickles_alone_do_not_do(models: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    model, controlnet = copied(models, tmp_path)
    weights = controlnet / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    settings = Synthesize(model=str(model), controlnet=str(controlnet))
    (lost,) = missing_files(settings, tmp_path)
    assert lost.key == "synthesize.controlnet"
    assert "only pickles are here (diffusion_pytorch_model.bin)" in lost.remedy
    assert "safe_serialization=True" in lost.remedy


def test_shards_are_counted(models: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    model, controlnet = models["sd"]
    net = ControlNetModel.from_pretrained(controlnet)
    net.save_pretrained(tmp_path / "shards", max_shard_size="60KB")
    settings = Synthesize(model=str(model), controlnet=str(tmp_path / "shards"))
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
    from higfa_cli.models.loading import load_pipeline

    model, controlnet = copied(models, tmp_path)
    control = controlnet / "diffusion_pytorch_model.safetensors"
    control.rename(controlnet / "diffusion_pytorch_model.fp16.safetensors")
    settings = Synthesize(
        model=str(model), controlnet=str(controlnet), variant="fp16", size=32, steps=2
    )

    def loads() -> bool:
        try:
            load_pipeline(settings, tmp_path, torch.device("cpu"), ["", "a bird"])
        except UserError:
            return False
        return True

    assert not loads() and missing_files(settings, tmp_path)
    unet = model / "unet" / "diffusion_pytorch_model.safetensors"
    unet.rename(model / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    assert loads() and not missing_files(settings, tmp_path)


def test_paths_and_names_that_lead_nowhere(tmp_path: Path) -> None:
    gone = Synthesize(model="./gone", controlnet="a/b/c", gradient_autoencoder="some/taesd")
    found = missing_files(gone, tmp_path)
    assert [one.key.removeprefix("synthesize.") for one in found] == [
        "model",
        "controlnet",
        "gradient_autoencoder",
        "gradient_autoencoder",
    ]
    assert "./gone does not exist" in found[0].remedy
    assert "neither a folder nor a hub id" in found[1].remedy
    assert found[2].remedy == (
        "hf download some/taesd config.json diffusion_pytorch_model.safetensors"
    )


def test_start_weights_of_classifiers(tmp_path: Path) -> None:
    (wanted,) = missing_weights(Training(backbone="resnet50"), tmp_path, "guide")
    assert (wanted.repo, wanted.file) == ("timm/resnet50.a1_in1k", "model.safetensors")
    assert missing_weights(Training(backbone="resnet50", pretrained=False), tmp_path, "guide") == []
    local = Training(backbone="resnet50", weights="own.safetensors")
    assert missing_weights(local, tmp_path, "guide")[0].file == "own.safetensors"
    (tmp_path / "own.safetensors").touch()
    assert missing_weights(local, tmp_path, "guide") == []


def test_failures_are_rows(models: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, *models["sd"])
    answer = examine(recipe, "--device", "cuda:77", exit_code=1)
    assert [one["check"] for one in answer["checks"]] == CHECKS
    assert [one["check"] for one in answer["checks"] if one["ok"] is False] == ["device"]
    assert "cuda:77" in row(answer, "device")["detail"]
    assert answer["next"] is None
    other = examine(recipe, "--set", "contours.size=64", exit_code=1)
    assert "contours.size is 64" in row(other, "contours")["detail"]
    both = ("--set", "synthesize.size=33", "--set", "contours.size=33")
    odd = examine(recipe, *both, exit_code=1)
    assert "33 is not a multiple of 4" in row(odd, "model")["detail"]
    mixed = examine(recipe, "--set", f"synthesize.controlnet={models['sdxl'][1]}", exit_code=1)
    assert "use a ControlNet made for it" in row(mixed, "model")["remedy"]
    lost = examine(recipe, "--set", "data.root=nowhere", exit_code=1)
    assert row(lost, "data")["remedy"] == "correct data.root"
    assert row(lost, "disk")["ok"] == "warning"
    invalid = examine(recipe, "--set", "synthesize.steps=0", exit_code=1)
    assert [one["check"] for one in invalid["checks"]] == ["recipe"]


def test_warnings_do_not_fail(models: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    long = "a very long description " * 10 + "of a {words}"
    prompts = {"templates": [long]}
    recipe = write_recipe(tmp_path, *models["sd"], dtype="float16", prompts=prompts)
    answer = examine(recipe)
    assert row(answer, "dtype")["ok"] == "warning"
    assert row(answer, "prompts")["ok"] == "warning"
    assert "blue disc" in row(answer, "prompts")["detail"]
    assert answer["next"].startswith("higfa contours --recipe")


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_self_check_draws_and_compares(
    models: dict[str, tuple[Path, Path]], tmp_path: Path, family: str
) -> None:
    recipe = write_recipe(tmp_path, *models[family], scheduler="euler")
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
    assert all(one["ok"] is True for one in found["checks"]), found["checks"]
    assert found["measured"]["seconds_per_guided_step"] > 0
    block = found["block"]
    assert block.startswith("```text\n") and block.endswith("\n```")
    for word in (f"torch {torch.__version__.split('+')[0]}", "local folder", "euler", "4 classes"):
        assert word in block
    assert str(tmp_path) not in block and str(models[family][0].parent) not in block
    assert str(Path.home()) not in block and not re.search(r"(^|\s)/\w", block)
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
    answer = examine(write_recipe(tmp_path, model, controlnet), "--self-check", exit_code=1)
    bad = [one["check"] for one in answer["self_check"]["checks"] if one["ok"] is False]
    assert bad == ["contour moves the picture"]
    assert "FAILED: contour moves the picture" in answer["self_check"]["block"]


def test_self_check_waits_for_the_files(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, Path("some/model"), Path("some/controlnet"))
    answer = examine(recipe, "--self-check", exit_code=1)
    assert answer["self_check"]["checks"][0]["detail"] == "not done: model files are missing"
