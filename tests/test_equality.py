"""With the guide off and `joint`, our pictures are the stock pipelines': a guard against drift."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    SD3ControlNetModel,
    StableDiffusion3ControlNetPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLControlNetPipeline,
)
from PIL import Image

from higfa_cli.models.diffusion import DiffusionModel, seeded_noise
from higfa_cli.models.draw import draw
from higfa_cli.models.scheduler import CLASSES, FLOW
from tests.support import tiny
from tests.support.drawing import CONTOURS, PROMPTS, loaded
from tests.support.strengths import strengths

SEEDS = [11, 12]
STEPS = 5
STOCK: dict[str, Any] = {
    "sd": StableDiffusionControlNetPipeline,
    "pocket-like": StableDiffusionControlNetPipeline,
    "sdxl": StableDiffusionXLControlNetPipeline,
    "sd3": StableDiffusion3ControlNetPipeline,
    "sd35": StableDiffusion3ControlNetPipeline,
}
#: Parts that are None in a folder, and must be named as such.
LEFT_OUT: dict[str, dict[str, Any]] = {
    "sd": {"safety_checker": None},
    "pocket-like": {"safety_checker": None},
    "sdxl": {},
    "sd3": {},
    "sd35": {"text_encoder_3": None, "tokenizer_3": None},
}
#: cfg scale, conditioning scale, control interval, negative prompt.
CASES = [
    (1.0, 1.0, (0.0, 1.0), "blurry"),
    (5.0, 1.0, (0.0, 1.0), "blurry"),
    (3.0, 0.5, (0.0, 1.0), ""),
    (5.0, 1.0, (0.2, 0.6), "blurry"),
    (3.0, 1.5, (0.0, 0.5), ""),
]


@pytest.fixture(scope="module", params=tiny.VARIANTS, ids="-".join)
def built(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, tuple[Path, Path]]:
    family, prediction_type = request.param
    return family, tiny.make_model(tmp_path_factory.mktemp("tiny"), prediction_type, family)


@cache
def stock_pipeline(family: str, folders: tuple[Path, Path]) -> Any:
    control_class = SD3ControlNetModel if family in ("sd3", "sd35") else ControlNetModel
    controlnet = control_class.from_pretrained(folders[1])
    pipe = STOCK[family].from_pretrained(folders[0], controlnet=controlnet, **LEFT_OUT[family])
    pipe.set_progress_bar_config(disable=True)
    return pipe


def stock_pictures(
    family: str, folders: tuple[Path, Path], model: DiffusionModel, cfg: float, negative: str
) -> np.ndarray:
    """[B, S, S, 3] in [0, 1], as diffusers itself draws them."""
    pipe = stock_pipeline(family, folders)
    pipe.scheduler = model.solver(STEPS).scheduler
    start, end = model.sampling.conditioning_interval
    return pipe(
        PROMPTS,
        **pictured_contours(family),
        # Stock SDXL takes None, not "", for the prompt that is all zeros.
        negative_prompt=[negative] * len(PROMPTS) if negative else None,
        latents=seeded_noise(SEEDS, model.latent_shape, model.device),
        num_inference_steps=STEPS,
        guidance_scale=cfg,
        controlnet_conditioning_scale=model.sampling.conditioning_scale,
        control_guidance_start=start,
        control_guidance_end=end,
        output_type="np",
    ).images


def pictured_contours(family: str) -> dict[str, Any]:
    """The contours as an argument; those of Stable Diffusion 3 as a user has them, as pictures."""
    if family not in ("sd3", "sd35"):
        return {"image": CONTOURS.expand(-1, 3, -1, -1)}
    white = (CONTOURS * 255).to(torch.uint8).expand(-1, 3, -1, -1).permute(0, 2, 3, 1)
    return {"control_image": [Image.fromarray(picture.numpy()) for picture in white]}


def our_pictures(model: DiffusionModel, cfg: float, negative: str) -> np.ndarray:
    """[B, S, S, 3] uint8 of our loop."""
    guidance = strengths(composition="joint", text=cfg, switch=1.0)
    drawn = draw(model, None, guidance, PROMPTS, negative, CONTOURS, [0, 1], SEEDS)
    return np.stack([one.pixels for one in drawn if one.pixels is not None])


@pytest.mark.parametrize("scheduler", [name for name in CLASSES if name != FLOW])
@pytest.mark.parametrize(("cfg", "conditioning_scale", "interval", "negative"), CASES)
def test_joint_equals_the_stock_pipeline(
    built: tuple[str, tuple[Path, Path]],
    scheduler: str,
    cfg: float,
    conditioning_scale: float,
    interval: tuple[float, float],
    negative: str,
) -> None:
    family, folders = built
    model = loaded(
        folders,
        steps=STEPS,
        scheduler=scheduler,
        conditioning_scale=conditioning_scale,
        conditioning_interval=interval,
    )
    ours = our_pictures(model, cfg, negative)
    theirs = stock_pictures(family, folders, model, cfg, negative)
    assert np.abs(ours / 255 - theirs).max() <= 1.01 / 255
    assert ours.std() > 1


@pytest.mark.parametrize("zeros", [True, False])
def test_empty_prompt_of_sdxl_as_the_model_says(tmp_path: Path, zeros: bool) -> None:
    folders = tiny.make_model(tmp_path, family="sdxl", zeros=zeros)
    model = loaded(folders, steps=STEPS)
    states = model.prompts[""]
    assert states.pooled is not None
    assert bool((states.states == 0).all() and (states.pooled == 0).all()) == zeros
    ours, theirs = our_pictures(model, 6.0, ""), stock_pictures("sdxl", folders, model, 6.0, "")
    assert np.abs(ours / 255 - theirs).max() <= 1.01 / 255


@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ("cfg", {}),
        ("conditioning scale", {"conditioning_scale": 1.3}),
        ("interval", {"conditioning_interval": (0.0, 0.6)}),
    ],
)
def test_the_comparison_can_fail(tmp_path: Path, what: str, changes: dict[str, Any]) -> None:
    """A slightly other setting on our side only is seen: the tiny models react to each."""
    folders = tiny.make_model(tmp_path, family="sdxl")
    right, wrong = (loaded(folders, steps=STEPS, **keys) for keys in ({}, changes))
    theirs = stock_pictures("sdxl", folders, right, 5.0, "")
    ours = our_pictures(wrong, 5.5 if what == "cfg" else 5.0, "")
    assert np.abs(ours / 255 - theirs).max() > 2 / 255


@pytest.fixture(scope="module", params=[family for family, _ in tiny.FLOWS])
def flow(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, tuple[Path, Path]]:
    return request.param, tiny.make_model(tmp_path_factory.mktemp("flow"), "flow", request.param)


@pytest.mark.parametrize(("cfg", "conditioning_scale", "interval", "negative"), CASES)
def test_joint_equals_the_stock_pipeline_of_a_flow(
    flow: tuple[str, tuple[Path, Path]],
    cfg: float,
    conditioning_scale: float,
    interval: tuple[float, float],
    negative: str,
) -> None:
    test_joint_equals_the_stock_pipeline(flow, FLOW, cfg, conditioning_scale, interval, negative)


@pytest.mark.parametrize("what", ["contours in [0, 1]", "the other shift", "another sigma"])
def test_the_comparison_of_a_flow_can_fail(
    flow: tuple[str, tuple[Path, Path]], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each convention of the pipeline counts."""
    family, folders = flow
    model = loaded(folders, steps=STEPS)
    theirs = stock_pictures(family, folders, model, 5.0, "")
    encode = DiffusionModel.encode
    if what == "contours in [0, 1]":
        wrong = lambda self, images, shifted: encode(self, (images + 1) / 2, shifted)  # noqa: E731
        monkeypatch.setattr(DiffusionModel, "encode", wrong)
    elif what == "the other shift":
        other = lambda self, images, shifted: encode(self, images, not shifted)  # noqa: E731
        monkeypatch.setattr(DiffusionModel, "encode", other)
    else:
        model = replace(model, scheduler_config={**model.scheduler_config, "shift": 1.0})
    ours = our_pictures(model, 5.0, "")
    assert np.abs(ours / 255 - theirs).max() > 2 / 255
