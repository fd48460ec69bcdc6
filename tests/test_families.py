"""A model folder on our loop against the stock pipeline, and the tests of single branches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline

from higfa_cli.errors import UserError
from higfa_cli.method.protocols import Branch
from higfa_cli.method.schedule import StrengthSchedule
from higfa_cli.models.draw import draw, evaluations
from higfa_cli.models.families import DiffusionModel, load_pipeline
from higfa_cli.models.renoise import noise_and_denoise, seeded_noise
from higfa_cli.models.scheduler import CLASSES
from higfa_cli.recipe.schema import Synthesize
from tests import tiny

PROMPTS = ["a photo of a red bird", "a photo of a blue car"]
CONTOURS = (
    torch.rand(2, 1, tiny.SIZE, tiny.SIZE, generator=torch.Generator().manual_seed(5)) > 0.8
).float()


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def folders(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    return tiny.make_model(tmp_path_factory.mktemp("tiny"), request.param)


def load(folders: tuple[Path, Path], **changes: object) -> DiffusionModel:
    settings = Synthesize(
        model=str(folders[0]),
        controlnet=str(folders[1]),
        size=tiny.SIZE,
        **{"steps": 4, **changes},  # type: ignore[arg-type]
    )
    return load_pipeline(settings, Path(), torch.device("cpu"))


@pytest.mark.parametrize("scheduler", list(CLASSES))
@pytest.mark.parametrize(("cfg_scale", "conditioning_scale"), [(1.0, 1.0), (5.0, 1.0), (3.0, 0.5)])
def test_joint_composition_equals_the_stock_pipeline(
    folders: tuple[Path, Path], scheduler: str, cfg_scale: float, conditioning_scale: float
) -> None:
    model = load(folders, scheduler=scheduler, conditioning_scale=conditioning_scale)
    schedule = StrengthSchedule(composition="joint", text=cfg_scale, switch=1.0)
    drawn = draw(model, None, schedule, PROMPTS, "blurry", CONTOURS, [0, 1], [11, 12])
    ours = np.stack([d.pixels for d in drawn if d.pixels is not None])

    stock = StableDiffusionControlNetPipeline.from_pretrained(
        folders[0],
        controlnet=ControlNetModel.from_pretrained(folders[1]),
        safety_checker=None,
    )
    stock.set_progress_bar_config(disable=True)
    stock.scheduler = model.solver(4).scheduler
    theirs = stock(
        PROMPTS,
        image=CONTOURS.expand(-1, 3, -1, -1),
        negative_prompt=["blurry", "blurry"],
        latents=seeded_noise([11, 12], model.latent_shape, model.device),
        num_inference_steps=4,
        guidance_scale=cfg_scale,
        controlnet_conditioning_scale=conditioning_scale,
        output_type="np",
    ).images
    assert np.abs(ours / 255 - theirs).max() <= 1.01 / 255
    assert ours.std() > 1


def test_branches_see_what_they_should(folders: tuple[Path, Path]) -> None:
    model = load(folders)
    other = 1 - CONTOURS
    level = model.solver(4).levels[1]
    x_t = seeded_noise([1, 2], model.latent_shape, model.device)
    a = model.denoiser(model.conditions(PROMPTS, "", CONTOURS)).predict(x_t, level, list(Branch))
    b = model.denoiser(model.conditions(PROMPTS, "", other)).predict(x_t, level, list(Branch))
    c = model.denoiser(model.conditions(PROMPTS[::-1], "", CONTOURS)).predict(
        x_t, level, list(Branch)
    )
    for branch in Branch:
        moved_by_contour = not torch.equal(a[branch].eps, b[branch].eps)
        moved_by_text = not torch.equal(a[branch].eps, c[branch].eps)
        assert moved_by_contour == branch.has_contour
        assert moved_by_text == branch.has_text


def test_branches_do_not_depend_on_their_company(folders: tuple[Path, Path]) -> None:
    model = load(folders)
    level = model.solver(4).levels[2]
    x_t = seeded_noise([1, 2], model.latent_shape, model.device)
    denoiser = model.denoiser(model.conditions(PROMPTS, "", CONTOURS))
    together = denoiser.predict(x_t, level, list(Branch))
    for branch in Branch:
        alone = denoiser.predict(x_t, level, [branch])[branch]
        torch.testing.assert_close(alone.eps, together[branch].eps, atol=2e-5, rtol=1e-4)


def test_noise_and_denoise_by_hand_and_alone(folders: tuple[Path, Path]) -> None:
    model = load(folders, steps=50)
    images = torch.rand(2, 3, tiny.SIZE, tiny.SIZE, generator=torch.Generator().manual_seed(0)) - 1
    level = model.solver(50).levels[30]
    got = noise_and_denoise(model, images, PROMPTS, CONTOURS, level, [3, 4])

    x0 = model.encode(images)
    eps = seeded_noise([3, 4], x0.shape[1:], model.device)
    x_t = level.alpha * x0 + level.sigma * eps
    denoiser = model.denoiser(model.conditions(PROMPTS, "", CONTOURS))
    with torch.no_grad():
        x0_hat = denoiser.predict(x_t, level, [Branch.TEXT_CONTOUR])[Branch.TEXT_CONTOUR].x0
        want = model.decode(x0_hat)
    torch.testing.assert_close(got, want)
    alone = noise_and_denoise(model, images[1:], PROMPTS[1:], CONTOURS[1:], level, [4])
    torch.testing.assert_close(alone, got[1:], atol=1e-3, rtol=1e-3)
    other = noise_and_denoise(model, images[1:], PROMPTS[1:], CONTOURS[1:], level, [5])
    assert (other - alone).abs().max() > 1e-2


def test_evaluations_are_counted_by_hand(folders: tuple[Path, Path]) -> None:
    levels = load(folders).solver(10).levels
    full = StrengthSchedule(switch=0.7)  # three branches each step; guide in the last three
    assert evaluations(full, levels) == (30, 3)
    plain = StrengthSchedule(text=1.0, contour=1.0, switch=1.0)
    assert evaluations(plain, levels) == (10, 0)


def test_missing_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"synthesize\.model `nobody/nothing`.*local diffusers folders"
    ):
        settings = Synthesize(model="nobody/nothing", controlnet="nobody/nothing", size=32)
        load_pipeline(settings, tmp_path, torch.device("cpu"))


def test_size_that_the_model_cannot_draw(folders: tuple[Path, Path]) -> None:
    settings = Synthesize(model=str(folders[0]), controlnet=str(folders[1]), size=34)
    with pytest.raises(UserError, match=r"synthesize\.size: 34 is not a multiple of 4"):
        load_pipeline(settings, Path(), torch.device("cpu"))
