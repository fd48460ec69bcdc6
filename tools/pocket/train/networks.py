"""The pocket's networks: stock diffusers and transformers classes in small sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from diffusers import ControlNetModel, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tools.pocket.train.autoencoder import LATENT_CHANNELS
from tools.pocket.train.text import MAX_TOKENS

KNOWN_LEVELS, LEVELS = 1000, 1080
LAST_ALPHA = 0.01


@dataclass(frozen=True)
class Sizes:
    """Sizes of the networks. `latent_side` is the picture's side divided by 8."""

    latent_side: int = 8
    latent_channels: int = LATENT_CHANNELS
    unet_channels: tuple[int, int] = (96, 160)
    heads: int = 4
    norm_groups: int = 16
    text_width: int = 128
    text_layers: int = 2
    contour_channels: tuple[int, ...] = (16, 32, 64, 64)


def sizes_of(weights: Mapping[str, Tensor], base: Sizes | None = None) -> Sizes:
    """`base` (the defaults) with the channels that a denoiser's weights have."""
    first, middle = weights["unet.conv_in.weight"], weights["unet.mid_block.resnets.0.conv1.weight"]
    channels = (first.shape[0], middle.shape[0])
    return replace(base or Sizes(), latent_channels=first.shape[1], unet_channels=channels)


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


def trained_betas() -> list[float]:
    """Stable Diffusion's scaled-linear schedule, and 80 further levels down to an alpha of 0.01.

    Where it ends, at 0.068, a state still tells the mean colours of its picture. A network that has
    learnt to read them there takes pure noise for a picture without contrast (Lin et al. 2023,
    arXiv 2305.08891). Not down to 0, where guidance from the first step would divide by it.
    """
    betas = np.linspace(0.00085**0.5, 0.012**0.5, KNOWN_LEVELS) ** 2
    alpha = np.sqrt(np.cumprod(1 - betas))[-1]
    further = 1 - (LAST_ALPHA / alpha) ** (2 / (LEVELS - KNOWN_LEVELS))
    whole = np.concatenate([betas, np.full(LEVELS - KNOWN_LEVELS, further)])
    return [round(float(beta), 9) for beta in whole]


def build_scheduler() -> DDIMScheduler:
    """v-prediction on the schedule of `trained_betas`."""
    return DDIMScheduler(
        num_train_timesteps=LEVELS,
        trained_betas=trained_betas(),
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def parameter_count(module: nn.Module) -> int:
    """How many numbers `module` holds."""
    return sum(parameter.numel() for parameter in module.parameters())
