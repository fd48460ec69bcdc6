"""Configurations without weights: the shipped copies, and where others are found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from higfa_cli.errors import UserError
from higfa_cli.models.architecture import architecture
from higfa_cli.models.families import FAMILIES, KNOWN, family_of
from higfa_cli.models.families.family import Architecture
from higfa_cli.models.scheduler import SchedulerSolver
from higfa_cli.recipe.drawing import Model
from tests.support.tiny import make_model, make_tiny_autoencoder

SDXL = {
    "base": "stabilityai/stable-diffusion-xl-base-1.0",
    "controlnet": "diffusers/controlnet-canny-sdxl-1.0",
    "gradient_autoencoder": "madebyollin/taesdxl",
}
SD15 = {
    "base": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "controlnet": "lllyasviel/control_v11p_sd15_canny",
    "gradient_autoencoder": "madebyollin/taesd",
}


pytestmark = pytest.mark.usefixtures("offline")


def of(folder: Path = Path(), **keys: Any) -> Architecture:
    return architecture(Model.model_validate(keys), folder)


def parameters(cls: Any, config: dict[str, Any]) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in cls.from_config(config).parameters())


@pytest.mark.parametrize(
    ("keys", "unet", "controlnet"),
    [(SDXL, 2_567_463_684, 1_251_014_160), (SD15, 859_520_964, 361_279_120)],
    ids=["sdxl", "sd15"],
)
def test_shipped_denoisers_have_the_published_sizes(
    keys: dict[str, str], unet: int, controlnet: int
) -> None:
    found = of(**keys)
    assert parameters(UNet2DConditionModel, found.network) == unet
    assert parameters(ControlNetModel, found.controlnet) == controlnet


@pytest.mark.parametrize("keys", [SDXL, SD15], ids=["sdxl", "sd15"])
def test_shipped_autoencoders_have_the_published_sizes(keys: dict[str, str]) -> None:
    found = of(**keys)
    assert parameters(AutoencoderKL, found.vae) == 83_653_863
    assert found.gradient_vae is not None
    assert parameters(AutoencoderTiny, found.gradient_vae) == 2_445_063


def test_shipped_text_encoders_have_the_published_sizes() -> None:
    classes = {c.__name__: c for c in (CLIPTextModel, CLIPTextModelWithProjection)}
    sizes = []
    for config in of(**SDXL).text_encoders:
        with torch.device("meta"):
            model = classes[config["architectures"][0]](CLIPTextConfig(**config))
        sizes.append(sum(p.numel() for p in model.parameters()))
    assert sizes == [123_060_480, 694_659_840]
    assert of(**SD15).text_encoders == of(**SDXL).text_encoders[:1]


@pytest.mark.parametrize("keys", [SDXL, SD15], ids=["sdxl", "sd15"])
@pytest.mark.parametrize("name", FAMILIES["sd"].schedulers)
def test_shipped_schedulers_drive_every_solver(keys: dict[str, str], name: str) -> None:
    levels = SchedulerSolver(name, of(**keys).scheduler, 30).levels
    # alpha_bar of the last training step is 0.0047: sigma / alpha there is 14.61.
    assert levels[0].sigma / levels[0].alpha <= 14.62
    assert levels[0].sigma > 0.99


def test_scaling_factors_differ_as_published() -> None:
    assert (of(**SDXL).vae["scaling_factor"], of(**SD15).vae["scaling_factor"]) == (
        0.13025,
        0.18215,
    )


@pytest.mark.parametrize("family", ["sd", "sdxl", "pocket-like"])
def test_a_local_folder_is_read_as_it_is(family: str, tmp_path: Path) -> None:
    make_model(tmp_path, family=family)
    make_tiny_autoencoder(tmp_path)
    found = of(tmp_path, base="sd", controlnet="controlnet", gradient_autoencoder="tiny-vae")
    assert found.family == ("sdxl" if family == "sdxl" else "sd")
    assert found.network["block_out_channels"] == [16, 32]
    assert len(found.text_encoders) == (2 if family == "sdxl" else 1)
    assert found.scheduler["_class_name"] == "DDIMScheduler"
    assert found.gradient_vae is not None
    assert found.gradient_vae["_class_name"] == "AutoencoderTiny"


def cached(cache: Path, repo: str, file: str, content: Any, revision: str = "main") -> None:
    """Put a file into a hub cache, as huggingface_hub lays it out."""
    folder, commit = cache / f"models--{repo.replace('/', '--')}", "a" * 40
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / revision).write_text(commit)
    path = folder / "snapshots" / commit / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_the_hub_cache_wins_over_the_shipped_copy(offline: Path) -> None:
    shipped = of(**SD15)
    cached(
        offline,
        SD15["base"],
        "vae/config.json",
        shipped.vae | {"scaling_factor": 0.5},
    )
    assert of(**SD15).vae["scaling_factor"] == 0.5
    # Another revision than the cached one.
    assert of(**SD15, revision="v2").vae["scaling_factor"] == 0.18215


@pytest.mark.parametrize("repo", KNOWN)
def test_known_ids_are_hub_ids(repo: str) -> None:
    assert repo.count("/") == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": "some/model"}, r"model.base: model_index.json of `some/model` .*`hf down"),
        (
            {"controlnet": "some/net", "controlnet_revision": "abc"},
            r"model.controlnet: config.json of `some/net`.*--revision abc",
        ),
        ({"base": "not/a/repo"}, "model.base: `not/a/repo` is neither a folder nor a hub"),
        ({"base": SD15["controlnet"]}, "model_index.json of `lllyasviel/control.* is not on"),
        ({"controlnet": SDXL["controlnet"]}, "of width 2048, but model.base .* has 768"),
        ({"controlnet": "madebyollin/taesd"}, "is a `AutoencoderTiny`; use a ControlNetModel"),
        ({"gradient_autoencoder": SD15["controlnet"]}, "is a `ControlNetModel`; use an Autoenc"),
    ],
)
def test_what_is_nowhere_or_does_not_fit_is_one_line(changes: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        of(**(SD15 | changes))
    assert "\n" not in str(caught.value)


def test_a_broken_folder_is_one_line(tmp_path: Path) -> None:
    make_model(tmp_path)
    (tmp_path / "sd" / "vae" / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"model.base: .*vae/config.json is not readable"):
        of(tmp_path, base="sd", controlnet="controlnet")
    (tmp_path / "sd" / "vae" / "config.json").write_text("[]")
    with pytest.raises(UserError, match=r"vae/config.json holds no JSON object"):
        of(tmp_path, base="sd", controlnet="controlnet")
    (tmp_path / "sd" / "model_index.json").unlink()
    with pytest.raises(UserError, match=r"model_index.json does not exist; give a folder"):
        of(tmp_path, base="sd", controlnet="controlnet")


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("StableDiffusionPipeline", "sd"),
        ("StableDiffusionControlNetPipeline", "sd"),
        ("StableDiffusionXLPipeline", "sdxl"),
        ("StableDiffusionXLControlNetPipeline", "sdxl"),
    ],
)
def test_families_by_pipeline_class(name: str, family: str) -> None:
    assert family_of(name).name == family


@pytest.mark.parametrize(
    "name", ["FluxPipeline", "StableDiffusion", "StableDiffusion4Pipeline", "None"]
)
def test_other_families_are_refused_by_name(name: str) -> None:
    with pytest.raises(UserError, match=f"`{name}`, which is not supported; use a model of"):
        family_of(name)
