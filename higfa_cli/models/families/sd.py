"""Stable Diffusion 1.x and 2.x, and the pocket: a UNet and one text encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from higfa_cli.models.families.family import Architecture, Family, Inputs
from higfa_cli.models.text import TextStates

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class StableDiffusion(Family):
    """Stable Diffusion 1.x and 2.x: a UNet, one CLIP text encoder."""

    name, title, prefix = "sd", "Stable Diffusion", "StableDiffusion"
    pipeline = "StableDiffusionControlNetPipeline"
    network, network_class = "unet", "UNet2DConditionModel"
    controlnet_class = "ControlNetModel"
    text_encoders: Mapping[str, str] = {"text_encoder": "CLIPTextModel"}
    tokenizers: Sequence[str] = ("tokenizer",)
    text_width = "cross_attention_dim"
    schedulers = ("ddim", "euler", "dpm++2m")
    known: Mapping[str, str] = {
        "stable-diffusion-v1-5/stable-diffusion-v1-5": "sd15",
        "lllyasviel/control_v11p_sd15_canny": "controlnet-canny-sd15",
        "madebyollin/taesd": "taesd",
    }

    def pipeline_options(self, index: Mapping[str, Any]) -> dict[str, Any]:
        """Without the checker that would black pictures out."""
        return {
            "safety_checker": None,
            "feature_extractor": None,
            "requires_safety_checker": False,
        }

    def size_multiple(self, arch: Architecture) -> int:
        """The UNet halves the latents between its blocks."""
        return arch.vae_factor * int(2 ** (len(arch.network["block_out_channels"]) - 1))

    def encode(self, pipe: Any, prompt: str, device: torch.device) -> TextStates:
        """The last hidden states."""
        states, _ = pipe.encode_prompt(prompt, device, 1, do_classifier_free_guidance=False)
        return TextStates(states[0])

    def blank_text(self, arch: Architecture, dtype: torch.dtype) -> TextStates:
        """[L, D]."""
        import torch

        tokens = arch.text_encoders[0].get("max_position_embeddings", 77)
        return TextStates(torch.zeros(tokens, arch.network["cross_attention_dim"], dtype=dtype))

    def added(self, inputs: Inputs) -> dict[str, Any]:
        """Further keyword arguments of UNet and ControlNet: none."""
        return {}

    def residuals(
        self, controlnet: Any, inputs: Inputs, condition: Tensor, scale: float
    ) -> list[list[Tensor]]:
        """Those of the way down, and the middle's one."""
        down, middle = controlnet(
            inputs.x,
            inputs.timestep,
            encoder_hidden_states=inputs.text.states,
            controlnet_cond=condition,
            conditioning_scale=scale,
            return_dict=False,
            **self.added(inputs),
        )
        return [list(down), [middle]]

    def denoise(
        self, network: Any, inputs: Inputs, residuals: Sequence[Sequence[Tensor]] = ()
    ) -> Tensor:
        """One call of the UNet."""
        control: dict[str, Any] = {}
        if residuals:
            down, (middle,) = residuals
            control["down_block_additional_residuals"] = down
            control["mid_block_additional_residual"] = middle
        output: Tensor = network(
            inputs.x,
            inputs.timestep,
            encoder_hidden_states=inputs.text.states,
            return_dict=False,
            **self.added(inputs),
            **control,
        )[0]
        return output

    def stock_call(self, text: TextStates, negative: TextStates, contour: Tensor) -> dict[str, Any]:
        """Contours as they are."""
        return {
            "prompt_embeds": text.states,
            "negative_prompt_embeds": negative.states,
            "image": contour,
        }
