"""Stable Diffusion 3: flow matching by a transformer; two CLIP encoders, and T5 or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from higfa_cli.models.families.family import Architecture, Family, Inputs
from higfa_cli.models.text import TextStates

if TYPE_CHECKING:
    import torch
    from torch import Tensor


# What T5 reads, or zeros in its place: the stock pipeline's own default.
_T5_TOKENS = 256


class StableDiffusion3(Family):
    """See `Family`; the model is that of Esser et al. 2024."""

    name, title, prefix = "sd3", "Stable Diffusion 3", "StableDiffusion3"
    pipeline = "StableDiffusion3ControlNetPipeline"
    network, network_class = "transformer", "SD3Transformer2DModel"
    controlnet_class = "SD3ControlNetModel"
    text_encoders: Mapping[str, str] = {
        "text_encoder": "CLIPTextModelWithProjection",
        "text_encoder_2": "CLIPTextModelWithProjection",
        "text_encoder_3": "T5EncoderModel",
    }
    tokenizers = ("tokenizer", "tokenizer_2")
    text_width = "joint_attention_dim"
    schedulers = ("flow-euler",)
    tensors = "joint_blocks"

    def pipeline_options(self, index: Mapping[str, Any]) -> dict[str, Any]:
        """An absent T5 must be named as such."""
        absent = set(self.text_encoders) - set(self.encoders(index))
        tokenizers = {name.replace("text_encoder", "tokenizer") for name in absent}
        return dict.fromkeys(("feature_extractor", "image_encoder", *absent, *tokenizers))

    def vocabulary(self, tokenizer: str) -> tuple[str, ...]:
        """T5's is sentencepiece's."""
        return ("spiece.model",) if tokenizer == "tokenizer_3" else super().vocabulary(tokenizer)

    def size_multiple(self, arch: Architecture) -> int:
        """The transformer reads patches of latents."""
        return arch.vae_factor * int(arch.network["patch_size"])

    def largest_size(self, arch: Architecture) -> int | None:
        """Its table of positions has so many patches along a side."""
        return self.size_multiple(arch) * int(arch.network["pos_embed_max_size"])

    def prediction_type(self, scheduler: Mapping[str, Any]) -> str:
        """The velocity."""
        return "flow"

    def encode(self, pipe: Any, prompt: str, device: torch.device) -> TextStates:
        """Both CLIPs side by side, then T5; the pooled ones of both CLIPs."""
        states, _, pooled, _ = pipe.encode_prompt(
            prompt,
            None,
            None,
            device=device,
            do_classifier_free_guidance=False,
            max_sequence_length=_T5_TOKENS,
        )
        return TextStates(states[0], pooled[0])

    def blank_text(self, arch: Architecture, dtype: torch.dtype) -> TextStates:
        """[L, D] and [P]."""
        import torch

        tokens = arch.text_encoders[0].get("max_position_embeddings", 77) + _T5_TOKENS
        width, pooled = arch.network["joint_attention_dim"], arch.network["pooled_projection_dim"]
        return TextStates(torch.zeros(tokens, width, dtype=dtype), torch.zeros(pooled, dtype=dtype))

    def join(self, network: Any, controlnet: Any) -> None:
        """The positions, where the ControlNet has none of its own."""
        if controlnet.pos_embed is None:
            controlnet.pos_embed = controlnet._get_pos_embed_from_transformer(network)

    def condition(self, contours: Tensor, controlnet: Any, model: Any) -> Tensor:
        """Latents of the contours; the stock pipeline draws from the posterior, this is its mode.

        ControlNets that take no pooled text were trained on latents without the shift.
        """
        pooled = not controlnet.config.force_zeros_for_pooled_projection
        latents: Tensor = model.encode(2 * contours - 1, shifted=pooled)
        return latents

    def residuals(
        self, controlnet: Any, inputs: Inputs, condition: Tensor, scale: float
    ) -> list[list[Tensor]]:
        """One per block of the ControlNet, [B, tokens, D]."""
        config, text = controlnet.config, inputs.text
        assert text.pooled is not None
        blank = config.force_zeros_for_pooled_projection
        blocks = controlnet(
            inputs.x,
            timestep=_timesteps(inputs),
            encoder_hidden_states=None if config.joint_attention_dim is None else text.states,
            pooled_projections=text.pooled.new_zeros(text.pooled.shape) if blank else text.pooled,
            controlnet_cond=condition,
            conditioning_scale=scale,
            return_dict=False,
        )[0]
        return [list(blocks)]

    def denoise(
        self, network: Any, inputs: Inputs, residuals: Sequence[Sequence[Tensor]] = ()
    ) -> Tensor:
        """One call of the transformer."""
        output: Tensor = network(
            inputs.x,
            timestep=_timesteps(inputs),
            encoder_hidden_states=inputs.text.states,
            pooled_projections=inputs.text.pooled,
            block_controlnet_hidden_states=residuals[0] if residuals else None,
            return_dict=False,
        )[0]
        return output

    def stock_call(self, text: TextStates, negative: TextStates, contour: Tensor) -> dict[str, Any]:
        """The pipeline takes contours in [-1, 1]."""
        return {
            "prompt_embeds": text.states,
            "negative_prompt_embeds": negative.states,
            "pooled_prompt_embeds": text.pooled,
            "negative_pooled_prompt_embeds": negative.pooled,
            "control_image": (2 * contour - 1).to(text.states.dtype),
        }


def _timesteps(inputs: Inputs) -> Tensor:
    """One per latent, in single precision whatever the latents are in."""
    import torch

    x = inputs.x
    return torch.full((len(x),), inputs.timestep, dtype=torch.float32, device=x.device)
