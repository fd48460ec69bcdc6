"""How large weight files are that are not here: parameters of the configurations, counted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from higfa_cli.forecast.model_files import MissingFile
from higfa_cli.forecast.remembered import remembered
from higfa_cli.models.families import FAMILIES
from higfa_cli.models.families.family import Architecture
from higfa_cli.models.modules import autoencoder, denoising_pair, text_encoder
from higfa_cli.recipe.schema import Recipe

# timm's checkpoints are trained on ImageNet.
_CLASSES = 1000


def missing_bytes(
    missing: Iterable[MissingFile], arch: Architecture | None, recipe: Recipe
) -> int | None:
    """Bytes of the weight files that must be downloaded; None where one cannot be known.

    Args:
        missing: of the recipe's models and classifiers; what is no weights weighs nothing.
        arch: what the diffusion model is made of, where its configurations are on this machine.
        recipe: names the classifiers' networks.
    """
    total = 0
    for lost in missing:
        if lost.file.endswith((".json", ".txt")):
            continue
        section, _, key = lost.key.partition(".")
        count: int | None
        if key == "backbone":
            training = recipe.guide if section == "guide" else recipe.downstream
            count = _of_backbone(training.backbone, training.image_size)
        else:
            part = lost.file.rpartition("/")[0] if key == "base" else key
            count = _of_parts(arch).get(part) if arch is not None else None
        # Of one shard nothing is known but that it is a part.
        if count is None or "-of-" in lost.file or not lost.is_command:
            return None
        total += (2 if ".fp16." in lost.file else 4) * count
    return total


def _of_backbone(name: str, size: int) -> int:
    def compute() -> int:
        from higfa_cli.models.backbones import build_network

        return _count(build_network(name, _CLASSES, size))

    return int(remembered("backbone-parameters", [name, size], compute))


def _of_parts(arch: Architecture) -> dict[str, int]:
    """Folder of the model, or key of section `model` -> parameters."""

    def compute() -> dict[str, int]:
        import torch

        family = FAMILIES[arch.family]
        with torch.device("meta"):
            network, controlnet = denoising_pair(arch)
            modules = {family.network: network, "controlnet": controlnet}
            modules["vae"] = autoencoder(arch.vae, "model.base")
            modules |= {name: text_encoder(arch, name) for name in family.text_encoders}
            if arch.gradient_vae is not None:
                key = "gradient_autoencoder"
                modules[key] = autoencoder(arch.gradient_vae, key)
        return {name: _count(module) for name, module in modules.items() if module is not None}

    counts: dict[str, int] = remembered("parameters", asdict(arch), compute)
    return counts


def _count(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
