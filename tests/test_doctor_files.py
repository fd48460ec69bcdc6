"""`higfa doctor` and the files of models: which are missing, broken or of no use."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from diffusers import ControlNetModel
from huggingface_hub import constants
from typer.testing import CliRunner

from higfa_cli.cli.app import app
from higfa_cli.forecast.model_files import (
    FOLDER,
    MissingFile,
    missing_files,
)
from higfa_cli.forecast.repository import ENTIRE_REPOSITORY
from higfa_cli.recipe.drawing import Model
from higfa_cli.recipe.load import load_recipe
from tests.support.doctor import CHECKS, copied, examine, row, run, small_recipe
from tests.support.recipes import drawing_recipe, load_model

pytestmark = pytest.mark.usefixtures("hub")
XL = "stabilityai/stable-diffusion-xl-base-1.0"


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
