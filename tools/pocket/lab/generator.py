"""The recipe's generator without a stage: to encode pictures, or to time it."""

from __future__ import annotations

import torch
from torch import Tensor

from higfa_cli.models.classifier import from_bytes, to_bytes
from higfa_cli.models.diffusion import DiffusionModel
from higfa_cli.models.loading import load_pipeline
from higfa_cli.stages.context import Context

BATCH = 64


def load_generator(ctx: Context, prompt: str | None = None) -> DiffusionModel:
    """The generator on the CPU, ready for one prompt and the empty one, or for none."""
    prompts = () if prompt is None else (prompt, "")
    return load_pipeline(ctx.recipe, ctx.base, torch.device("cpu"), prompts)


@torch.no_grad()
def through_autoencoder(model: DiffusionModel, pictures: Tensor) -> Tensor:
    """decode(encode(.)) of pictures, uint8 [N, 3, S, S], rounded to uint8 again."""
    parts = pictures.split(BATCH)
    return torch.cat([to_bytes(model.decode(model.encode(from_bytes(part)))) for part in parts])
