"""What the instruments share: judges, photos, feature space, generator and drawings."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from higfa_cli.errors import UserError
from higfa_cli.models.diffusion import DiffusionModel
from higfa_cli.models.loading import load_pipeline
from higfa_cli.recipe.load import load_recipe
from higfa_cli.stages.context import Context, make_context
from tools.pocket.lab import measure
from tools.pocket.lab.arms import Arm
from tools.pocket.lab.draw import Drawings, Setting, draw_arm, prepare
from tools.pocket.lab.features import load_feature_network
from tools.pocket.lab.freeze import data_hash
from tools.pocket.lab.judges import Judge, load_judges
from tools.pocket.lab.train_judges import Labelled, load_pool
from tools.pocket.pocket_render.catalogue import load_classes


@dataclass(frozen=True)
class World:
    """What all parts are given; what several of them need is made once."""

    rendered: Path
    judges_folder: Path
    workspace: Path
    out: Path
    count: int
    recipe: str
    workers: int

    @cached_property
    def judges(self) -> tuple[Judge, ...]:
        """The judges of the pocket's pictures."""
        found = checked_judges(self.judges_folder)
        if (size := found[0].spec.size) != (own := self.ctx.recipe.size):
            raise UserError(
                f"{self.judges_folder}: judges of {size} px, but {self.recipe} draws {own} px; "
                "give --judges of that size"
            )
        return found

    @cached_property
    def ctx(self) -> Context:
        """The recipe, and the workspace where its contours go."""
        return make_context(load_recipe(self.recipe), self.workspace.resolve())

    @cached_property
    def test(self) -> Labelled:
        """The test photos at the judges' size: other airlines."""
        return load_pool(self.rendered / "test", self.judges[0].spec.size)

    @cached_property
    def network(self) -> nn.Module:
        """The feature network."""
        return load_feature_network()

    @cached_property
    def reference(self) -> measure.Reference:
        """What drawings are compared with."""
        size = self.judges[0].spec.size
        return measure.reference(self.network, self.rendered, size, self.workspace / "features")

    @cached_property
    def setting(self) -> Setting:
        """The pictures to draw: transformed contours of train photos, all classes alike."""
        per_class = self.count // len(load_classes())
        if per_class < 2:
            raise UserError(f"--count {self.count} is less than two pictures per class; ask more")
        return prepare(self.recipe, self.ctx.workspace, "train", per_class, guide=False)

    def drawings(self, arm: Arm) -> Drawings:
        """The arm's pictures, from the cache where it holds them."""
        return draw_arm(self.setting, arm, self.workspace / "drawn", self.workers)

    def model(self, prompt: str | None = None) -> DiffusionModel:
        """The generator, ready for one prompt and the empty one, or for none."""
        prompts = () if prompt is None else (prompt, "")
        recipe, cpu = self.ctx.recipe, torch.device("cpu")
        return load_pipeline(
            recipe.model, recipe.run, recipe.sampling, recipe.size, self.ctx.base, cpu, prompts
        )


def checked_judges(folder: Path) -> tuple[Judge, ...]:
    """The folder's judges. Raises UserError when there are none, or they know other data."""
    try:
        judges = load_judges(folder)
    except (FileNotFoundError, ValueError) as error:
        raise UserError(str(error)) from None
    spec = judges[0].spec
    if spec.classes != tuple(load_classes()) or spec.data != data_hash():
        raise UserError(
            f"{folder}: trained on other classes or pools than the pocket's; train them again: "
            "python -m tools.pocket.lab.train_judges"
        )
    return judges
