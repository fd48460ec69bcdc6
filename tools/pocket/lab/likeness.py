"""How much pictures look like photos: band powers, KID, and a network that tells them apart.

Pictures are uint8 [N, 3, S, S]. Everything is compared through the same file format: 64-px JPEG as
the pocket's photos are shipped, because a JPEG's own blur and noise would tell them apart.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchmetrics.image.kid import poly_mmd

from tools.pocket.train.webdata import shrink

SIDE = 64
QUALITY = 92
# Cycles per frame. The last band is the upper half of what 64 pixels can hold.
BANDS = ((4, 8), (8, 16), (16, 32))
SUBSETS, SUBSET = 50, 100
GREY = (0.299, 0.587, 0.114)


def as_shipped(pictures: Tensor) -> Tensor:
    """Shrunk to 64 px (Lanczos) and through the JPEG of export_dataset.py, [N, 3, 64, 64]."""
    found = []
    for picture in pictures.permute(0, 2, 3, 1).numpy():
        buffer = io.BytesIO()
        small = Image.fromarray(shrink(picture, SIDE))
        small.save(buffer, "JPEG", quality=QUALITY, subsampling=0, optimize=True)
        with Image.open(io.BytesIO(buffer.getvalue())) as again:
            found.append(np.asarray(again.convert("RGB")))
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).contiguous()


def band_powers(pictures: Tensor) -> Tensor:
    """Mean power of the pictures in each of `BANDS`, [3]: grey, mean taken off, Hann window."""
    grey = torch.einsum("nchw,c->nhw", pictures.double() / 255, torch.tensor(GREY).double())
    grey = grey - grey.mean(dim=(1, 2), keepdim=True)
    side = grey.shape[-1]
    window = torch.hann_window(side, periodic=False, dtype=torch.float64)
    power = torch.fft.fft2(grey * window[:, None] * window).abs().square()
    cycles = torch.fft.fftfreq(side, dtype=torch.float64) * side
    radius = torch.hypot(cycles[:, None], cycles[None])
    rings = [power[:, (radius >= low) & (radius < high)].sum(dim=1).mean() for low, high in BANDS]
    return torch.stack(rings)


def kid(first: Tensor, second: Tensor, seed: int = 0) -> tuple[float, float]:
    """Mean and standard deviation over subsets of the unbiased squared MMD (Binkowski et al. 2018,
    arXiv 1801.01401) with the kernel (cos + 1)^3 of unit features [N, D], [M, D].

    Raises ValueError when a set is smaller than a subset.
    """
    if min(len(first), len(second)) < SUBSET:
        raise ValueError(f"{len(first)} and {len(second)} pictures: at least {SUBSET} are needed")
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(SUBSETS):
        one, other = (
            features[torch.randperm(len(features), generator=generator)[:SUBSET]].double()
            for features in (first, second)
        )
        values.append(float(poly_mmd(one, other, degree=3, gamma=1.0, coef=1.0)))
    return float(np.mean(values)), float(np.std(values))


def build_teller(width: int = 32) -> nn.Sequential:
    """A small network: pictures [N, 3, 64, 64] in [0, 1] to one logit, above 0 for rendered."""
    layers: list[nn.Module] = []
    for first, last, stride in ((3, width, 1), (width, 2 * width, 2), (2 * width, 4 * width, 2)):
        layers += [nn.Conv2d(first, last, 3, stride, 1, bias=False), nn.BatchNorm2d(last)]
        layers += [nn.ReLU(), nn.Conv2d(last, last, 3, 2 if stride > 1 else 1, 1, groups=last)]
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 1)]
    return nn.Sequential(*layers, *pool)


@dataclass(frozen=True)
class Lesson:
    """Steps and batch of the teller's training: half of each batch is rendered, half drawn."""

    steps: int = 400
    batch: int = 32
    rate: float = 2e-3


def told_apart(drawn: Tensor, rendered: Tensor, lesson: Lesson, seed: int = 0) -> Tensor:
    """Whether a teller is right on pictures that it has not learnt from, bool [N]; half of them
    drawn, half rendered.

    It learns from two thirds of either set, mirrored at random; the sets must be in random order.
    """
    torch.manual_seed(seed)
    teller = build_teller().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(teller.parameters(), weight_decay=0.01)
    cut = [2 * len(pictures) // 3 for pictures in (rendered, drawn)]
    learn = [pictures[:n] for pictures, n in zip((rendered, drawn), cut, strict=True)]
    rest = [pictures[n:] for pictures, n in zip((rendered, drawn), cut, strict=True)]
    truth = torch.cat([torch.ones(lesson.batch // 2), torch.zeros(lesson.batch // 2)])
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, lesson.rate, lesson.steps)
    for _ in range(lesson.steps):
        parts = [p[torch.randint(len(p), (lesson.batch // 2,))] for p in learn]
        x = torch.cat(parts).float() / 255
        turned = torch.rand(len(x)) < 0.5
        x = torch.where(turned[:, None, None, None], x.flip(-1), x)
        loss = nn.functional.binary_cross_entropy_with_logits(teller(x)[:, 0], truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    teller.eval()
    count = min(len(part) for part in rest)
    with torch.no_grad():
        says = [(teller(part[:count].float() / 255)[:, 0] > 0) for part in rest]
    return torch.cat([says[0], ~says[1]])
