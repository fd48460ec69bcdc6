"""Things that people name in the place of a model's folder, made of tiny files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def weights(path: Path, *names: str) -> Path:
    """A safetensors file with a number under each name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: np.zeros(1, np.float32) for name in names or ("x",)}, path)
    return path


def config(path: Path, **content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path.parent


def _part(folder: Path, part: str) -> Path:
    config(folder / part / "config.json", _class_name="UNet2DConditionModel")
    weights(folder / part / "diffusion_pytorch_model.safetensors")
    return folder


def _empty(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


#: name -> (makes it in a folder and returns what a recipe would name, what must be said).
OF_BASE: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "single file": (
        lambda f: weights(f / "dreamy.safetensors", "model.diffusion_model.x"),
        (
            "a single-file checkpoint",
            "`StableDiffusionPipeline.from_single_file(",
            "set model.base",
        ),
    ),
    "XL single file": (
        lambda f: weights(f / "xl.safetensors", "conditioner.embedders.1.model.x"),
        ("`StableDiffusionXLPipeline.from_single_file(",),
    ),
    "SD3 single file": (
        lambda f: weights(f / "a.safetensors", "model.diffusion_model.joint_blocks.0.x"),
        ("`StableDiffusion3Pipeline.from_single_file(",),
    ),
    "ckpt": (lambda f: _empty(f / "v1.ckpt"), ("a single-file checkpoint", "from_single_file(")),
    "file in a folder": (
        lambda f: weights(f / "A" / "floral.safetensors", "model.x").parent,
        ("a single-file checkpoint", "floral.safetensors"),
    ),
    "LoRA": (
        lambda f: weights(f / "lora" / "pytorch_lora_weights.safetensors").parent,
        ("a LoRA adapter", "load_lora_weights(", "fuse_lora()"),
    ),
    "LoRA by its tensors": (
        lambda f: weights(f / "style.safetensors", "lora_unet_down_blocks_0.lora_down.weight"),
        ("a LoRA adapter",),
    ),
    "adapter of peft": (
        lambda f: config(f / "p" / "adapter_config.json", peft_type="LORA"),
        ("a LoRA adapter",),
    ),
    "embedding": (
        lambda f: weights(f / "e" / "learned_embeds.safetensors", "<wren>").parent,
        ("an embedding", "load_textual_inversion("),
    ),
    "embedding's file": (
        lambda f: weights(f / "wren.safetensors", "emb_params"),
        ("an embedding",),
    ),
    "checkpoint": (
        lambda f: _part(f / "checkpoint-500", "unet"),
        ("a training's checkpoint, its unet alone", "unet=UNet2DConditionModel.from_pretrained("),
    ),
    "SD3 checkpoint": (
        lambda f: _part(f / "checkpoint-9", "transformer"),
        ("its transformer alone", "transformer=SD3Transformer2DModel.from_pretrained("),
    ),
    "output folder": (
        lambda f: _part(f / "out" / "checkpoint-500", "unet").parent,
        ("a training that has not ended (checkpoint-500)",),
    ),
    "accelerate's state": (
        lambda f: (_empty(f / "s" / "optimizer.bin"), weights(f / "s" / "m.safetensors"))[0].parent,
        ("the state of a training",),
    ),
    "one part": (
        lambda f: _part(f, "unet") / "unet",
        ("one part of a model (`UNet2DConditionModel`)", "model_index.json"),
    ),
    "a ControlNet": (
        lambda f: config(f / "c" / "config.json", _class_name="ControlNetModel"),
        ("a `ControlNetModel`", "name it in model.controlnet"),
    ),
    "hub cache": (
        lambda f: (
            config(f / "models--a--b" / "snapshots" / "0a1" / "model_index.json").parent.parent
        ),
        ("the folder above", "snapshots/0a1"),
    ),
    "folder above": (
        lambda f: config(f / "models" / "sd" / "model_index.json").parent,
        ("the folder above", "models/sd"),
    ),
    "the index itself": (
        lambda f: config(f / "sd" / "model_index.json") / "model_index.json",
        ("a file of the folder that is wanted", "/sd"),
    ),
    "ONNX": (lambda f: _empty(f / "o" / "model.onnx").parent, ("made for another runtime",)),
    "refiner": (
        lambda f: config(
            f / "r" / "model_index.json",
            _class_name="StableDiffusionXLImg2ImgPipeline",
            text_encoder=[None, None],
        ),
        ("a refiner", "name the base model"),
    ),
    "fp16 alone": (
        lambda f: (
            config(f / "h" / "model_index.json", _class_name="StableDiffusionPipeline"),
            weights(f / "h" / "unet" / "diffusion_pytorch_model.fp16.safetensors"),
        )[0],
        ("here as fp16 files alone", "set model.variant: fp16"),
    ),
    "fp16 shards alone": (
        lambda f: (
            config(f / "h" / "model_index.json", _class_name="StableDiffusionPipeline"),
            weights(f / "h" / "unet" / "diffusion_pytorch_model.fp16-00001-of-00002.safetensors"),
        )[0],
        ("set model.variant: fp16",),
    ),
}
OF_CONTROLNET: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "single file": (
        lambda f: weights(f / "canny.safetensors", "control_model.x"),
        ("`ControlNetModel.from_single_file(", "set model.controlnet"),
    ),
    "a whole model": (
        lambda f: config(f / "sd" / "model_index.json"),
        ("a whole model", "name it in model.base"),
    ),
    "a training's checkpoint": (
        lambda f: (
            config(
                f / "checkpoint-1" / "controlnet" / "config.json", _class_name="ControlNetModel"
            ).parent
        ),
        ("set model.controlnet to", "checkpoint-1/controlnet"),
    ),
    "fp16 alone": (
        lambda f: (
            config(f / "c" / "config.json", _class_name="ControlNetModel"),
            weights(f / "c" / "diffusion_pytorch_model.fp16.safetensors"),
        )[0],
        ("set model.variant: fp16",),
    ),
}
