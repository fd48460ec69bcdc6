"""A tiny Stable Diffusion 3 of the real classes, as its first release and as 3.5 is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3ControlNetModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

# The width of T5's states; both CLIPs' 16 side by side are filled up to it.
_WIDTH = 40
_BLOCKS: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 4,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "caption_projection_dim": 16,
    "pooled_projection_dim": 32,
    "out_channels": 4,
    "pos_embed_max_size": 16,
}
#: Family -> what its network and its ControlNet have of their own.
_OWN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sd3": ({}, {"joint_attention_dim": _WIDTH}),
    # Positions are the network's, no text is read, pooled texts and the shift are.
    "sd35": (
        {"qk_norm": "rms_norm", "dual_attention_layers": (0,)},
        {
            "joint_attention_dim": None,
            "use_pos_embed": False,
            "pos_embed_type": None,
            "force_zeros_for_pooled_projection": False,
        },
    ),
}


def make_sd3(
    folder: Path, tokenizer: CLIPTokenizer, text: CLIPTextConfig, family: str
) -> tuple[Path, Path]:
    """Save a tiny `sd3` (with T5) or `sd35` (without); returns its folder and the ControlNet's."""
    own, controls = _OWN[family]
    t5 = _t5() if family == "sd3" else (None, None)
    pipe: Any = StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            **_BLOCKS, num_layers=3, joint_attention_dim=_WIDTH, **own
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(),
        text_encoder=CLIPTextModelWithProjection(text),
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(text),
        tokenizer_2=tokenizer,
        text_encoder_3=t5[0],
        tokenizer_3=t5[1],
    )
    controlnet: Any = SD3ControlNetModel(**_BLOCKS, num_layers=2, **controls)
    # Zero at construction, so that the contour would have no effect.
    opened = (controlnet.controlnet_blocks, controlnet.pos_embed_input)
    for parameter in (p for module in opened for p in module.parameters()):
        torch.nn.init.normal_(parameter, std=0.2)
    pipe.save_pretrained(folder / "sd")
    controlnet.save_pretrained(folder / "controlnet")
    return folder / "sd", folder / "controlnet"


def _vae() -> Any:
    vae: Any = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(8, 16),
        norm_num_groups=4,
        latent_channels=4,
        sample_size=32,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    # As in trained autoencoders the posterior is narrow: the stock pipeline draws from it.
    with torch.no_grad():
        vae.encoder.conv_out.weight[4:] = 0
        vae.encoder.conv_out.bias[4:] = -20
    return vae


def _t5() -> tuple[Any, Any]:
    letters = "abcdefghijklmnopqrstuvwxyz,."
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", *letters]
    tokenizer = T5Tokenizer(vocab=[(piece, -1.0) for piece in pieces], extra_ids=0)
    config = T5Config(
        vocab_size=len(pieces), d_model=_WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    return T5EncoderModel(config), tokenizer
