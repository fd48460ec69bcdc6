"""The adapter between the loop's coordinates and diffusers' schedulers, against their own steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, PNDMScheduler

from higfa_cli.errors import RecipeError, UserError
from higfa_cli.method import equations
from higfa_cli.method.protocols import Level, Prediction
from higfa_cli.models.scheduler import CLASSES, FLOW, SchedulerSolver

BETAS: dict[str, Any] = {
    "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
}  # fmt: skip
STEPS = 10
#: The fields in which public models' scheduler configs differ.
CONFIGS: dict[str, dict[str, Any]] = {
    "sd15": {**BETAS, "steps_offset": 1, "timestep_spacing": "leading", "set_alpha_to_one": False},
    "sdxl": {
        **BETAS, "steps_offset": 1, "timestep_spacing": "leading", "interpolation_type": "linear",
    },
    "trailing": {**BETAS, "timestep_spacing": "trailing"},
    "karras": {**BETAS, "use_karras_sigmas": True},
}  # fmt: skip


def solver(name: str, prediction_type: str, config: str = "sd15", steps: int = STEPS) -> Any:
    return SchedulerSolver(name, CONFIGS[config] | {"prediction_type": prediction_type}, steps)


def noise(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 4, 4, 4, generator=generator, dtype=torch.float64)


def raw_output(prediction: Prediction, level: Level, prediction_type: str) -> torch.Tensor:
    return prediction.eps if prediction_type == "epsilon" else equations.to_v(prediction, level)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("config", list(CONFIGS))
@pytest.mark.parametrize("name", [name for name in CLASSES if name != FLOW])
def test_x0_is_the_schedulers_own(name: str, config: str, prediction_type: str) -> None:
    """What the guide reads as x0_hat is what the scheduler itself makes of the same output."""
    ours = solver(name, prediction_type, config)
    x, raw = ours.start(noise(1)), noise(2)
    for level in ours.levels:
        x_t = ours.to_x_t(x, level)
        convert = equations.from_eps if prediction_type == "epsilon" else equations.from_v
        prediction = convert(x_t, raw, level)
        torch.testing.assert_close(
            level.alpha * prediction.x0 + level.sigma * prediction.eps, x_t, atol=1e-6, rtol=1e-6
        )
        timestep = ours.scheduler.timesteps[level.index]
        if name == "dpm++2m":
            if ours.scheduler.step_index is None:
                ours.scheduler._init_step_index(timestep)
            theirs = ours.scheduler.convert_model_output(raw, sample=x)
            x = ours.step(prediction, x, level)
        else:
            stepped = ours.scheduler.step(raw, timestep, x)
            theirs, x = stepped.pred_original_sample, stepped.prev_sample
        torch.testing.assert_close(prediction.x0, theirs.double(), atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", [name for name in CLASSES if name != FLOW])
def test_step_is_the_schedulers_own(name: str, prediction_type: str) -> None:
    """A run through the adapter against a run of the scheduler on the raw outputs."""
    ours, theirs = solver(name, prediction_type), solver(name, prediction_type)
    x = ours.start(noise(1))
    plain = theirs.start(noise(1))
    for level in ours.levels:
        raw = noise(10 + level.index)
        convert = equations.from_eps if prediction_type == "epsilon" else equations.from_v
        x = ours.step(convert(ours.to_x_t(x, level), raw, level), x, level)
        scheduler = theirs.scheduler
        timestep = scheduler.timesteps[level.index]
        scheduler.scale_model_input(plain, timestep)
        plain = scheduler.step(raw, timestep, plain).prev_sample
        torch.testing.assert_close(x.double(), plain.double(), atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("name", [name for name in CLASSES if name != FLOW])
def test_vp_state_is_what_the_denoiser_is_fed(name: str) -> None:
    ours = solver(name, "epsilon")
    x = ours.start(noise(1))
    scheduler = ours.scheduler
    fed = scheduler.scale_model_input(x, scheduler.timesteps[0])
    torch.testing.assert_close(ours.to_x_t(x, ours.levels[0]), fed, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in CLASSES if name != FLOW])
def test_exact_prediction_ends_at_x0(name: str) -> None:
    """Predictions that always name the same x0 must arrive at it."""
    ours = solver(name, "epsilon", steps=20)
    x0 = noise(3)
    x = ours.start(noise(1))
    for level in ours.levels:
        x_t = ours.to_x_t(x, level)
        x = ours.step(Prediction(x0, (x_t - level.alpha * x0) / level.sigma), x, level)
    # DDIM stops at the first training level, whose sigma is 0.03, not at zero.
    assert (x - x0).abs().max() < (0.2 if name == "ddim" else 1e-4)


def test_other_schedulers_are_refused_by_name() -> None:
    with pytest.raises(RecipeError, match=r"`pndm` is not supported; use one of ddim, euler, dpm"):
        SchedulerSolver("pndm", CONFIGS["sd15"], STEPS)


def test_other_predictions_are_refused_by_name() -> None:
    with pytest.raises(UserError, match="prediction_type `sample` is not supported"):
        SchedulerSolver("ddim", CONFIGS["sd15"] | {"prediction_type": "sample"}, STEPS)


def test_a_pndm_models_config_is_read() -> None:
    """SD 1.5 comes with PNDM's config: its betas and spacing count, its algorithm does not."""
    config = PNDMScheduler(**CONFIGS["sd15"], skip_prk_steps=True).config
    direct = DDIMScheduler(**CONFIGS["sd15"], clip_sample=False)
    direct.set_timesteps(STEPS)
    ours = SchedulerSolver("ddim", config, STEPS)
    assert [level.timestep for level in ours.levels] == direct.timesteps.tolist()


