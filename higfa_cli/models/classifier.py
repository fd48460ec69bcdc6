"""The classifier and its file: pictures in the decoder's range -> calibrated logits.

One class for both uses: as the guide, whose gradient reaches the picture, and downstream.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from higfa_cli import __version__
from higfa_cli.artifacts.atomic import write_bytes
from higfa_cli.errors import UserError
from higfa_cli.models.backbones import (
    METADATA_KEY,
    Mean,
    Positive,
    Std,
    build_network,
    check_name,
    first_fault,
    load_strictly,
    read_weights,
)
from higfa_cli.recipe.section import Side

_BATCH = 128


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError("two classes have one name")
    return names


Name = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True)
class ClassifierSpec:
    """What a checkpoint says about itself; `temperature` divides the network's logits.

    `crop_bottom`: rows that are cut off every photo before anything else, as in training.
    `boxes`: photos were cut to the box of their subject.
    Raises pydantic's ValidationError for values that no classifier can have.
    """

    backbone: str
    classes: Annotated[tuple[Name, ...], Field(min_length=1), AfterValidator(_distinct)]
    image_size: Side
    mean: Mean
    std: Std
    temperature: Positive = 1.0
    crop_bottom: Annotated[int, Field(ge=0)] = 0
    boxes: bool = False


def resize(images: Tensor, size: int) -> Tensor:
    """Square pictures [B, C, H, H] -> [B, C, size, size]: antialiased, bilinear, differentiable.

    Pictures that have the size already are returned as they are. Raises ValueError for pictures
    that are not square: resizing them would change the aspect, and with it perhaps the class.
    """
    height, width = images.shape[-2:]
    if height != width:
        raise ValueError(f"the classifier reads square pictures, not {width} x {height}")
    if height == size:
        return images
    return functional.interpolate(
        images, (size, size), mode="bilinear", align_corners=False, antialias=True
    )


def network_input(images: Tensor, image_size: int, mean: Mean, std: Std) -> Tensor:
    """Pictures [B, 3, H, H] in [-1, 1] -> the network's normalised input [B, 3, S, S]."""
    images = resize(images, image_size)
    shift = images.new_tensor(mean).view(1, 3, 1, 1)
    spread = images.new_tensor(std).view(1, 3, 1, 1)
    return ((images + 1.0) / 2.0 - shift) / spread


def from_bytes(images: Tensor) -> Tensor:
    """uint8 pictures 0..255 -> float32 in [-1, 1]."""
    return images.to(torch.float32) / 127.5 - 1.0


def to_bytes(images: Tensor) -> Tensor:
    """Pictures in [-1, 1] (clamped) -> uint8 0..255, rounded."""
    return ((images.clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)


class Classifier(nn.Module):
    """A frozen classifier in float32 and evaluation mode; gradients flow to its input only."""

    def __init__(self, network: nn.Module, spec: ClassifierSpec) -> None:
        super().__init__()
        self.network = network.to(torch.float32).requires_grad_(False)
        self.spec = spec
        self.eval()

    def train(self, mode: bool = True) -> Classifier:
        """Stay in evaluation mode: batch statistics would tie one picture to its neighbours."""
        return super().train(False)

    def logits(self, images: Tensor) -> Tensor:
        """Pictures [B, 3, H, H] in [-1, 1] -> logits / temperature [B, K], in float32."""
        spec = self.spec
        ready = network_input(images.to(torch.float32), spec.image_size, spec.mean, spec.std)
        return self.network(ready) / spec.temperature

    @torch.no_grad()
    def probabilities(self, pictures: Tensor) -> Tensor:
        """uint8 pictures [N, 3, H, H] -> class probabilities [N, K], float32 on the CPU."""
        device = next(self.network.parameters()).device
        parts = [
            self.logits(from_bytes(part.to(device))).softmax(1).cpu()
            for part in pictures.split(_BATCH)
        ]
        return torch.cat(parts)

    def forward(self, images: Tensor) -> Tensor:
        """Tempered logits [B, K] of images in about [-1, 1]: `logits`, for torch's own tools."""
        return self.logits(images)


def save_classifier(
    path: Path, network: nn.Module, spec: ClassifierSpec, extra: Mapping[str, str] | None = None
) -> None:
    """Write a checkpoint: safetensors, and JSON metadata from which it can be rebuilt.

    Equal weights, spec and extra give equal bytes.
    """
    metadata = {"format": 1, "version": __version__, **asdict(spec), "extra": dict(extra or {})}
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()
    }
    text = json.dumps(metadata, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_bytes(path, save(tensors, metadata={METADATA_KEY: text}))


def load_classifier(path: Path, device: torch.device | str = "cpu") -> Classifier:
    """Read a checkpoint of `finetune-guide` or `train-downstream`.

    Raises UserError: absent or broken file, pickle, or a file without higfa's metadata.
    """
    tensors, metadata = read_weights(path, "classifier")
    try:
        spec = TypeAdapter(ClassifierSpec).validate_python(metadata)
    except ValidationError as error:
        raise UserError(
            f"classifier {path} has no sound higfa metadata ({first_fault(error)}); use a "
            "checkpoint of `higfa finetune-guide` or `higfa train-downstream`"
        ) from None
    check_name(spec.backbone)
    with torch.random.fork_rng():
        network = build_network(spec.backbone, len(spec.classes), spec.image_size)
    load_strictly(network, tensors, path)
    return Classifier(network, spec).to(device)


def check_classes(guide: Classifier, classes: Sequence[str]) -> None:
    """Raise UserError unless the guide's classes are `classes`, in that order."""
    have, want = guide.spec.classes, tuple(classes)
    if have == want:
        return
    missing = [name for name in want if name not in have]
    extra = [name for name in have if name not in want]
    differences = [
        f"{word} {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
        for word, names in (("it does not know", missing), ("the data lack its", extra))
        if names
    ]
    raise UserError(
        f"the guide's {len(have)} classes are not the data's {len(want)}: "
        f"{'; '.join(differences) or 'their order differs'}; run `higfa finetune-guide` on these "
        "data"
    )
