"""Traditional augmentation of a uint8 batch, with torchvision.transforms.v2."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import v2

from higfa_cli.recipe.classifiers import Training

Augment = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def make_augment(training: Training, classes: int) -> Augment:
    """A function (uint8 images [B,3,S,S], labels [B]) -> (uint8 images, label weights [B,K]).

    It draws from torch's global random state, as the transforms do: the trainer forks and seeds
    that state. The aspect changes by at most 5 %: a stretched aircraft is another variant.
    """
    crop = v2.RandomResizedCrop(
        training.image_size, scale=(0.7, 1.0), ratio=(0.95, 1.0 / 0.95), antialias=True
    )
    light = v2.Compose([v2.RandomHorizontalFlip(), crop])
    each = {
        "none": v2.Identity(),
        "light": light,
        "randaugment": v2.Compose([light, v2.RandAugment()]),
        "cutmix": light,
    }[training.augment]
    cutmix = v2.CutMix(num_classes=classes) if training.augment == "cutmix" else None

    def apply(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        # One draw per picture: on a whole batch these transforms draw once for all.
        images = torch.stack([each(image) for image in images])
        if cutmix is not None:
            mixed: tuple[Tensor, Tensor] = cutmix(images, labels)
            return mixed
        return images, functional.one_hot(labels, classes).to(torch.float32)

    return apply
