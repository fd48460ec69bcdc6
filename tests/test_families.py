"""Every family behind one interface: branches, exact limits of the method, refusals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from higfa_cli.errors import RecipeError, UserError
from higfa_cli.method import schedule
from higfa_cli.method.protocols import Branch
from higfa_cli.models.diffusion import noise_and_denoise, seeded_noise
from higfa_cli.models.draw import evaluations
from tests.support import tiny
from tests.support.drawing import CONTOURS, CPU, PROMPTS, load, loaded, make_guide, pictures, pixels
from tests.support.recipes import drawing_recipe, load_model
from tests.support.strengths import strengths


@pytest.fixture(scope="module", params=(*tiny.VARIANTS, *tiny.FLOWS), ids="-".join)
def folders(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    family, prediction_type = request.param
    return tiny.make_model(tmp_path_factory.mktemp("tiny"), prediction_type, family)


def test_branches_see_what_they_should(folders: tuple[Path, Path]) -> None:
    model = loaded(folders)
    level = model.solver(4).levels[1]
    x_t = seeded_noise([1, 2], model.latent_shape, CPU)

    def predict(prompts: Sequence[str], contours: torch.Tensor) -> dict[Branch, Any]:
        conditions = model.conditions(prompts, "", contours)
        return model.denoiser(conditions).predict(x_t, level, list(Branch))

    a = predict(PROMPTS, CONTOURS)
    b = predict(PROMPTS, 1 - CONTOURS)
    c = predict(PROMPTS[::-1], CONTOURS)
    for branch in Branch:
        moved_by_contour = not torch.equal(a[branch].eps, b[branch].eps)
        moved_by_text = not torch.equal(a[branch].eps, c[branch].eps)
        assert moved_by_contour == branch.has_contour
        assert moved_by_text == branch.has_text


def test_branches_do_not_depend_on_their_company(folders: tuple[Path, Path]) -> None:
    model = loaded(folders)
    level = model.solver(4).levels[2]
    x_t = seeded_noise([1, 2], model.latent_shape, CPU)
    denoiser = model.denoiser(model.conditions(PROMPTS, "", CONTOURS))
    together = denoiser.predict(x_t, level, list(Branch))
    for branch in Branch:
        alone = denoiser.predict(x_t, level, [branch])[branch]
        torch.testing.assert_close(alone.eps, together[branch].eps, atol=2e-5, rtol=1e-4)


def test_outside_the_interval_the_controlnet_is_not_asked(folders: tuple[Path, Path]) -> None:
    model = load(folders, conditioning_interval=(0.0, 0.5))
    asked: list[int] = []
    model.controlnet.register_forward_pre_hook(lambda *_: asked.append(1))
    x_t = seeded_noise([1, 2], model.latent_shape, CPU)
    denoiser = model.denoiser(model.conditions(PROMPTS, "", CONTOURS))
    for level in model.solver(4).levels:
        seen = denoiser.predict(x_t, level, [Branch.TEXT, Branch.TEXT_CONTOUR])
        # At pure noise every eps is x_t itself.
        form = "x0" if level.alpha == 0 else "eps"
        text, both = (getattr(seen[b], form) for b in (Branch.TEXT, Branch.TEXT_CONTOUR))
        same = torch.allclose(text, both, atol=1e-5)
        assert same == (level.index >= 2)
    assert len(asked) == 2


def test_strengths_of_one_are_the_plain_conditional(folders: tuple[Path, Path]) -> None:
    model = loaded(folders)
    three = pictures(model, strengths(text=1.0, contour=1.0, switch=1.0))
    joint = pictures(model, strengths(composition="joint", text=1.0, switch=1.0))
    assert (pixels(three) == pixels(joint)).all()


def test_equal_strengths_are_plain_guidance_from_the_empty_prompt(
    folders: tuple[Path, Path],
) -> None:
    """s_T = s_C = s: e(x) + s [e(c_T,c_C) - e(x)], checked on one step's eps."""
    model = loaded(folders)
    guidance = strengths(text=3.0, contour=3.0, switch=1.0)
    assert schedule.branches(guidance, False) == (Branch.UNCOND, Branch.TEXT_CONTOUR)
    model_one = loaded(folders, steps=1)
    drawn = pixels(pictures(model_one, guidance))
    level = model_one.solver(1).levels[0]
    solver = model_one.solver(1)
    x = solver.start(seeded_noise([11, 12], model.latent_shape, CPU))
    x_t = solver.to_x_t(x, level)
    with torch.no_grad():
        conditions = model_one.conditions(PROMPTS, "blurry", CONTOURS)
        seen = model_one.denoiser(conditions).predict(
            x_t, level, schedule.branches(guidance, False)
        )
        plain, full = seen[Branch.UNCOND], seen[Branch.TEXT_CONTOUR]
        mixed = type(plain)(*(a + 3.0 * (b - a) for a, b in zip(plain, full, strict=True)))
        by_hand = model_one.decode(solver.step(mixed, x, level))
    by_hand = ((by_hand.clamp(-1, 1) + 1) * 127.5).permute(0, 2, 3, 1).numpy()
    assert np.abs(drawn - by_hand).max() <= 1.01


