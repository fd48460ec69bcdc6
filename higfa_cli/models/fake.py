"""Models without content: the real classes on fake tensors, which have shapes and no numbers."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from higfa_cli.method.guidance import Guidance
from higfa_cli.models.autoencoder import Autoencoder
from higfa_cli.models.backbones import build_network
from higfa_cli.models.classifier import Classifier, ClassifierSpec
from higfa_cli.models.diffusion import DiffusionModel, Prompts
from higfa_cli.models.families import FAMILIES
from higfa_cli.models.families.family import Architecture, Config
from higfa_cli.models.modules import autoencoder, denoising_pair
from higfa_cli.recipe.drawing import Memory, Model, Sampling
from higfa_cli.recipe.schema import Recipe

#: The prompts that a fake model knows.
PROMPT, NEGATIVE = "prompt", "negative"
_CPU = torch.device("cpu")
_CLASSES = 100


@dataclass(frozen=True)
class Setup:
    """What memory and arithmetic depend on, of a recipe."""

    model: Model
    size: int
    guidance: Guidance
    sampling: Sampling
    memory: Memory

    @classmethod
    def of(cls, recipe: Recipe) -> Setup:
        """The recipe's."""
        return cls(recipe.model, recipe.size, recipe.guidance, recipe.sampling, recipe.run.memory)


def fake_model(arch: Architecture, setup: Setup) -> DiffusionModel:
    """The model without content; call it under a FakeTensorMode (without, it is real and random).

    Its one prompt and negative prompt are encoded, to nothing.
    """
    family, dtype = FAMILIES[arch.family], getattr(torch, setup.model.dtype)
    with _default_dtype(dtype):
        network, controlnet = denoising_pair(arch)
    for module in (network, controlnet):
        module.eval().requires_grad_(False)
        if setup.memory.gradient_checkpointing:
            module.enable_gradient_checkpointing()
    own = gradient = _autoencoder(arch.vae, setup)
    if arch.gradient_vae is not None:
        gradient = _autoencoder(arch.gradient_vae, setup)
    text = family.blank_text(arch, dtype)
    return DiffusionModel(
        family=family,
        prompts=Prompts((), {PROMPT: text, NEGATIVE: text}),
        network=network,
        controlnet=controlnet,
        autoencoder=own,
        gradient_autoencoder=gradient,
        scheduler_config=arch.scheduler,
        sampling=setup.sampling,
        size=setup.size,
        device=_CPU,
    )


def _autoencoder(config: Config, setup: Setup) -> Autoencoder:
    # Another layout takes no other room, and fake parameters cannot be given one.
    memory = setup.memory.model_copy(update={"channels_last": False})
    return Autoencoder(autoencoder(config, setup.model.base), memory, setup.model.tiling)


def fake_guide(backbone: str, size: int) -> Classifier:
    """A guide without content for pictures of `size` pixels."""
    half = (0.5, 0.5, 0.5)
    classes = tuple(str(i) for i in range(_CLASSES))
    guide = Classifier(nn.Identity(), ClassifierSpec(backbone, classes, size, half, half))
    # Not by the constructor, which casts to float32: fake parameters cannot be cast.
    with unset_fake_temporarily():
        network = copy.deepcopy(_real_network(backbone, size))
    guide.network = _emptied(network)
    return guide


@cache
def _real_network(backbone: str, size: int) -> nn.Module:
    """Some constructors (timm's RegNet) look into tensors of theirs, so it is built for real."""
    return build_network(backbone, _CLASSES, size).requires_grad_(False).eval()


def _emptied(network: nn.Module) -> nn.Module:
    """The network with fake tensors in the place of its own; under a FakeTensorMode."""
    for module in network.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(torch.empty_like(value), requires_grad=False))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.empty_like(buffer))
    return network


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Build modules in `dtype`: fake parameters cannot be cast afterwards."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
