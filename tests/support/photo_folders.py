"""Class folders of small photos, and a recipe of a few seconds over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.support.bad_images import encoded, scene
from tests.support.recipes import write_recipe


def project(base: Path, photos: Path, **data: Any) -> Path:
    """A recipe of a few seconds; returns its path."""
    training = {"epochs": 1, "batch_size": 8}
    return write_recipe(
        base / "tiny.yaml",
        ("none", "none"),
        workspace=str(base / "out"),
        data={"root": str(photos), **data},
        contours={"transforms": {"translation": 0, "perspective": 0}},
        guide=training,
        downstream=training | {"seeds": [0]},
    )


def photo(path: Path, seed: int) -> None:
    """The scene in other colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shift = np.random.default_rng(seed).integers(0, 60, 3)
    path.write_bytes(encoded((scene() + shift).clip(0, 255).astype(np.uint8), "PNG"))
