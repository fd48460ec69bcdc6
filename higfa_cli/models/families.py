"""Stable-Diffusion-like model folders behind one small interface; it knows no method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from higfa_cli.errors import UserError
from higfa_cli.method import guidance
from higfa_cli.method.protocols import Branch, Level, Prediction
from higfa_cli.models.autoencoder import Autoencoder
from higfa_cli.models.scheduler import SchedulerSolver
from higfa_cli.recipe.refs import resolve_ref
from higfa_cli.recipe.schema import Synthesize


@dataclass(frozen=True)
class Conditions:
    """What a batch is conditioned on.

    Attributes:
        text, negative: encoder states [B, L, D].
        contours: [B, 3, S, S] in [0, 1], white edges on black.
        conditioning_scale: multiplies the ControlNet's residuals.
    """

    text: Tensor
    negative: Tensor
    contours: Tensor
    conditioning_scale: float


class ControlledDenoiser:
    """e(.) of one batch: every asked branch in one UNet call, the ControlNet only where it counts.

    Args:
        unet, controlnet: diffusers modules in one dtype.
        conditions: the batch's conditions.
        prediction_type: `epsilon` or `v_prediction`.
    """

    def __init__(
        self, unet: Any, controlnet: Any, conditions: Conditions, prediction_type: str
    ) -> None:
        self.unet, self.controlnet = unet, controlnet
        self.conditions = conditions
        self.convert = guidance.from_v if prediction_type == "v_prediction" else guidance.from_eps

    def predict(
        self, x_t: Tensor, level: Level, branches: Sequence[Branch]
    ) -> dict[Branch, Prediction]:
        """x_t [B, C, h, w] -> a prediction per branch, in x_t's dtype."""
        # Contour branches come last, so that their residuals are one contiguous block.
        ordered = sorted(branches, key=lambda b: b.has_contour)
        text = torch.cat(
            [self.conditions.text if b.has_text else self.conditions.negative for b in ordered]
        )
        x = torch.cat([x_t] * len(ordered)).to(self.unet.dtype)
        residuals = self._residuals(x, text, level, sum(b.has_contour for b in ordered))
        output = self.unet(
            x, level.timestep, encoder_hidden_states=text, return_dict=False, **residuals
        )[0]
        parts = output.to(x_t.dtype).chunk(len(ordered))
        return {b: self.convert(x_t, part, level) for b, part in zip(ordered, parts, strict=True)}

    def _residuals(
        self, x: Tensor, text: Tensor, level: Level, with_contour: int
    ) -> dict[str, Any]:
        """ControlNet residuals, zero for the branches without a contour."""
        if with_contour == 0:
            return {}
        size = len(self.conditions.contours) * with_contour
        down, mid = self.controlnet(
            x[-size:],
            level.timestep,
            encoder_hidden_states=text[-size:],
            controlnet_cond=torch.cat([self.conditions.contours] * with_contour).to(x.dtype),
            conditioning_scale=self.conditions.conditioning_scale,
            return_dict=False,
        )
        missing = len(x) - size

        def pad(residual: Tensor) -> Tensor:
            return torch.cat([residual.new_zeros(missing, *residual.shape[1:]), residual])

        return {
            "down_block_additional_residuals": [pad(r) for r in down],
            "mid_block_additional_residual": pad(mid),
        }


