"""How large weight files are that are not here: parameters of the configurations, counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from higfa_cli.forecast.model_files import MissingFile
from higfa_cli.forecast.remembered import remembered
from higfa_cli.models.fake import autoencoder, denoising_pair, text_encoder
from higfa_cli.models.families import FAMILIES
from higfa_cli.models.families.family import Architecture
from higfa_cli.recipe.classifiers import Training

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
        return 4 * _of_backbone(about.backbone, about.image_size)
    # Of one shard nothing is known but that it is a part.
    if known is None or "-of-" in one.file:
        return None
    count = _of_part(key, one.file.rpartition("/")[0], known)
    return None if count is None else (2 if ".fp16." in one.file else 4) * count


def _of_backbone(name: str, size: int) -> int:
    def compute() -> dict[str, Any]:
        from higfa_cli.models.backbones import build_network

        return {"parameters": _count(build_network(name, _CLASSES, size))}

    return int(remembered("parameters", [name, size], compute)["parameters"])


def _of_part(key: str, folder: str, known: Architecture) -> int | None:
    def compute() -> dict[str, Any]:
        import torch

        with torch.device("meta"):
            module = _module(key, folder, known)
        return {"parameters": None if module is None else _count(module)}

    count = remembered("parameters", [key, folder, asdict(known)], compute)["parameters"]
    return None if count is None else int(count)


def _count(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _module(key: str, folder: str, known: Architecture) -> Any:
    """The part that a file belongs to, without content (None: no part)."""
    if key == "gradient_autoencoder" and known.gradient_vae is not None:
        return autoencoder(known.gradient_vae, key)
    if key == "controlnet":
        return denoising_pair(known)[1]
    if folder == FAMILIES[known.family].network:
        return denoising_pair(known)[0]
    if folder == "vae":
        return autoencoder(known.vae, key)
    return text_encoder(known, folder)
