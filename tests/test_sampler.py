"""The loop: switch, independence of images, exact limits, failures, order of multistep solvers."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from diffusers import DDIMScheduler

from higfa_cli.method.guidance import Guidance
from higfa_cli.method.protocols import Branch, Level, Prediction
from higfa_cli.method.sampler import Step, sample
from higfa_cli.models.scheduler import SchedulerSolver
from tests.support import gmm
from tests.support.strengths import strengths

CONFIG = DDIMScheduler(
    beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False
).config
GUIDED = strengths(text=1.0, contour=1.0, classifier=0.5, switch=0.5)


class CountingDenoiser(gmm.MixtureDenoiser):
    """The mixture's denoiser; text pulls to one side, and calls are counted."""

    def __init__(self) -> None:
        super().__init__("eps")
        self.calls: list[tuple[float, tuple[Branch, ...]]] = []

    def predict(
        self, x_t: torch.Tensor, level: Level, branches: Sequence[Branch]
    ) -> dict[Branch, Prediction]:
        self.calls.append((level.progress, tuple(branches)))
        plain = super().predict(x_t, level, branches)
        shifts = {Branch.UNCOND: 0.0, Branch.TEXT: 0.1, Branch.CONTOUR: 0.2}
        return {
            b: Prediction(p.x0 - shifts.get(b, 0.3), p.eps + shifts.get(b, 0.3))
            for b, p in plain.items()
        }


