"""diffusers schedulers as solvers of x_t = alpha x0 + sigma eps: the one place that converts.

DDIM, DPM++ 2M and the Euler of flow matching keep x_t itself; the Euler of diffusion models keeps
x_t / alpha and a noise level sigma / alpha.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from torch import Tensor

from higfa_cli.errors import RecipeError, UserError
from higfa_cli.method import equations
from higfa_cli.method.protocols import Level, Prediction

#: The solver of flow matching, by the recipe's name; the others are of diffusion models.
FLOW = "flow-euler"
CLASSES: dict[str, Any] = {
    "ddim": DDIMScheduler,
    "euler": EulerDiscreteScheduler,
    "dpm++2m": DPMSolverMultistepScheduler,
    FLOW: FlowMatchEulerDiscreteScheduler,
}
#: What a denoiser predicts -> (x_t, its output, level) -> the prediction in both forms.
CONVERSIONS: Mapping[str, Callable[[Tensor, Tensor, Level], Prediction]] = {
    "epsilon": equations.from_eps,
    "v_prediction": equations.from_v,
    "flow": equations.from_flow,
}
_OUTPUTS: Mapping[str, Callable[[Prediction, Level], Tensor]] = {
    "epsilon": lambda prediction, level: prediction.eps,
    "v_prediction": equations.to_v,
    "flow": lambda prediction, level: equations.to_flow(prediction),
}
# Part of x0 in the first x_t: epsilon says nothing of a picture that is all noise. Trained models
# start from 0.05 and more.
_LEAST_SIGNAL = 1e-3
# Options of flow matching under which the levels are not sigma = 1 ... 0 of the shifted line alone.
_OTHER_FLOWS = ("use_dynamic_shifting", "invert_sigmas", "stochastic_sampling")


def conversion(prediction_type: str) -> Callable[[Tensor, Tensor, Level], Prediction]:
    """(x_t, output, level) -> prediction. Raises UserError for other kinds of prediction."""
    if prediction_type not in CONVERSIONS:
        raise UserError(
            f"scheduler: prediction_type `{prediction_type}` is not supported; "
            "use a model that predicts epsilon, v or a flow's velocity"
        )
    return CONVERSIONS[prediction_type]


class SchedulerSolver:
    """A `method.protocols.Solver` made of one diffusers scheduler.

    Args:
        name: one of CLASSES, the recipe's word.
        config: the scheduler config of the model's folder.
        steps: N >= 1.

    Raises:
        RecipeError: another scheduler name.
        UserError: another prediction type, or a flow that is shifted by resolution, turned round
            or noisy.
    """

    def __init__(self, name: str, config: Any, steps: int) -> None:
        if name not in CLASSES:
            raise RecipeError(
                f"sampling.scheduler: `{name}` is not supported; use one of {', '.join(CLASSES)}"
            )
        for option in _OTHER_FLOWS if name == FLOW else ():
            if config.get(option):
                raise UserError(f"scheduler: {option} is not supported; use a model without it")
        self.name = name
        self.scheduler = CLASSES[name].from_config(config, **_options(name, config))
        self.prediction_type: str = (
            "flow" if name == FLOW else self.scheduler.config.prediction_type
        )
        conversion(self.prediction_type)
        self.scheduler.set_timesteps(steps)
        self.levels: Sequence[Level] = tuple(self._level(i, steps) for i in range(steps))
        if self.prediction_type == "epsilon" and self.levels[0].alpha < _LEAST_SIGNAL:
            raise UserError(
                "scheduler: the first step has a signal-to-noise ratio of zero, which needs a "
                "model that predicts v; correct the betas in scheduler/scheduler_config.json"
            )

    def _level(self, index: int, steps: int) -> Level:
        timestep = self.scheduler.timesteps[index].item()
        if self.name == FLOW:
            sigma = self.scheduler.sigmas[index].double().item()
            return Level(index, index / steps, timestep, 1.0 - sigma, sigma)
        if self.name == "ddim":
            alpha_bar = self.scheduler.alphas_cumprod[int(timestep)].double().item()
        else:
            ratio = self.scheduler.sigmas[index].double().item()  # sigma / alpha
            alpha_bar = 1.0 / (1.0 + ratio**2)
        return Level(index, index / steps, timestep, alpha_bar**0.5, (1.0 - alpha_bar) ** 0.5)

    def start(self, noise: Tensor) -> Tensor:
        """Unit normal noise -> first state; also rewinds the scheduler's own step counter."""
        self.scheduler.set_timesteps(len(self.levels))
        return noise if self.name == FLOW else noise * self.scheduler.init_noise_sigma

    def to_x_t(self, x: Tensor, level: Level) -> Tensor:
        """x_t; for Euler alpha (x_t / alpha), which is diffusers' `scale_model_input`."""
        return x * level.alpha if self.name == "euler" else x

    def step(self, prediction: Prediction, x: Tensor, level: Level) -> Tensor:
        """The scheduler's own step, fed in its own prediction type."""
        output = _OUTPUTS[self.prediction_type](prediction, level)
        timestep = self.scheduler.timesteps[level.index]
        return self.scheduler.step(output, timestep, x, return_dict=False)[0]

    def restart(self) -> None:
        """The next step is first order: DPM++ 2M would mix in a prediction from before a jump."""
        if self.name == "dpm++2m":
            self.scheduler.lower_order_nums = 0


def _options(name: str, config: Any) -> dict[str, Any]:
    """What a folder's config, written for another scheduler, leaves to a wrong default."""
    if name == "dpm++2m":
        return {"algorithm_type": "dpmsolver++", "solver_order": 2}
    if name == "ddim":
        # DDIM's own default clips x0 to [-1, 1], which latents exceed.
        return {"clip_sample": config.get("clip_sample", False)}
    return {}
