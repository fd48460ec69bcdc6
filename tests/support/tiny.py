"""Tiny models of every family, made of the real classes and saved as real folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    ControlNetModel,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from tests.support.tiny_sd3 import make_sd3

SIZE = 32
#: Every family with every prediction type that it is met with.
VARIANTS = (
    ("sd", "epsilon"),
    ("sd", "v_prediction"),
    ("sdxl", "epsilon"),
    ("sdxl", "v_prediction"),
    ("pocket-like", "epsilon"),
)
#: Those of flow matching.
FLOWS = (("sd3", "flow"), ("sd35", "flow"))
_BLOCKS: dict[str, Any] = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}
# Text states of both encoders side by side; six sizes and the pooled states of the second.
_XL_BLOCKS: dict[str, Any] = _BLOCKS | {
    "cross_attention_dim": 32,
    "attention_head_dim": (2, 4),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 16,
    "transformer_layers_per_block": (1, 1),
}


def make_tokenizer(folder: Path) -> CLIPTokenizer:
    """Byte-level vocabulary without merges, built here: no download."""
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77
    )


def make_tiny_autoencoder(folder: Path) -> Path:
    """Save an AutoencoderTiny for any of the models; returns its folder."""
    torch.manual_seed(1)
    make_tiny_vae().save_pretrained(folder / "tiny-vae")
    return folder / "tiny-vae"


def make_tiny_vae() -> AutoencoderTiny:
    """Two levels, four channels, as `make_vae`'s."""
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        latent_channels=4,
    )


def make_vae() -> AutoencoderKL:
    """Two levels, so that 32 px are 16 x 16 latents of four channels."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(8, 16),
        norm_num_groups=4,
        latent_channels=4,
        sample_size=SIZE,
    )


def make_model(
    folder: Path, prediction_type: str = "epsilon", family: str = "sd", zeros: bool = True
) -> tuple[Path, Path]:
    """Save a tiny model; returns its folder and the ControlNet's.

    `family`: `sd`, `sdxl`, `pocket-like` (Stable Diffusion with an AutoencoderTiny), or `sd3` and
    `sd35` (see `tiny_sd3`). `zeros`: SDXL's `force_zeros_for_empty_prompt`.
    """
    torch.manual_seed(0)
    tokenizer = make_tokenizer(folder / "vocabulary")
    if (family, "flow") in FLOWS:
        return make_sd3(folder, tokenizer, _text_config(tokenizer), family)
    blocks = _XL_BLOCKS if family == "sdxl" else _BLOCKS
    parts: dict[str, Any] = {
        "vae": make_tiny_vae() if family == "pocket-like" else make_vae(),
        "text_encoder": CLIPTextModel(_text_config(tokenizer)),
        "tokenizer": tokenizer,
        "unet": UNet2DConditionModel(
            sample_size=SIZE // 2, up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), **blocks
        ),
        "scheduler": _scheduler(prediction_type),
    }
    controlnet = ControlNetModel(conditioning_embedding_out_channels=(8, 16), **blocks)
    # Zero at construction, so that the contour would have no effect.
    opened = (controlnet.controlnet_down_blocks, controlnet.controlnet_cond_embedding.conv_out)
    for parameter in (p for module in opened for p in module.parameters()):
        torch.nn.init.normal_(parameter, std=0.2)
    if family == "sdxl":
        second = CLIPTextModelWithProjection(_text_config(tokenizer))
        pipe: Any = StableDiffusionXLPipeline(
            **parts,
            text_encoder_2=second,
            tokenizer_2=tokenizer,
            force_zeros_for_empty_prompt=zeros,
            add_watermarker=False,
        )
    else:
        pipe = StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    pipe.save_pretrained(folder / "sd")
    controlnet.save_pretrained(folder / "controlnet")
    return folder / "sd", folder / "controlnet"


def solver_of(model: Path) -> str:
    """The name of a solver that can draw from a model."""
    index = (model / "model_index.json").read_text(encoding="utf-8")
    return "flow-euler" if "StableDiffusion3" in index else "ddim"


def _text_config(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _scheduler(prediction_type: str) -> DDIMScheduler:
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
