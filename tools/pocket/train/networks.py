"""The pocket's networks: stock diffusers and transformers classes in small sizes."""

from __future__ import annotations

from dataclasses import dataclass

from diffusers import ControlNetModel, DDIMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tools.pocket.train.text import MAX_TOKENS


@dataclass(frozen=True)
class Sizes:
    """Sizes of the networks. `latent_side` is the picture's side divided by 8."""

    latent_side: int = 8
    latent_channels: int = 32
    unet_channels: tuple[int, int] = (96, 160)
    heads: int = 4
    norm_groups: int = 16
    text_width: int = 128
    text_layers: int = 2
    contour_channels: tuple[int, ...] = (16, 32, 64, 64)


def build_text_encoder(sizes: Sizes, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A small CLIP text encoder whose special ids are the tokenizer's."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=sizes.text_width,
            intermediate_size=4 * sizes.text_width,
            projection_dim=sizes.text_width,
            num_hidden_layers=sizes.text_layers,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def build_unet(sizes: Sizes) -> UNet2DConditionModel:
    """The denoiser of latents (n, latent_channels, side, side), cross-attention in all blocks."""
    return UNet2DConditionModel(
        sample_size=sizes.latent_side,
        in_channels=sizes.latent_channels,
        out_channels=sizes.latent_channels,
        block_out_channels=sizes.unet_channels,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        layers_per_block=1,
        cross_attention_dim=sizes.text_width,
        # diffusers reads this key as the number of heads
        attention_head_dim=sizes.heads,
        norm_num_groups=sizes.norm_groups,
    )


def build_controlnet(sizes: Sizes, unet: UNet2DConditionModel) -> ControlNetModel:
    """A ControlNet started from `unet`; contours (n, 3, 8 * side, 8 * side) in [0, 1]."""
    return ControlNetModel.from_unet(
        unet, conditioning_embedding_out_channels=sizes.contour_channels
    )


def build_scheduler() -> DDIMScheduler:
    """v-prediction on Stable Diffusion's scaled-linear schedule."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def parameter_count(module: nn.Module) -> int:
    """How many numbers `module` holds."""
    return sum(parameter.numel() for parameter in module.parameters())
