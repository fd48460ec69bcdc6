"""What arms share: a prepared workspace, and the pictures to draw in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from higfa_cli.artifacts.rows import PlanItem
from higfa_cli.data.images import fit_square
from higfa_cli.errors import UserError
from higfa_cli.recipe.arms import Changes
from higfa_cli.recipe.load import LoadedRecipe, load_recipe, override_recipe
from higfa_cli.stages.context import Context, load_photos, make_context
from higfa_cli.stages.pipeline import step
from higfa_cli.stages.plan import arm_plan
from tools.pocket.lab.arms import ARMS

NOTHING: Changes = MappingProxyType({})


@dataclass(frozen=True)
class Samples:
    """A prepared workspace, whose recipe has the arms, and the pictures of each of them.

    `classes`: names; a label is an index into them.
    """

    ctx: Context
    items: tuple[PlanItem, ...]
    classes: tuple[str, ...]

    @property
    def labels(self) -> Tensor:
        """Target class of every item, int64 [N]."""
        return torch.tensor([item.class_id for item in self.items])

    @property
    def guide(self) -> Path | None:
        """The workspace's guide, where it has one."""
        path = self.ctx.ws.guide.checkpoint
        return path if path.is_file() else None

    def photos(self) -> Tensor:
        """The photo behind every item as its contour saw it before the warp, uint8 [N, 3, S, S]."""
        by_key = {photo.key: photo for photo in load_photos(self.ctx).samples}
        side = self.ctx.recipe.size
        photos = [fit_square(by_key[item.source].read(), side) for item in self.items]
        return torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2).contiguous()


def prepare(
    recipe_ref: str,
    workspace: Path,
    split: str,
    per_class: int,
    changes: Mapping[str, Any] = NOTHING,
    arms: Mapping[str, Changes] = ARMS,
    guide: Changes | None = NOTHING,
) -> Samples:
    """Extract contours of a split, train the guide where asked, and choose the pictures.

    `changes`: of the recipe, for all arms. `guide`: the keys under which the guide is trained, and
    nothing is drawn; None for no guide. The first pictures are of different classes, and a smaller
    `per_class` chooses a beginning of a larger one's (as long as the split has so many photos per
    class).

    Raises UserError as the stages, or when a class has fewer usable contours than `per_class`.
    """
    loaded = load_recipe(recipe_ref)
    changes = {**changes, "contours.splits": [split], "arms": {**arms}}
    recipe = override_recipe(loaded.recipe, changes)
    ctx = make_context(LoadedRecipe(recipe, loaded.base, loaded.origin), workspace)
    photos = Counter(row.cls for row in ctx.listing.rows if row.split == split)
    if not photos:
        raise UserError(f"{recipe.data.root} has no photos in `{split}`; choose another split")
    per_image = -(-per_class // min(photos.values()))
    recipe = override_recipe(recipe, {"contours.per_image": per_image})
    ctx = replace(ctx, recipe=recipe, sample=per_class * len(photos))
    step(ctx, "contours")
    if guide is not None:
        step(replace(ctx, recipe=override_recipe(recipe, guide)), "finetune-guide")
    classes = load_photos(ctx).classes
    items = arm_plan(ctx.arm(next(iter(arms))))
    for name in classes:
        if (have := sum(item.cls == name for item in items)) != per_class:
            raise UserError(
                f"class {name} has {have} usable contours in `{split}`; ask for no more per class"
            )
    return Samples(ctx, items, classes)
