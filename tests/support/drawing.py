"""Drawing with the tiny models: what is asked for, and the pixels that come."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

from higfa_cli.method.guidance import Guidance
from higfa_cli.models.classifier import Classifier, ClassifierSpec
from higfa_cli.models.diffusion import DiffusionModel
from higfa_cli.models.draw import Drawn, draw
from tests.support import tiny
from tests.support.recipes import drawing_recipe, load_model

CPU = torch.device("cpu")
PROMPTS = ["a photo of a red bird", "a photo of a blue car"]


CONTOURS = (
    torch.rand(2, 1, tiny.SIZE, tiny.SIZE, generator=torch.Generator().manual_seed(5)) > 0.8
).float()


def load(folders: tuple[Path, Path], **changes: Any) -> DiffusionModel:
    own = {"scheduler": tiny.solver_of(folders[0]), "steps": 4, "size": tiny.SIZE}
    recipe = drawing_recipe(*folders, **(own | changes))
    return load_model(recipe, [*PROMPTS, "", "blurry"])


@cache
def loaded(folders: tuple[Path, Path], **sampling: Any) -> DiffusionModel:
    """As `load`, once for all tests that leave the model as it is; keys of `sampling` alone."""
    if not sampling:
        return load(folders)
    model = loaded(folders)
    return model.with_sampling(model.sampling.model_copy(update=sampling))


def make_guide(classes: int = 3, bias: float = 0.0, weight: float = 1.0) -> Classifier:
    """A small network with random weights; `bias` makes it sure of class 0, `weight` 0 blind."""
    torch.manual_seed(4)
    network = timm.create_model("test_resnet.r160_in1k", pretrained=False, num_classes=classes)
    network.fc.weight.data *= weight
    network.fc.bias.data[0] += bias
    half = (0.5, 0.5, 0.5)
    names = tuple("abc"[:classes])
    return Classifier(
        network, ClassifierSpec("test_resnet.r160_in1k", names, tiny.SIZE, half, half)
    )


def pictures(
    model: DiffusionModel,
    guidance: Guidance,
    guide: Classifier | None = None,
    targets: Sequence[int] = (0, 0),
) -> list[Drawn]:
    drawn = draw(model, guide, guidance, PROMPTS, "blurry", CONTOURS, targets, [11, 12])
    assert all(one.error is None for one in drawn)
    return drawn


def pixels(drawn: Sequence[Drawn]) -> np.ndarray:
    return np.stack([one.pixels for one in drawn if one.pixels is not None]).astype(int)
