"""A tiny Stable Diffusion with ControlNet, made of the real classes and saved as real folders."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

SIZE = 32
_BLOCKS = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
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


def make_model(folder: Path, prediction_type: str = "epsilon") -> tuple[Path, Path]:
    """Save a tiny model; returns its folder and the ControlNet's."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer(folder / "vocabulary")
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=SIZE // 2,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **_BLOCKS,
    )
    controlnet = ControlNetModel(conditioning_embedding_out_channels=(8, 16), **_BLOCKS)
    # Zero at construction, so that the contour would have no effect.
    opened = (controlnet.controlnet_down_blocks, controlnet.controlnet_cond_embedding.conv_out)
    for parameter in (p for module in opened for p in module.parameters()):
        torch.nn.init.normal_(parameter, std=0.2)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(8, 16),
        norm_num_groups=4,
        latent_channels=4,
        sample_size=SIZE,
    )
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder / "sd")
    controlnet.save_pretrained(folder / "controlnet")
    return folder / "sd", folder / "controlnet"
