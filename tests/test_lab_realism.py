"""Likeness to photos: bands, KID and the teller, on pictures whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tools.pocket.lab.likeness import (
    BANDS,
    Lesson,
    as_shipped,
    band_powers,
    build_teller,
    kid,
    told_apart,
)
from tools.pocket.lab.train_judges import Labelled
from tools.pocket.lab.usefulness import _few, gains


def waves(cycles: float, count: int = 2) -> Tensor:
    """uint8 [count, 3, 64, 64]: vertical stripes of so many cycles a frame."""
    x = torch.arange(64) / 64
    row = 127 + 60 * torch.sin(2 * torch.pi * cycles * x)
    return row.round().to(torch.uint8).expand(count, 3, 64, 64).contiguous()


@pytest.mark.parametrize(("cycles", "band"), [(6, 0), (12, 1), (24, 2)])
def test_power_lies_in_the_band_of_the_waves(cycles: int, band: int) -> None:
    power = band_powers(waves(cycles))
    assert power.shape == (len(BANDS),) and power.argmax() == band
    assert power[band] > 50 * power.sum() / 51 - 1e-9 * power.sum()


def test_half_the_contrast_is_a_quarter_of_the_power() -> None:
    half = ((waves(24).float() - 127) / 2 + 127).round().to(torch.uint8)
    ratio = band_powers(half)[2] / band_powers(waves(24))[2]
    assert ratio.item() == pytest.approx(0.25, abs=0.01)


def test_shipping_shrinks_and_leaves_nearly_all_as_it_is() -> None:
    big = torch.nn.functional.interpolate(waves(6).float(), size=(128, 128), mode="bilinear")
    small = as_shipped(big.to(torch.uint8))
    assert small.shape == (2, 3, 64, 64) and small.dtype == torch.uint8
    again = as_shipped(waves(12))
    assert (again.float() - waves(12).float()).abs().mean() < 3


def test_kid_is_nothing_within_a_set_and_grows_with_the_distance() -> None:
    generator = torch.Generator().manual_seed(0)

    def unit(shift: float) -> Tensor:
        values = torch.randn(300, 16, generator=generator) + shift
        return torch.nn.functional.normalize(values, dim=1)

    photos = unit(0)
    same, near, far = (kid(unit(shift), photos)[0] for shift in (0.0, 0.3, 1.0))
    assert abs(same) < 0.01 < near < far
    with pytest.raises(ValueError, match="at least"):
        kid(photos[:20], photos)


def test_teller_tells_blurred_noise_from_sharp_and_not_like_from_like() -> None:
    generator = torch.Generator().manual_seed(0)
    sharp = torch.randint(0, 256, (120, 3, 64, 64), generator=generator, dtype=torch.uint8)
    soft = torch.nn.functional.avg_pool2d(sharp.float(), 5, 1, 2).round().to(torch.uint8)
    lesson = Lesson(steps=40, batch=16)
    right = told_apart(soft, sharp, lesson)
    assert right.shape == (80,) and right.float().mean() > 0.9
    others = torch.randint(0, 256, (120, 3, 64, 64), generator=generator, dtype=torch.uint8)
    alike = told_apart(others, sharp, lesson).float().mean().item()
    # four standard errors of 80 guesses
    assert abs(alike - 0.5) < 4 * (0.25 / 80) ** 0.5


def test_teller_is_small() -> None:
    assert sum(p.numel() for p in build_teller().parameters()) < 100_000
    assert np.isfinite(build_teller()(torch.rand(2, 3, 64, 64)).detach().numpy()).all()


def test_gains_are_paired_by_seed() -> None:
    def line(arm: str, seed: int, test: float) -> dict[str, float | str | int]:
        return {"arm": arm, "seed": seed, "test": test}

    rows = [line("real", 0, 0.5), line("real", 1, 0.6), line("perfect", 0, 0.55)]
    rows += [line("perfect", 1, 0.67), line("perfect", 2, 0.1)]
    assert gains(rows) == {"perfect": (pytest.approx(6.0), 2)}


def test_as_many_web_photos_as_perfect_ones_of_every_class() -> None:
    labels = torch.arange(4).repeat_interleave(10)
    few = _few(Labelled(torch.arange(40)[:, None], labels), 12)
    assert few.labels.bincount().tolist() == [3, 3, 3, 3]
    assert torch.equal(labels[few.pictures[:, 0]], few.labels)
