"""Modules of a model by their classes' names, and without their weights."""

from __future__ import annotations

from typing import Any

from higfa_cli.errors import UserError
from higfa_cli.models.families import FAMILIES
from higfa_cli.models.families.family import Architecture, Config

_AUTOENCODERS = ("AutoencoderKL", "AutoencoderTiny")


def diffusers_class(name: str) -> Any:
    """A class of diffusers that a family names: never a name out of a model's folder."""
    import diffusers

    return getattr(diffusers, name)


def denoising_pair(arch: Architecture) -> tuple[Any, Any]:
    """Denoising network and ControlNet with random weights; none under FakeTensorMode or meta."""
    family = FAMILIES[arch.family]
    network = diffusers_class(family.network_class).from_config(arch.network)
    controlnet = diffusers_class(family.controlnet_class).from_config(arch.controlnet)
    family.join(network, controlnet)
    return network, controlnet


def autoencoder(config: Config, name: str) -> Any:
    """As `denoising_pair`; `name` is how messages call the model.

    Raises UserError for an autoencoder of another class.
    """
    found = config.get("_class_name")
    if found not in _AUTOENCODERS:
        raise UserError(
            f"the autoencoder of `{name}` is a `{found}`, which is not supported; use a model with "
            f"an {' or '.join(_AUTOENCODERS)}"
        )
    return diffusers_class(str(found)).from_config(config)


def text_encoder(arch: Architecture, folder: str) -> Any:
    """As `denoising_pair`: the text encoder in that folder of the model; None where it has none."""
    import transformers

    family = FAMILIES[arch.family]
    configs = dict(zip(family.text_encoders, arch.text_encoders, strict=False))
    if folder not in configs:
        return None
    encoder = getattr(transformers, family.text_encoders[folder])
    return encoder(encoder.config_class.from_dict(configs[folder]))
