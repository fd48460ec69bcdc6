"""The test that catches everything: a Gaussian mixture with closed-form eps and p(y | x_t)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from higfa_cli.method import equations
from higfa_cli.method.protocols import Level, Prediction
from higfa_cli.method.sampler import sample
from higfa_cli.models.scheduler import FLOW, SchedulerSolver
from tests.support import gmm
from tests.support.strengths import strengths

EXACT = strengths(
    text=1.0,
    text_floor=1.0,
    contour=1.0,
    contour_floor=1.0,
    classifier=1.0,
    gamma=0.0,
    modulation="constant",
    gradient="x_t",
    grad_norm="none",
    switch=0.0,
)


def scheduler_config(form: str) -> Any:
    if form == "flow":
        return FlowMatchEulerDiscreteScheduler(shift=3.0).config
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        timestep_spacing="trailing",
        prediction_type={"eps": "epsilon", "v": "v_prediction"}[form],
    ).config


class Recorder:
    """The real solver; keeps what it is fed and sets the level that the guide is read at."""

    def __init__(self, name: str, form: str, steps: int, guide: gmm.MixtureGuide) -> None:
        self.inner = SchedulerSolver(name, scheduler_config(form), steps)
        self.levels, self.guide = self.inner.levels, guide
        self.fed: list[tuple[Level, torch.Tensor, Prediction]] = []

    def start(self, noise: torch.Tensor) -> torch.Tensor:
        return self.inner.start(noise)

    def to_x_t(self, x: torch.Tensor, level: Level) -> torch.Tensor:
        self.guide.level = level
        return self.inner.to_x_t(x, level)

    def step(self, prediction: Prediction, x: torch.Tensor, level: Level) -> torch.Tensor:
        self.fed.append((level, self.inner.to_x_t(x, level), prediction))
        return self.inner.step(prediction, x, level)

    def restart(self) -> None:
        self.inner.restart()


def run(name: str, form: str, steps: int = 12, batch: int = 24) -> tuple[Recorder, torch.Tensor]:
    guide = gmm.MixtureGuide()
    solver = Recorder(name, form, steps, guide)
    noise = torch.randn(batch, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(batch) % 3
    *_, last = sample(noise, targets, gmm.MixtureDenoiser(form), solver, EXACT, guide)
    return solver, last.x


#: Every solver with what the denoiser predicts.
COORDINATES = [(name, form) for name in ("ddim", "euler", "dpm++2m") for form in ("eps", "v")]
COORDINATES += [(FLOW, "flow")]


def worst_error(solver: Recorder) -> float:
    """Largest |eps_hat - exact conditional eps| (and the same in x0, v and u) over guided steps."""
    worst = 0.0
    for level, x_t, prediction in solver.fed:
        if not EXACT.guided(level):
            continue
        targets = torch.arange(len(x_t)) % 3
        eps = gmm.exact_eps(x_t, level, targets)
        x0 = (x_t - level.sigma * eps) / level.alpha
        v = level.alpha * eps - level.sigma * x0
        for got, want in (
            (prediction.eps, eps),
            (prediction.x0, x0),
            (prediction.x0, gmm.exact_x0(x_t, level, targets)),
            (equations.to_v(prediction, level), v),
            (equations.to_flow(prediction), eps - x0),
        ):
            worst = max(worst, (got - want).abs().max().item())
    return worst


@pytest.mark.parametrize(("name", "form"), COORDINATES)
def test_guided_eps_is_the_exact_conditional_eps(name: str, form: str) -> None:
    solver, _ = run(name, form)
    assert len(solver.fed) == 12
    # A flow starts at pure noise, where no guide is asked.
    assert sum(EXACT.guided(level) for level in solver.levels) == (11 if form == "flow" else 12)
    assert worst_error(solver) < 1e-10


@pytest.mark.parametrize(
    ("name", "form"), [("ddim", "eps"), ("euler", "eps"), ("dpm++2m", "eps"), (FLOW, "flow")]
)
def test_full_run_lands_in_the_asked_component(name: str, form: str) -> None:
    _, x0 = run(name, form, steps=60, batch=90)
    targets = torch.arange(90) % 3
    nearest = torch.cdist(x0, gmm.MEANS).argmin(dim=1)
    assert (nearest == targets).all()
    spread = (x0 - gmm.MEANS[targets]).std().item()
    assert spread == pytest.approx(gmm.STD, rel=0.2)


def _flipped_sign(prediction, s_classifier, gradient, level):  # type: ignore[no-untyped-def]
    return ORIGINAL_APPLY(prediction, -s_classifier, gradient, level)


def _no_alpha(x_t, eps, level):  # type: ignore[no-untyped-def]
    return x_t - level.sigma * eps


def _no_sigma(prediction, s_classifier, gradient, level):  # type: ignore[no-untyped-def]
    return ORIGINAL_APPLY(prediction, s_classifier, gradient / level.sigma, level)


def _no_alpha_in_x0(prediction, s_classifier, gradient, level):  # type: ignore[no-untyped-def]
    right = ORIGINAL_APPLY(prediction, s_classifier, gradient, level)
    return Prediction(prediction.x0 + (right.x0 - prediction.x0) * level.alpha, right.eps)


def _flow_with_sign_flipped(x_t, u, level):  # type: ignore[no-untyped-def]
    return Prediction(x_t + level.sigma * u, x_t + level.alpha * u)


def _flow_without_sigma(x_t, u, level):  # type: ignore[no-untyped-def]
    return Prediction(x_t - u, x_t + level.alpha * u)


ORIGINAL_APPLY = equations.apply_classifier


@pytest.mark.parametrize(
    ("coordinates", "function", "mutant"),
    [
        (("ddim", "eps"), "apply_classifier", _flipped_sign),
        (("ddim", "eps"), "apply_classifier", _no_sigma),
        (("ddim", "eps"), "tweedie", _no_alpha),
        ((FLOW, "flow"), "apply_classifier", _flipped_sign),
        ((FLOW, "flow"), "apply_classifier", _no_sigma),
        ((FLOW, "flow"), "apply_classifier", _no_alpha_in_x0),
        ((FLOW, "flow"), "from_flow", _flow_with_sign_flipped),
        ((FLOW, "flow"), "from_flow", _flow_without_sigma),
    ],
    ids=[
        "sign-flipped", "sigma-dropped", "one-over-alpha-dropped", "flow-sign-flipped",
        "flow-sigma-dropped", "flow-one-over-alpha-dropped", "from-flow-sign-flipped",
        "from-flow-sigma-dropped",
    ],
)  # fmt: skip
def test_the_check_fails_on_wrong_formulas(
    monkeypatch: pytest.MonkeyPatch, coordinates: tuple[str, str], function: str, mutant: object
) -> None:
    monkeypatch.setattr(equations, function, mutant)
    solver, _ = run(*coordinates, steps=6)
    assert worst_error(solver) > 1e-3


def test_cheap_gradient_has_one_over_alpha() -> None:
    """Where eps does not depend on x_t, the cheap gradient is the exact one (chain rule)."""
    level = Level(3, 0.5, 100.0, alpha=0.6, sigma=0.8)
    eps = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x_t = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    head = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    targets = torch.tensor([0, 1, 2, 0, 1])

    leaf = x_t.clone().requires_grad_()
    through_x_t = equations.gradient_exact(
        equations.log_confidence(equations.tweedie(leaf, eps, level) @ head, targets), leaf
    )
    x0 = equations.tweedie(x_t, eps, level).requires_grad_()
    cheap = equations.gradient_fixed_eps(equations.log_confidence(x0 @ head, targets), x0, level)
    torch.testing.assert_close(cheap, through_x_t, rtol=0, atol=1e-12)
    without = cheap * level.alpha
    assert (without - through_x_t).abs().max() > 1e-2
