"""Pictures in memory: what the trainer learns from and what it is judged on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from higfa_cli.data.images import fit_square
from higfa_cli.errors import UserError

# Pictures are held whole in memory, once; streaming from disk would be a second data path.
MEMORY_CAP_BYTES = 4_000_000_000


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

    Their aspect is kept. Sets of more than about 4 GB of pixels are refused: they are not
    streamed from disk.
    Raises UserError for a set over that cap, and what reading `photos` raises.
    """
    check_memory(len(labels), size)
    images = np.empty((len(labels), 3, size, size), dtype=np.uint8)
    for row, photo in zip(range(len(labels)), photos, strict=True):
        images[row] = fit_square(photo, size).transpose(2, 0, 1)
    return Pictures(torch.from_numpy(images), torch.tensor(list(labels), dtype=torch.int64))


def check_memory(count: int, size: int) -> None:
    """Raise UserError where `count` pictures of side `size` would take more than the cap."""
    needed = count * 3 * size * size
    if needed > MEMORY_CAP_BYTES:
        raise UserError(
            f"{count} pictures at {size} px need {needed / 1e9:.1f} GB of memory, over the limit "
            f"of {MEMORY_CAP_BYTES / 1e9:.0f} GB; lower image_size, or data.shots"
        )
