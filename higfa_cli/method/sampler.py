"""The one sampling loop of hierarchical guidance, for any denoiser, guide and solver."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from higfa_cli.method import equations, schedule
from higfa_cli.method.guidance import Guidance
from higfa_cli.method.protocols import Branch, Denoiser, Guide, Level, Prediction, Solver
from higfa_cli.method.schedule import CONFIDENCES, Strengths


class Reading(NamedTuple):
    """What the guide says at one level.

    Attributes:
        p: probability of the target class, [B], detached.
        confidence: what modulates the strengths (p or the margin), [B], detached.
        gradient: g, [B, ...], not yet normalised.
        finite: [B], False where the guide's value or gradient is not finite (then p, confidence
            and gradient are 0 for that image, and the others are untouched).
    """

    p: Tensor
    confidence: Tensor
    gradient: Tensor
    finite: Tensor


class Step(NamedTuple):
    """One finished step: the state after it, and its trace of every image.

    Attributes:
        level: the level that the step started from.
        x: the solver's state after the step, [B, ...].
        strengths: s_T, s_C, s_K, each [B].
        p, grad_norm: probability and |g|, each [B]; None before the switch.
        finite: [B], False where a guide's value or the new state is not finite.
    """

    level: Level
    x: Tensor
    strengths: Strengths
    p: Tensor | None
    grad_norm: Tensor | None
    finite: Tensor


@torch.no_grad()
def sample(
    noise: Tensor,
    targets: Tensor,
    denoiser: Denoiser,
    solver: Solver,
    guidance: Guidance,
    guide: Guide | None = None,
) -> Iterator[Step]:
    """Draw from noise [B, ...] towards classes `targets` [B]; yields every step.

    Nothing else happens here: no files, no progress, no precision or model family.

    Raises:
        ValueError: a level is guided but no guide was given.
    """
    x, was_guided = solver.start(noise), False
    for level in solver.levels:
        guided = guidance.guided(level)
        if guided and not was_guided:
            solver.restart()
        was_guided = guided
        x_t = solver.to_x_t(x, level)

        predictions, reading = _predict(x_t, targets, denoiser, level, guidance, guide, guided)
        if reading is None:
            strengths = schedule.fixed(guidance, targets.to(x_t.dtype))
        else:
            strengths = schedule.modulated(guidance, reading.confidence)

        weights = equations.branch_weights(guidance.composition, strengths.text, strengths.contour)
        composed = equations.compose(predictions, weights)
        if reading is not None:
            g = reading.gradient
            if guidance.classifier.grad_norm == "rms":
                g = equations.normalise_rms(g, predictions[schedule.read_branch(guidance)].eps)
            composed = equations.apply_classifier(composed, strengths.classifier, g, level)

        x = solver.step(composed, x, level)
        yield _step(level, x, strengths, reading)


def _predict(
    x_t: Tensor,
    targets: Tensor,
    denoiser: Denoiser,
    level: Level,
    guidance: Guidance,
    guide: Guide | None,
    guided: bool,
) -> tuple[dict[Branch, Prediction], Reading | None]:
    """The needed branches once, and the guide's reading in the final stage."""
    needed = schedule.branches(guidance, guided)
    if not guided:
        return denoiser.predict(x_t, level, needed), None
    if guide is None:
        raise ValueError(f"step {level.index} is guided, but there is no guide")
    read = schedule.read_branches(guidance)
    if guidance.classifier.gradient == "x_t":
        with torch.enable_grad():
            leaf = x_t.detach().requires_grad_()
            seen = denoiser.predict(leaf, level, read)
            reading = _read(
                _reading_x0(seen, guidance, targets), leaf, targets, guide, level, guidance
            )
        predictions = {b: Prediction(p.x0.detach(), p.eps.detach()) for b, p in seen.items()}
        rest = tuple(b for b in needed if b not in predictions)
        if rest:
            predictions |= denoiser.predict(x_t, level, rest)
        return predictions, reading
    predictions = denoiser.predict(x_t, level, tuple(dict.fromkeys((*needed, *read))))
    with torch.enable_grad():
        leaf = _reading_x0(predictions, guidance, targets).detach().requires_grad_()
        reading = _read(leaf, leaf, targets, guide, level, guidance)
    return predictions, reading


def _reading_x0(
    predictions: dict[Branch, Prediction], guidance: Guidance, targets: Tensor
) -> Tensor:
    """x0_hat that the guide reads: the plain conditional's, or the composition at S_T and S_C."""
    if guidance.classifier.read == "conditional":
        return predictions[schedule.read_branch(guidance)].x0
    some = next(iter(predictions.values())).x0
    fixed = schedule.fixed(guidance, targets.to(some.dtype))
    weights = equations.branch_weights(guidance.composition, fixed.text, fixed.contour)
    return equations.compose(predictions, weights).x0


def _read(
    x0: Tensor,
    leaf: Tensor,
    targets: Tensor,
    guide: Guide,
    level: Level,
    guidance: Guidance,
) -> Reading:
    """One pass of the guide: confidence and gradient, with failed images set to zero."""
    logits = guide.logits(x0)
    if guidance.classifier.scale == 0:
        gradient = torch.zeros_like(leaf)
    elif guidance.classifier.gradient == "x_t":
        gradient = equations.gradient_exact(equations.log_confidence(logits, targets), leaf)
    else:
        gradient = equations.gradient_fixed_eps(
            equations.log_confidence(logits, targets), leaf, level
        )
    logits = logits.detach()
    finite = logits.isfinite().all(dim=-1) & gradient.isfinite().flatten(1).all(dim=1)
    logits = torch.where(finite[:, None], logits, torch.zeros_like(logits))
    p = equations.probability(logits, targets)
    confidence = CONFIDENCES[guidance.classifier.confidence](logits, targets)
    return Reading(
        p=torch.where(finite, p, torch.zeros_like(p)),
        confidence=torch.where(finite, confidence, torch.zeros_like(confidence)),
        gradient=torch.where(
            equations.per_image(finite, gradient).bool(), gradient, torch.zeros_like(gradient)
        ),
        finite=finite,
    )


def _step(level: Level, x: Tensor, strengths: Strengths, reading: Reading | None) -> Step:
    finite = x.isfinite().flatten(1).all(dim=1)
    if reading is None:
        return Step(level, x, strengths, None, None, finite)
    norm = reading.gradient.flatten(1).norm(dim=1)
    return Step(level, x, strengths, reading.p, norm, finite & reading.finite)