class LinearGuide:
    """Logits linear in x0; can be made to fail for chosen images."""

    def __init__(self, broken: Sequence[int] = (), scale: float = 1.0) -> None:
        self.broken, self.scale, self.seen = list(broken), scale, 0

    def logits(self, x0: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        logits = self.scale * x0 @ gmm.MEANS.T.to(x0)
        mask = torch.zeros(len(x0), 1, dtype=x0.dtype)
        mask[self.broken] = float("nan")
        return logits + mask


def noise(batch: int = 6) -> torch.Tensor:
    return torch.randn(batch, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def run(
    guidance: Guidance,
    guide: LinearGuide | None,
    targets: Sequence[int] = (0, 1, 2, 0, 1, 2),
    solver: str = "ddim",
    steps: int = 10,
    denoiser: CountingDenoiser | None = None,
) -> list[Step]:
    return list(
        sample(
            noise(len(targets)),
            torch.tensor(targets),
            denoiser or CountingDenoiser(),
            SchedulerSolver(solver, CONFIG, steps),
            guidance,
            guide,
        )
    )


def test_guide_is_silent_before_the_switch() -> None:
    guide = LinearGuide()
    steps = run(GUIDED, guide)
    assert guide.seen == 5
    assert [step.p is None for step in steps] == [True] * 5 + [False] * 5
    assert all((step.strengths.classifier == 0).all() for step in steps[:5])
    assert all((step.strengths.classifier > 0).all() for step in steps[5:])


def test_switch_as_a_noise_level() -> None:
    steps = run(strengths(GUIDED, switch_sigma=0.6), LinearGuide())
    assert {step.p is not None for step in steps if step.level.sigma <= 0.6} == {True}
    assert {step.p is not None for step in steps if step.level.sigma > 0.6} == {False}


def test_no_guide_is_an_error_only_where_one_is_needed() -> None:
    with pytest.raises(ValueError, match="step 5 is guided, but there is no guide"):
        run(GUIDED, None)
    assert len(run(strengths(GUIDED, switch=1.0), None)) == 10


def test_each_branch_is_evaluated_once_per_step() -> None:
    denoiser = CountingDenoiser()
    run(strengths(GUIDED, text=4.0, contour=1.5), LinearGuide(), denoiser=denoiser)
    assert len(denoiser.calls) == 10
    assert all(len(branches) == 3 for _, branches in denoiser.calls)


@pytest.mark.parametrize("gradient", ["x0", "x_t"])
@pytest.mark.parametrize("read", ["conditional", "composed"])
@pytest.mark.parametrize("grad_norm", ["none", "rms"])
def test_images_do_not_depend_on_their_neighbours(gradient: str, read: str, grad_norm: str) -> None:
    guidance = strengths(
        GUIDED,
        text=3.0,
        contour=2.0,
        gradient=gradient,  # type: ignore[arg-type]
        read=read,  # type: ignore[arg-type]
        grad_norm=grad_norm,  # type: ignore[arg-type]
    )
    reference = run(guidance, LinearGuide())[-1].x
    other_labels = run(guidance, LinearGuide(), targets=(0, 2, 1, 0, 0, 2))[-1].x
    assert torch.equal(reference[[0, 3, 5]], other_labels[[0, 3, 5]])
    assert not torch.equal(reference[1], other_labels[1])
    broken = run(guidance, LinearGuide(broken=[1, 4]))
    assert torch.equal(reference[[0, 2, 3, 5]], broken[-1].x[[0, 2, 3, 5]])
    assert broken[-1].finite.tolist() == [True, False, True, True, False, True]
    assert bool(broken[-1].x.isfinite().all())
    assert broken[-1].p is not None and broken[-1].p[1] == 0


def test_gamma_zero_constant_is_the_fixed_strength_classifier() -> None:
    fixed = strengths(GUIDED, gamma=0.0, modulation="constant", text=3.0, contour=2.0)
    for step in run(fixed, LinearGuide())[5:]:
        assert step.strengths.classifier.tolist() == [0.5] * 6
        assert step.strengths.text.tolist() == [3.0] * 6
        assert step.strengths.contour.tolist() == [2.0] * 6


def test_full_confidence_is_exactly_the_text_contour_sampler() -> None:
    """Logits so large that p = 1 for the class that each image is heading for."""
    guidance = strengths(GUIDED, text=3.0, contour=2.0, gamma=1.0, modulation="rising")
    unguided = run(strengths(guidance, switch=1.0), None)
    sure = LinearGuide(scale=1e6)
    at_switch = sure.logits(unguided[4].x).argmax(dim=1).tolist()
    guided = run(guidance, sure, targets=at_switch)
    assert all((step.p == 1).all() for step in guided if step.p is not None)
    assert torch.equal(guided[-1].x, unguided[-1].x)


def test_guidance_raises_confidence() -> None:
    weak = run(strengths(GUIDED, classifier=0.0), LinearGuide())[-1].p
    strong = run(strengths(GUIDED, classifier=2.0), LinearGuide())[-1].p
    assert weak is not None and strong is not None
    assert (strong > weak).all()


def test_first_guided_step_of_a_multistep_solver_is_first_order() -> None:
    """DPM++ 2M restarted at the switch equals a fresh solver started there."""
    guidance = strengths(GUIDED, classifier=0.0, modulation="constant")
    steps = run(guidance, LinearGuide(), solver="dpm++2m")
    before, after = steps[4], steps[5]
    fresh = SchedulerSolver("dpm++2m", CONFIG, 10)
    fresh.start(noise())
    fresh.scheduler._step_index = 5
    prediction = CountingDenoiser().predict(before.x, after.level, [Branch.TEXT_CONTOUR])
    first_order = fresh.step(prediction[Branch.TEXT_CONTOUR], before.x, after.level)
    torch.testing.assert_close(after.x, first_order, rtol=0, atol=1e-12)
    unswitched = run(strengths(guidance, switch=1.0), None, solver="dpm++2m")
    assert (unswitched[5].x - after.x).abs().max() > 1e-4


def test_zero_gradient_stays_zero_under_rms() -> None:
    steps = run(strengths(GUIDED, grad_norm="rms"), LinearGuide(scale=0.0))
    plain = run(strengths(GUIDED, switch=1.0), None)
    assert torch.equal(steps[-1].x, plain[-1].x)


def test_rms_gradient_has_the_size_of_eps() -> None:
    """A guide a thousand times as steep pushes alike: its direction alone counts."""
    guidance = strengths(GUIDED, gamma=0.0, modulation="constant", grad_norm="rms", switch=0.6)
    gentle, steep = (run(guidance, LinearGuide(scale=s))[-1] for s in (1e-3, 1e-6))
    off = run(strengths(guidance, classifier=0.0), LinearGuide(scale=1e-3))[-1]
    moved = (gentle.x - off.x).abs().max()
    assert moved > 3e-3
    assert (gentle.x - steep.x).abs().max() < 0.05 * moved
    plain = run(strengths(guidance, grad_norm="none"), LinearGuide(scale=1e-6))[-1]
    torch.testing.assert_close(plain.x, off.x, rtol=0, atol=1e-6)


def test_a_guide_that_fails_without_a_gradient_fails_the_image() -> None:
    """At S_K = 0 the gradient is zero by definition; what the guide says still has to be finite."""
    steps = run(strengths(GUIDED, classifier=0.0), LinearGuide(broken=[2]))
    assert steps[-1].finite.tolist() == [True, True, False, True, True, True]
    assert steps[-1].p is not None and bool(steps[-1].p.isfinite().all())
