"""Models without their weights: the real classes, from configurations alone.

Under a FakeTensorMode or on `meta` their tensors have shapes and no numbers; else random ones.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from higfa_cli.errors import UserError
from higfa_cli.models.autoencoder import Autoencoder
from higfa_cli.models.backbones import build_network
from higfa_cli.models.classifier import Classifier, ClassifierSpec
from higfa_cli.models.diffusion import DiffusionModel
from higfa_cli.models.families import FAMILIES
from higfa_cli.models.families.family import Architecture, Config, diffusers_class
from higfa_cli.recipe.classifiers import Training
from higfa_cli.recipe.schema import Recipe

#: The prompts that a fake model has encoded.
PROMPT, NEGATIVE = "prompt", "negative"
_AUTOENCODERS = ("AutoencoderKL", "AutoencoderTiny")
_CLASSES = 100


def denoising_pair(arch: Architecture) -> tuple[Any, Any]:
    """Denoising network and ControlNet."""
    family = FAMILIES[arch.family]
    network = diffusers_class(family.network_class).from_config(arch.network)
    controlnet = diffusers_class(family.controlnet_class).from_config(arch.controlnet)
    family.join(network, controlnet)
    return network, controlnet


def autoencoder(config: Config, name: str) -> Any:
    """diffusers' autoencoder; `name` is how messages call the model.

    Raises UserError for an autoencoder of another class.
    """
    cls = config.get("_class_name")
    if cls not in _AUTOENCODERS:
        raise UserError(
            f"the autoencoder of `{name}` is a `{cls}`, which is not supported; use a model with "
            f"an {' or '.join(_AUTOENCODERS)}"
        )
    return diffusers_class(str(cls)).from_config(config)


def text_encoder(arch: Architecture, folder: str) -> Any:
    """The text encoder in that folder of the model; None where it has none."""
    import transformers

    family = FAMILIES[arch.family]
    configs = dict(zip(family.text_encoders, arch.text_encoders, strict=False))
    if folder not in configs:
        return None
    encoder = getattr(transformers, family.text_encoders[folder])
    return encoder(encoder.config_class.from_dict(configs[folder]))


def fake_model(arch: Architecture, recipe: Recipe) -> DiffusionModel:
    """The recipe's model; PROMPT and NEGATIVE are encoded, to nothing."""
    family, dtype = FAMILIES[arch.family], getattr(torch, recipe.model.dtype)
    # Another layout takes no other room, and fake parameters cannot be given one.
    memory = recipe.run.memory.model_copy(update={"channels_last": False})
    with _default_dtype(dtype):
        network, controlnet = denoising_pair(arch)
    for module in (network, controlnet):
        module.eval().requires_grad_(False)
        if memory.gradient_checkpointing:
            module.enable_gradient_checkpointing()

    def wrapped(config: Config) -> Autoencoder:
        return Autoencoder(autoencoder(config, recipe.model.base), memory, recipe.model.tiling)

    vae, text = wrapped(arch.vae), family.blank_text(arch, dtype)
    return DiffusionModel(
        family=family,
        tokenizers=(),
        prompts={PROMPT: text, NEGATIVE: text},
        network=network,
        controlnet=controlnet,
        autoencoder=vae,
        gradient_autoencoder=vae if arch.gradient_vae is None else wrapped(arch.gradient_vae),
        scheduler_config=arch.scheduler,
        sampling=recipe.sampling,
        size=recipe.size,
        device=torch.device("cpu"),
    )


def fake_guide(training: Training) -> Classifier:
    """The recipe's guide. Raises UserError for one that timm cannot build."""
    name, size, half = training.backbone, training.image_size, (0.5, 0.5, 0.5)
    classes = tuple(str(i) for i in range(_CLASSES))
    guide = Classifier(nn.Identity(), ClassifierSpec(name, classes, size, half, half))
    # Not by the constructor, which casts to float32: fake parameters cannot be cast.
    with unset_fake_temporarily():
        network = copy.deepcopy(_real_network(name, size))
    for module in network.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(torch.empty_like(value), requires_grad=False))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.empty_like(buffer))
    guide.network = network
    return guide


@cache
def _real_network(backbone: str, size: int) -> nn.Module:
    """Some constructors (timm's RegNet) look into tensors of theirs, so it is built for real."""
    return build_network(backbone, _CLASSES, size).requires_grad_(False).eval()


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Build modules in `dtype`: fake parameters cannot be cast afterwards."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
