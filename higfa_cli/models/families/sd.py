"""Stable Diffusion 1.x and 2.x, and the pocket: a UNet and one text encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from higfa_cli.models.families.family import Architecture, Config, Family

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from higfa_cli.models.text import TextStates


class StableDiffusion(Family):
    """Stable Diffusion 1.x and 2.x: a UNet, one CLIP text encoder."""

    name, title = "sd", "Stable Diffusion"
    pipeline = "StableDiffusionControlNetPipeline"
    network, network_class = "unet", "UNet2DConditionModel"
    controlnet_class = "ControlNetModel"
    text_encoders: Mapping[str, str] = {"text_encoder": "CLIPTextModel"}
    tokenizers: Sequence[str] = ("tokenizer",)
    schedulers = ("ddim", "euler", "dpm++2m")
    known: Mapping[str, str] = {
        "stable-diffusion-v1-5/stable-diffusion-v1-5": "sd15",
        "lllyasviel/control_v11p_sd15_canny": "controlnet-canny-sd15",
        "madebyollin/taesd": "taesd",
    }

    def owns(self, class_name: str) -> bool:
        """Pipelines of Stable Diffusion XL and 3 share the prefix only."""
        rest = class_name.removeprefix("StableDiffusion")
        return rest != class_name and not rest.startswith("XL") and not rest[:1].isdigit()

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

    def text_width(self, config: Config) -> int | None:
        """Width of the cross-attention."""
        return config.get("cross_attention_dim")

    def encode(self, pipe: Any, prompt: str, device: torch.device) -> TextStates:
        """The last hidden states."""
        from higfa_cli.models.text import TextStates

        states, _ = pipe.encode_prompt(prompt, device, 1, do_classifier_free_guidance=False)
        return TextStates(states[0])

    def blank_text(self, arch: Architecture, dtype: torch.dtype) -> TextStates:
        """[L, D]."""
        import torch

        from higfa_cli.models.text import TextStates

        tokens = arch.text_encoders[0].get("max_position_embeddings", 77)
        return TextStates(torch.zeros(tokens, arch.network["cross_attention_dim"], dtype=dtype))

    def added(self, text: TextStates, size: int) -> dict[str, Any]:
        """Further keyword arguments of UNet and ControlNet: none."""
        return {}

    def residuals(
        self,
        controlnet: Any,
        x: Tensor,
        timestep: float,
        text: TextStates,
        condition: Tensor,
        scale: float,
        size: int,
    ) -> list[list[Tensor]]:
        """Those of the way down, and the middle's one."""
        down, middle = controlnet(
            x,
            timestep,
            encoder_hidden_states=text.states,
            controlnet_cond=condition,
            conditioning_scale=scale,
            return_dict=False,
            **self.added(text, size),
        )
        return [list(down), [middle]]

    def denoise(
        self,
        network: Any,
        x: Tensor,
        timestep: float,
        text: TextStates,
        size: int,
        residuals: Sequence[Sequence[Tensor]] = (),
    ) -> Tensor:
        """One call of the UNet."""
        control: dict[str, Any] = {}
        if residuals:
            down, (middle,) = residuals
            control["down_block_additional_residuals"] = down
            control["mid_block_additional_residual"] = middle
        output: Tensor = network(
            x,
            timestep,
            encoder_hidden_states=text.states,
            return_dict=False,
            **self.added(text, size),
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