def test_gamma_zero_constant_is_the_fixed_strength_classifier(folders: tuple[Path, Path]) -> None:
    model = loaded(folders)
    guidance = strengths(
        classifier=5.0, gamma=0.0, modulation="constant", switch=0.5, grad_norm="rms"
    )
    drawn = pictures(model, guidance, make_guide())
    for one in drawn:
        assert one.trace["s_classifier"] == [0.0, 0.0, 5.0, 5.0]
        assert set(one.trace["s_text"]) == {guidance.text.scale}
        assert set(one.trace["s_contour"]) == {guidance.contour.scale}
    off = pictures(model, strengths(guidance, switch=1.0))
    assert (pixels(drawn) != pixels(off)).any()


def test_full_confidence_is_the_text_contour_sampler(folders: tuple[Path, Path]) -> None:
    """gamma > 0 and a(1) = 1: where p = 1 the guide changes nothing, bit for bit."""
    model = loaded(folders)
    guidance = strengths(classifier=50.0, gamma=1.0, modulation="rising", switch=0.5)
    sure = pictures(model, guidance, make_guide(bias=1e4))
    assert sure[0].trace["p"][2:] == [1.0, 1.0]
    assert (pixels(sure) == pixels(pictures(model, strengths(guidance, switch=1.0)))).all()


@pytest.mark.parametrize("gradient", ["x0", "x_t"])
def test_the_guide_raises_its_own_confidence(folders: tuple[Path, Path], gradient: Any) -> None:
    model = loaded(folders, steps=8)
    guidance = strengths(
        text=1.0, contour=1.0, classifier=0.0, gamma=0.0, modulation="constant", switch=0.25,
        gradient=gradient, grad_norm="rms",
    )  # fmt: skip
    guide = make_guide()
    targets = (1, 1)
    before = [one.trace["p"][-1] for one in pictures(model, guidance, guide, targets)]
    pushed = strengths(guidance, classifier=2.0)
    after = [one.trace["p"][-1] for one in pictures(model, pushed, guide, targets)]
    assert all(
        b is not None and a is not None and a > b for b, a in zip(before, after, strict=True)
    )


def test_blind_guide_pushes_nothing(folders: tuple[Path, Path]) -> None:
    model = loaded(folders)
    guidance = strengths(
        classifier=50.0, gamma=0.0, modulation="constant", switch=0.5, grad_norm="rms"
    )
    blind = pictures(model, guidance, make_guide(weight=0.0))
    assert blind[0].trace["grad_norm"][2:] == [0.0, 0.0]
    assert (pixels(blind) == pixels(pictures(model, strengths(guidance, switch=1.0)))).all()


def test_noise_and_denoise_by_hand_and_alone(folders: tuple[Path, Path]) -> None:
    model = loaded(folders, steps=50)
    images = torch.rand(2, 3, tiny.SIZE, tiny.SIZE, generator=torch.Generator().manual_seed(0)) - 1
    level = model.solver(50).levels[30]
    got = noise_and_denoise(model, images, PROMPTS, CONTOURS, level, [3, 4])

    with torch.no_grad():
        x0 = model.encode(images)
        eps = seeded_noise([3, 4], x0.shape[1:], CPU)
        x_t = level.alpha * x0 + level.sigma * eps
        denoiser = model.denoiser(model.conditions(PROMPTS, "", CONTOURS))
        x0_hat = denoiser.predict(x_t, level, [Branch.TEXT_CONTOUR])[Branch.TEXT_CONTOUR].x0
        want = model.decode(x0_hat)
    torch.testing.assert_close(got, want)
    alone = noise_and_denoise(model, images[1:], PROMPTS[1:], CONTOURS[1:], level, [4])
    torch.testing.assert_close(alone, got[1:], atol=1e-3, rtol=1e-3)
    other = noise_and_denoise(model, images[1:], PROMPTS[1:], CONTOURS[1:], level, [5])
    assert (other - alone).abs().max() > 1e-2


