"""diffusers schedulers as solvers in variance-preserving coordinates: the one place that converts.

DDIM and DPM++ 2M keep x_t itself; Euler keeps x_t / alpha and a noise level sigma / alpha.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from torch import Tensor

from higfa_cli.errors import RecipeError, UserError
from higfa_cli.method import equations
from higfa_cli.method.protocols import Level, Prediction

CLASSES: dict[str, Any] = {
    "ddim": DDIMScheduler,
    "euler": EulerDiscreteScheduler,
    "dpm++2m": DPMSolverMultistepScheduler,
}


class SchedulerSolver:
    """A `method.protocols.Solver` made of one diffusers scheduler.

    Args:
        name: `ddim`, `euler` or `dpm++2m`.
        config: the scheduler config of the model's folder.
        steps: N >= 1.

    Raises:
        RecipeError: another scheduler name.
        UserError: a prediction type other than epsilon and v_prediction.
    """

    def __init__(self, name: str, config: Any, steps: int) -> None:
        if name not in CLASSES:
            raise RecipeError(
                f"synthesize.scheduler: `{name}` is not supported; use one of {', '.join(CLASSES)}"
            )
        self.name = name
        self.scheduler = CLASSES[name].from_config(config, **_options(name, config))
        self.prediction_type: str = self.scheduler.config.prediction_type
        if self.prediction_type not in ("epsilon", "v_prediction"):
            raise UserError(
                f"scheduler: prediction_type `{self.prediction_type}` is not supported; "
                "use a model that predicts epsilon or v"
            )
        self.scheduler.set_timesteps(steps)
        self.levels: Sequence[Level] = tuple(self._level(i, steps) for i in range(steps))

    def _level(self, index: int, steps: int) -> Level:
        timestep = self.scheduler.timesteps[index].item()
        if self.name == "ddim":
            alpha_bar = self.scheduler.alphas_cumprod[int(timestep)].double().item()
        else:
            ratio = self.scheduler.sigmas[index].double().item()  # sigma / alpha
            alpha_bar = 1.0 / (1.0 + ratio**2)
        return Level(
            index=index,
            progress=index / steps,
            timestep=timestep,
            alpha=alpha_bar**0.5,
            sigma=(1.0 - alpha_bar) ** 0.5,
        )

    def start(self, noise: Tensor) -> Tensor:
        """Unit normal noise -> first state; also rewinds the scheduler's own step counter."""
        self.scheduler.set_timesteps(len(self.levels))
        return noise * self.scheduler.init_noise_sigma

    def to_vp(self, x: Tensor, level: Level) -> Tensor:
        """x_t; for Euler alpha (x_t / alpha), which is diffusers' `scale_model_input`."""
        return x * level.alpha if self.name == "euler" else x

    def step(self, prediction: Prediction, x: Tensor, level: Level) -> Tensor:
        """The scheduler's own step, fed in its own prediction type."""
        output = (
            prediction.eps
            if self.prediction_type == "epsilon"
            else equations.to_v(prediction, level)
        )
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
