"""Stable Diffusion XL: as Stable Diffusion, with two text encoders, a pooled text and the size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from higfa_cli.models.families.family import Architecture, Inputs
from higfa_cli.models.families.sd import StableDiffusion
from higfa_cli.models.text import TextStates

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class StableDiffusionXL(StableDiffusion):
    """See `Family`; the conditions are those of Podell et al. 2023."""

    name, title, prefix = "sdxl", "Stable Diffusion XL", "StableDiffusionXL"
    pipeline = "StableDiffusionXLControlNetPipeline"
    text_encoders: Mapping[str, str] = {
        "text_encoder": "CLIPTextModel",
        "text_encoder_2": "CLIPTextModelWithProjection",
    }
    tokenizers = ("tokenizer", "tokenizer_2")
    tensors = "conditioner.embedders.1"
    known: Mapping[str, str] = {
        "stabilityai/stable-diffusion-xl-base-1.0": "sdxl-base",
        "diffusers/controlnet-canny-sdxl-1.0": "controlnet-canny-sdxl",
        "madebyollin/taesdxl": "taesd",
    }

    def pipeline_options(self, index: Mapping[str, Any]) -> dict[str, Any]:
        """Without the watermark, which would be in every training picture."""
        return {"add_watermarker": False, "feature_extractor": None, "image_encoder": None}

    def encode(self, pipe: Any, prompt: str, device: torch.device) -> TextStates:
        """The empty prompt is all zeros where the model was trained so."""
        states, _, pooled, _ = pipe.encode_prompt(
            prompt, device=device, do_classifier_free_guidance=False
        )
        text = TextStates(states[0], pooled[0])
        if not prompt and pipe.config.force_zeros_for_empty_prompt:
            return text.map(lambda states: states.new_zeros(states.shape))
        return text

    def blank_text(self, arch: Architecture, dtype: torch.dtype) -> TextStates:
        """[L, D] of both encoders side by side, and the second one's pooled [P]."""
        import torch

        pooled = torch.zeros(arch.text_encoders[-1].get("projection_dim", 512), dtype=dtype)
        return TextStates(super().blank_text(arch, dtype).states, pooled)

    def added(self, inputs: Inputs) -> dict[str, Any]:
        """Pooled texts, and time ids: original size, crop (0, 0), target size."""
        import torch

        pooled, size = inputs.text.pooled, inputs.size
        assert pooled is not None
        ids = torch.tensor([size, size, 0, 0, size, size]).to(pooled).expand(len(pooled), -1)
        return {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": ids}}

    def stock_call(self, text: TextStates, negative: TextStates, contour: Tensor) -> dict[str, Any]:
        """With the pooled texts."""
        return super().stock_call(text, negative, contour) | {
            "pooled_prompt_embeds": text.pooled,
            "negative_pooled_prompt_embeds": negative.pooled,
        }