# Flow matching.


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_levels_are_the_shifted_line(shift: float) -> None:
    levels = SchedulerSolver(FLOW, {"shift": shift}, STEPS).levels
    assert (levels[0].alpha, levels[0].sigma, levels[0].timestep) == (0.0, 1.0, 1000.0)
    # The scheduler shifts its own range's end and then the line between: sigma' as it says.
    theirs = FlowMatchEulerDiscreteScheduler(shift=shift)
    theirs.set_timesteps(STEPS)
    for level, sigma in zip(levels, theirs.sigmas.tolist()[:-1], strict=True):
        assert level.sigma == pytest.approx(sigma) and level.alpha == pytest.approx(1 - sigma)
        assert level.timestep == pytest.approx(1000 * sigma)
        assert level.progress == level.index / STEPS
    middle = levels[STEPS // 2].sigma
    assert middle > 0.7 if shift == 3.0 else middle == pytest.approx(0.445, abs=0.01)


def test_flow_step_is_the_schedulers_own() -> None:
    ours, theirs = (
        SchedulerSolver(FLOW, {"shift": 3.0}, STEPS),
        SchedulerSolver(FLOW, {"shift": 3.0}, STEPS).scheduler,
    )
    x = ours.start(noise(1))
    plain = x
    for level in ours.levels:
        raw = noise(10 + level.index)
        prediction = equations.from_flow(ours.to_x_t(x, level), raw, level)
        torch.testing.assert_close(level.alpha * prediction.x0 + level.sigma * prediction.eps, x)
        x = ours.step(prediction, x, level)
        plain = theirs.step(raw, theirs.timesteps[level.index], plain).prev_sample
        torch.testing.assert_close(x, plain, atol=1e-5, rtol=1e-5)


def test_exact_flow_ends_at_x0() -> None:
    ours = SchedulerSolver(FLOW, {"shift": 3.0}, 20)
    x0, x = noise(3), ours.start(noise(1))
    for level in ours.levels:
        x = ours.step(Prediction(x0, (x - level.alpha * x0) / level.sigma), x, level)
    assert (x - x0).abs().max() < 1e-5


@pytest.mark.parametrize("option", ["use_dynamic_shifting", "invert_sigmas", "stochastic_sampling"])
def test_other_flows_are_refused_by_name(option: str) -> None:
    with pytest.raises(UserError, match=f"scheduler: {option} is not supported"):
        SchedulerSolver(FLOW, {option: True}, STEPS)
