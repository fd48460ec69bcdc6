"""Families of models: what differs between Stable Diffusion 1.x/2.x and SDXL, and nothing else.

A family knows its stock pipeline, how that pipeline reads a prompt, and which further conditions
the denoiser takes. It knows nothing of guidance.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch

from higfa_cli.models.architecture import family_of
from higfa_cli.models.text import TextStates


class Family(Protocol):
    """One family of text-to-image models with ControlNets."""

    def pipeline(self) -> tuple[Any, dict[str, Any]]:
        """The stock ControlNet pipeline's class, and what `from_pretrained` must be told."""

    def tokenizers(self, pipe: Any) -> tuple[Any, ...]:
        """The pipeline's tokenizers, one per text encoder."""

    def encode(self, pipe: Any, prompt: str, device: torch.device) -> TextStates:
        """One prompt -> its states; "" is the unconditional prompt."""

    def added(self, text: TextStates, size: int) -> dict[str, Any]:
        """Further keyword arguments of UNet and ControlNet for a batch of texts."""


class StableDiffusion:
    """Stable Diffusion 1.x and 2.x, and the pocket: one text encoder."""

    def pipeline(self) -> tuple[Any, dict[str, Any]]:
        """See `Family`. Without the checker that would black pictures out."""
        from diffusers import StableDiffusionControlNetPipeline

        return StableDiffusionControlNetPipeline, {
            "safety_checker": None,
            "feature_extractor": None,
            "requires_safety_checker": False,
        }

    def tokenizers(self, pipe: Any) -> tuple[Any, ...]:
        """See `Family`."""
        return (pipe.tokenizer,)

    def encode(self, pipe: Any, prompt: str, device: torch.device) -> TextStates:
        """See `Family`."""
        states, _ = pipe.encode_prompt(prompt, device, 1, do_classifier_free_guidance=False)
        return TextStates(states[0])

    def added(self, text: TextStates, size: int) -> dict[str, Any]:
        """Nothing."""
        return {}


class StableDiffusionXL:
    """SDXL: two text encoders, a pooled embedding and the picture's size (Podell et al. 2023)."""

    def pipeline(self) -> tuple[Any, dict[str, Any]]:
        """See `Family`. Without the watermark, which would be in every training picture."""
        from diffusers import StableDiffusionXLControlNetPipeline

        return StableDiffusionXLControlNetPipeline, {
            "add_watermarker": False,
            "feature_extractor": None,
            "image_encoder": None,
        }

    def tokenizers(self, pipe: Any) -> tuple[Any, ...]:
        """See `Family`."""
        return (pipe.tokenizer, pipe.tokenizer_2)

    def encode(self, pipe: Any, prompt: str, device: torch.device) -> TextStates:
        """See `Family`. The empty prompt is all zeros where the model was trained so."""
        states, _, pooled, _ = pipe.encode_prompt(
            prompt, device=device, do_classifier_free_guidance=False
        )
        text = TextStates(states[0], pooled[0])
        return text.zeros() if not prompt and pipe.config.force_zeros_for_empty_prompt else text

    def added(self, text: TextStates, size: int) -> dict[str, Any]:
        """Pooled texts, and time ids: original size, crop (0, 0), target size."""
        assert text.pooled is not None
        ids = torch.tensor([size, size, 0, 0, size, size]).to(text.pooled)
        ids = ids.expand(len(text.pooled), -1)
        return {"added_cond_kwargs": {"text_embeds": text.pooled, "time_ids": ids}}


FAMILIES: dict[str, Family] = {"sd": StableDiffusion(), "sdxl": StableDiffusionXL()}


def family(class_name: str) -> Family:
    """The family of a pipeline class, as a folder's `model_index.json` names it.

    Raises UserError for a pipeline of any other family.
    """
    return FAMILIES[family_of(class_name)]