def test_evaluations_are_counted_by_hand(folders: tuple[Path, Path]) -> None:
    levels = loaded(folders).solver(10).levels
    full = strengths(switch=0.7)  # three branches each step; guide in the last three
    assert evaluations(full, levels) == (30, 3)
    plain = strengths(text=1.0, contour=1.0, switch=1.0)
    assert evaluations(plain, levels) == (10, 0)


def test_prompts_are_encoded_once_and_the_encoders_freed(folders: tuple[Path, Path]) -> None:
    model = load(folders)
    assert set(model.prompts) == {*PROMPTS, "", "blurry"}
    parts = [type(value).__name__ for value in vars(model).values()]
    assert not any("TextModel" in name or "Pipeline" in name for name in parts)
    with pytest.raises(KeyError, match="never said"):
        model.conditions(["never said"], "", CONTOURS[:1])


def test_missing_model_is_one_line(tmp_path: Path) -> None:
    recipe = drawing_recipe("nobody/nothing", "nobody/nothing", local_files_only=True)
    with pytest.raises(UserError, match=r"model\.base `nobody/nothing`.*local_files_only"):
        load_model(recipe, [""], tmp_path)


def test_size_that_the_model_cannot_draw(folders: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match=r"size: 34 is not a multiple of 4"):
        load(folders, size=34)


def test_other_families_are_refused_by_name(tmp_path: Path) -> None:
    model, controlnet = tiny.make_model(tmp_path)
    index = model / "model_index.json"
    text = index.read_text(encoding="utf-8")
    index.write_text(text.replace("StableDiffusionPipeline", "FluxPipeline"), encoding="utf-8")
    with pytest.raises(UserError, match=r"FluxPipeline.*not supported"):
        load((model, controlnet))


def test_controlnet_of_the_other_family_is_refused(tmp_path: Path) -> None:
    model, _ = tiny.make_model(tmp_path / "a")
    _, controlnet = tiny.make_model(tmp_path / "b", family="sdxl")
    with pytest.raises(UserError, match=r"model\.controlnet .* width 32, .* has 16"):
        load((model, controlnet))


def test_prediction_of_x0_is_refused(tmp_path: Path) -> None:
    model = load(tiny.make_model(tmp_path, "sample"))
    with pytest.raises(UserError, match="prediction_type `sample`"):
        model.solver(4)


def test_solvers_are_refused_by_family(tmp_path: Path) -> None:
    diffusion, flow = (tiny.make_model(tmp_path / f, family=f) for f in ("sd", "sd3"))
    with pytest.raises(RecipeError, match=r"`ddim` cannot draw from Stable Diffusion 3; use flow"):
        load(flow, scheduler="ddim")
    with pytest.raises(RecipeError, match=r"`flow-euler` cannot draw from Stable Diffusion; use"):
        load(diffusion, scheduler="flow-euler")
    model = load(flow)
    other = model.with_sampling(model.sampling.model_copy(update={"scheduler": "euler"}))
    with pytest.raises(RecipeError, match="`euler` cannot draw from Stable Diffusion 3"):
        other.solver(4)


def test_more_positions_than_a_transformer_has(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"size: 68 is more than 64, the largest that `.*sd` draws"):
        load(tiny.make_model(tmp_path, family="sd3"), size=68)


def test_latents_of_a_shifted_autoencoder_come_back(tmp_path: Path) -> None:
    """encode is (z - shift) * scaling_factor, decode its inverse; by hand."""
    model = load(tiny.make_model(tmp_path, family="sd3"))
    vae = model.autoencoder.vae
    images = torch.rand(1, 3, tiny.SIZE, tiny.SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        z = vae.encode(images).latent_dist.mode()
        torch.testing.assert_close(model.encode(images), (z - 0.0609) * 1.5305)
        torch.testing.assert_close(model.encode(images, shifted=False), z * 1.5305)
        torch.testing.assert_close(model.decode(model.encode(images)), vae.decode(z).sample)


def test_a_guide_is_never_asked_at_pure_noise(tmp_path: Path) -> None:
    model = load(tiny.make_model(tmp_path, family="sd3"))
    drawn = pictures(model, strengths(switch=0.0), make_guide())
    assert drawn[0].trace["sigma"][0] == 1.0
    assert [p is None for p in drawn[0].trace["p"]] == [True, False, False, False]
    by_level = pictures(model, strengths(switch_sigma=0.9), make_guide())[0].trace
    assert [p is None for p in by_level["p"]] == [s > 0.9 for s in by_level["sigma"]]
