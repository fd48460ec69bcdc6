"""One batch of pictures: conditions and noise in, pictures and traces out. No files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from higfa_cli.method import schedule
from higfa_cli.method.guidance import Guidance
from higfa_cli.method.protocols import Level
from higfa_cli.method.sampler import Step, sample
from higfa_cli.models.classifier import Classifier, to_bytes
from higfa_cli.models.diffusion import DiffusionModel, seeded_noise


class DecodedGuide:
    """The guide behind the decoder: p_phi(y | D(x0_hat))."""

    def __init__(self, model: DiffusionModel, guide: Classifier) -> None:
        self.model, self.guide = model, guide

    def logits(self, x0: Tensor) -> Tensor:
        """x0 [B, C, h, w] -> tempered logits [B, K]."""
        return self.guide.logits(self.model.decode_for_guide(x0)).to(x0.dtype)


@dataclass(frozen=True)
class Drawn:
    """One finished picture.

    Attributes:
        pixels: H x W x 3 uint8, or None where it failed.
        trace: per-step lists u, sigma, s_text, s_contour, s_classifier, p and grad_norm
            (the last two None before the switch); no lists where it was never drawn.
        error: why it failed, or None.
        effective_batch: pictures that were drawn together with it, itself included.
    """

    pixels: np.ndarray | None
    trace: dict[str, list[float | None]]
    error: str | None
    effective_batch: int


def evaluations(guidance: Guidance, levels: Sequence[Level]) -> tuple[int, int]:
    """(denoiser branches, guide passes) per picture: known before the first step."""
    denoiser = guide = 0
    for level in levels:
        guided = guidance.guided(level)
        branches = set(schedule.branches(guidance, guided))
        if guided:
            branches |= set(schedule.read_branches(guidance))
        denoiser += len(branches)
        guide += guided
    return denoiser, guide


def draw(
    model: DiffusionModel,
    guide: Classifier | None,
    guidance: Guidance,
    prompts: Sequence[str],
    negative: str,
    contours: Tensor,
    targets: Sequence[int],
    seeds: Sequence[int],
) -> list[Drawn]:
    """Draw one batch.

    Args:
        model: the diffusion model.
        guide: needed where the guidance has guided steps.
        guidance: strengths and choices.
        prompts, targets, seeds: one per picture.
        negative: negative prompt of all.
        contours: [B, 1, S, S] in [0, 1].
    """
    denoiser = model.denoiser(model.conditions(prompts, negative, contours))
    steps = list(
        sample(
            seeded_noise(seeds, model.latent_shape, model.device),
            torch.tensor(targets, device=model.device),
            denoiser,
            model.solver(model.sampling.steps),
            guidance,
            DecodedGuide(model, guide) if guide is not None else None,
        )
    )
    with torch.no_grad():
        images = model.decode(steps[-1].x).cpu()
    traces = _traces(steps)
    finite = torch.stack([step.finite for step in steps]).cpu()
    return [
        _drawn(image, traces[i], [bool(f) for f in finite[:, i]], steps)
        for i, image in enumerate(images)
    ]


def _drawn(
    image: Tensor, trace: dict[str, list[float | None]], finite: list[bool], steps: Sequence[Step]
) -> Drawn:
    batch = len(steps[0].finite)
    if not all(finite):
        u = steps[finite.index(False)].level.progress
        return Drawn(None, trace, f"not finite: latents or guide at u = {u:g}", batch)
    if not bool(image.isfinite().all()):
        return Drawn(None, trace, "not finite: decoded picture", batch)
    return Drawn(to_bytes(image).permute(1, 2, 0).numpy(), trace, None, batch)


def _traces(steps: Sequence[Step]) -> list[dict[str, list[float | None]]]:
    """Step-wise tensors -> one dictionary of lists per picture."""
    columns: dict[str, list[Tensor | None]] = {
        "s_text": [step.strengths.text for step in steps],
        "s_contour": [step.strengths.contour for step in steps],
        "s_classifier": [step.strengths.classifier for step in steps],
        "p": [step.p for step in steps],
        "grad_norm": [step.grad_norm for step in steps],
    }
    lists = {
        name: [None if tensor is None else tensor.tolist() for tensor in column]
        for name, column in columns.items()
    }
    shared: dict[str, list[float | None]] = {
        "u": [step.level.progress for step in steps],
        "sigma": [step.level.sigma for step in steps],
    }
    return [
        # Rounded to what single precision holds, so that traces stay short.
        shared
        | {
            name: [None if values is None else float(f"{values[i]:.7g}") for values in column]
            for name, column in lists.items()
        }
        for i in range(len(steps[0].finite))
    ]
