"""How a second source of pictures enters the batches of a training set."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from higfa_cli.training.pictures import Pictures


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
