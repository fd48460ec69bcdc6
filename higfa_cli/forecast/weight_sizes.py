"""How large weight files are that are not here: parameters of the configurations, counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from higfa_cli.forecast.model_files import MissingFile
from higfa_cli.models.architecture import Architecture
from higfa_cli.models.backbones import build_network
from higfa_cli.recipe.schema import Training

# timm's checkpoints are trained on ImageNet.
_CLASSES = 1000


def missing_bytes(
    missing: Iterable[MissingFile], known: Architecture | None, training: Mapping[str, Training]
) -> int | None:
    """Bytes of the weight files that must be downloaded; None where one cannot be known.

    Args:
        missing: as `missing_files` and `missing_weights` say; what is no weights weighs nothing.
        known: configurations of the recipe's models, where they are on this machine.
        training: the recipe's sections by name ("guide"), for their networks.
    """
    total = 0
    for one in missing:
        if one.file.endswith((".json", ".txt")):
            continue
        size = _bytes(one, known, training) if one.is_command else None
        if size is None:
            return None
        total += size
    return total


def _bytes(
    one: MissingFile, known: Architecture | None, training: Mapping[str, Training]
) -> int | None:
    section, _, key = one.key.partition(".")
    if key == "backbone":
        about = training[section]
        return 4 * _count(build_network(about.backbone, _CLASSES, about.image_size))
    with torch.device("meta"):
        # Of one shard nothing is known but that it is a part.
        if known is None or "-of-" in one.file:
            return None
        module = _module(key, one.file.rpartition("/")[0], known)
    return None if module is None else (2 if ".fp16." in one.file else 4) * _count(module)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _module(key: str, folder: str, known: Architecture) -> nn.Module | None:
    """The part that a file belongs to, without content; call it under the device "meta"."""
    from diffusers import (
        AutoencoderKL,
        AutoencoderTiny,
        ControlNetModel,
        UNet2DConditionModel,
    )

    if key == "gradient_autoencoder":
        return AutoencoderTiny.from_config(known.gradient_vae)
    if key == "controlnet":
        return ControlNetModel.from_config(known.controlnet)
    if folder == "unet":
        return UNet2DConditionModel.from_config(known.unet)
    if folder == "vae":
        return AutoencoderKL.from_config(known.vae)
    encoders = dict(zip(("text_encoder", "text_encoder_2"), known.text_encoders, strict=False))
    return _encoder(encoders[folder]) if folder in encoders else None


def _encoder(config: dict[str, Any]) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    projects = "CLIPTextModelWithProjection" in (config.get("architectures") or ())
    return (CLIPTextModelWithProjection if projects else CLIPTextModel)(
        CLIPTextConfig.from_dict(config)
    )