@dataclass
class DiffusionModel:
    """A loaded model: text encoder, denoiser, ControlNet, autoencoder and scheduler config."""

    tokenizer: Any
    text_encoder: Any
    unet: Any
    controlnet: Any
    autoencoder: Autoencoder
    scheduler_config: Any
    settings: Synthesize
    device: torch.device
    _embeddings: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def size(self) -> int:
        """Side of the square picture, pixels."""
        return self.settings.size

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """[C, h, w] of one x0."""
        side = self.settings.size // self.autoencoder.factor
        return (self.unet.config.in_channels, side, side)

    def encode(self, images: Tensor) -> Tensor:
        """Images [B, 3, S, S] in [-1, 1] -> x0."""
        return self.autoencoder.encode(images.to(self.device))

    def decode(self, x0: Tensor) -> Tensor:
        """x0 -> images in about [-1, 1]; differentiable."""
        return self.autoencoder.decode(x0)

    @torch.no_grad()
    def embed(self, prompt: str) -> Tensor:
        """Encoder states [L, D] of one prompt, computed once per distinct prompt."""
        if prompt not in self._embeddings:
            tokens = self.tokenizer(
                prompt,
                padding="max_length",
                max_length=self.tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            )
            states = self.text_encoder(tokens.input_ids.to(self.device))[0]
            self._embeddings[prompt] = states[0].to(self.unet.dtype)
        return self._embeddings[prompt]

    def conditions(self, prompts: Sequence[str], negative: str, contours: Tensor) -> Conditions:
        """Conditions of a batch; contours [B, 1, S, S] in [0, 1]."""
        return Conditions(
            text=torch.stack([self.embed(p) for p in prompts]),
            negative=torch.stack([self.embed(negative)] * len(prompts)),
            contours=contours.to(self.device).expand(-1, 3, -1, -1),
            conditioning_scale=self.settings.conditioning_scale,
        )

    def denoiser(self, conditions: Conditions) -> ControlledDenoiser:
        """e(.) of one batch."""
        return ControlledDenoiser(
            self.unet, self.controlnet, conditions, self.scheduler_config["prediction_type"]
        )

    def solver(self, steps: int) -> SchedulerSolver:
        """The recipe's solver with N = steps."""
        return SchedulerSolver(self.settings.scheduler, self.scheduler_config, steps)


def load_pipeline(settings: Synthesize, base: Path, device: torch.device) -> DiffusionModel:
    """Load the model that `synthesize` names, from a folder, the pocket or a hub id.

    Only safetensors are read, and no code from the folder is run.

    Raises:
        UserError: a missing or unreadable model, or a size that the model cannot draw.
    """
    from diffusers import ControlNetModel, StableDiffusionControlNetPipeline

    dtype = getattr(torch, settings.dtype)
    model, control = (resolve_ref(r, base) for r in (settings.model, settings.controlnet))
    options = {"use_safetensors": True, "dtype": dtype}
    try:
        controlnet = ControlNetModel.from_pretrained(
            control, revision=settings.controlnet_revision, **options
        )
        pipe = StableDiffusionControlNetPipeline.from_pretrained(
            model,
            controlnet=controlnet,
            safety_checker=None,
            feature_extractor=None,
            revision=settings.revision,
            **options,
        )
    except (OSError, ValueError) as error:
        raise UserError(
            f"synthesize.model `{settings.model}` / synthesize.controlnet `{settings.controlnet}`: "
            f"cannot be loaded ({_first_line(error)}); check the names and the network, or give "
            "local diffusers folders"
        ) from error
    for module in (pipe.text_encoder, pipe.unet, pipe.controlnet):
        module.to(device).eval().requires_grad_(False)
    loaded = DiffusionModel(
        tokenizer=pipe.tokenizer,
        text_encoder=pipe.text_encoder,
        unet=pipe.unet,
        controlnet=pipe.controlnet,
        autoencoder=Autoencoder(pipe.vae).to(device),
        scheduler_config=pipe.scheduler.config,
        settings=settings,
        device=device,
    )
    _check_size(loaded)
    return loaded


def _check_size(model: DiffusionModel) -> None:
    downs = 2 ** (len(model.unet.config.block_out_channels) - 1)
    multiple = model.autoencoder.factor * downs
    if model.size % multiple:
        raise UserError(
            f"synthesize.size: {model.size} is not a multiple of {multiple}, "
            f"which `{model.settings.model}` needs"
        )


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
