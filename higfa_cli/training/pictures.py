"""Pictures in memory: how they are loaded, parted, mixed into batches and augmented."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import v2

from higfa_cli.artifacts.seeds import seed_for
from higfa_cli.data.images import fit_square
from higfa_cli.recipe.classifiers import Training
from higfa_cli.training.room import check_memory

Augment = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Pictures:
    """`images`: uint8 [N, 3, S, S]; `labels`: int64 [N]."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise ValueError("images must be uint8 [N, 3, S, S]")
        if self.labels.shape != self.images.shape[:1]:
            raise ValueError("one label per image")

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Tensor) -> Pictures:
        """The pictures at `indices` [M] (int64)."""
        return Pictures(self.images[indices], self.labels[indices])


def join(parts: Sequence[Pictures]) -> Pictures:
    """One set after the other; all of one size."""
    return Pictures(
        torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts])
    )


def load_pictures(photos: Iterable[np.ndarray], labels: Sequence[int], size: int) -> Pictures:
    """Photos (HxWx3 uint8, one per label, taken one by one), fitted into size x size.

    Their aspect is kept. Raises UserError for more pixels than fit in memory, and what reading
    `photos` raises.
    """
    check_memory(len(labels), size)
    images = np.empty((len(labels), 3, size, size), dtype=np.uint8)
    for row, photo in zip(range(len(labels)), photos, strict=True):
        images[row] = fit_square(photo, size).transpose(2, 0, 1)
    return Pictures(torch.from_numpy(images), torch.tensor(list(labels), dtype=torch.int64))


def stratified_folds(
    keys: Sequence[str], labels: Sequence[int], folds: int, seed: int
) -> list[int]:
    """The fold (0 .. folds-1) of every sample: each class is spread as evenly as it can be.

    A sample's rank in its class is a hash of seed, class and key: listing order does not count.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for row, label in enumerate(labels):
        members[label].append(row)
    assigned = [0] * len(keys)
    for label, rows in members.items():
        rows.sort(key=lambda row: seed_for(seed, "folds", label, keys[row]))
        # Each class begins at another fold, or every class's odd one would fall into the first.
        for rank, row in enumerate(rows):
            assigned[row] = (rank + label) % folds
    return assigned


@dataclass(frozen=True)
class TrainSet:
    """Real pictures, and optionally a second source that takes the place of some of them.

    A real picture is only ever replaced by one of its own class, drawn uniformly; a class
    without a picture in `second` keeps its real ones. So the class balance and the number of
    steps are the same with and without the second source.

    `rule`: "each" replaces every real picture independently with `probability` (the replacement
    rule of Diff-Mix and SaSPA); "share" replaces exactly round(probability * B) per batch.
    """

    real: Pictures
    second: Pictures | None = None
    probability: float = 0.0
    rule: Literal["each", "share"] = "each"

    def __len__(self) -> int:
        return len(self.real)

    def batch(self, indices: Tensor, generator: torch.Generator) -> tuple[Pictures, Tensor]:
        """The pictures for the real `indices` [B], and a mask [B] of those that were replaced."""
        chosen = self.real.select(indices)
        if self.second is None or self.probability == 0.0:
            return chosen, torch.zeros(len(indices), dtype=torch.bool)
        order, starts, counts = self._by_class
        mask = self._drawn(len(indices), generator) & (counts[chosen.labels] > 0)
        # One draw per position whatever the mask, so that one class's stock moves no other draw.
        ranks = torch.rand(len(indices), generator=generator, dtype=torch.float64)
        replaced = chosen.labels[mask]
        rows = order[starts[replaced] + (ranks[mask] * counts[replaced]).long()]
        images = chosen.images.clone()
        images[mask] = self.second.images[rows]
        return Pictures(images, chosen.labels), mask

    def _drawn(self, count: int, generator: torch.Generator) -> Tensor:
        if self.rule == "each":
            draws = torch.rand(count, generator=generator, dtype=torch.float64)
            return draws < self.probability
        mask = torch.zeros(count, dtype=torch.bool)
        mask[torch.randperm(count, generator=generator)[: round(self.probability * count)]] = True
        return mask

    @cached_property
    def _by_class(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of `second` sorted by class, and each class's first position and count there."""
        assert self.second is not None
        labels = self.second.labels
        classes = int(torch.cat([labels, self.real.labels]).max()) + 1
        counts = torch.bincount(labels, minlength=classes)
        starts = counts.cumsum(0) - counts
        return labels.argsort(stable=True), starts, counts


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
