"""What arms share: a prepared workspace, and the pictures to draw in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from higfa_cli.artifacts.plan import sample
from higfa_cli.artifacts.rows import PlanItem
from higfa_cli.data.dataset import list_photos
from higfa_cli.data.images import fit_square
from higfa_cli.errors import UserError
from higfa_cli.recipe.load import LoadedRecipe, load_recipe, override_recipe
from higfa_cli.stages.context import Context, load_photos, make_context
from higfa_cli.stages.pipeline import step
from higfa_cli.stages.plan import plan


@dataclass(frozen=True)
class Samples:
    """What arms share: a prepared workspace, and the pictures to draw (all classes alike)."""

    ctx: Context
    items: tuple[PlanItem, ...]

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label is an index into them. Read once: listing data takes a while."""
        return load_photos(self.ctx).classes

    @property
    def labels(self) -> Tensor:
        """Target class of every item, int64 [N]."""
        return torch.tensor([item.class_id for item in self.items])


def prepare(
    recipe_ref: str,
    workspace: Path,
    split: str,
    per_class: int,
    overrides: Mapping[str, Any] | None = None,
    guide: bool = True,
) -> Samples:
    """Extract contours of a split, train the guide where asked, and choose the pictures.

    Stages that are fresh in the workspace are not run again. The first pictures are of different
    classes, and a smaller `per_class` chooses a beginning of a larger one's (as long as the split
    has so many photos per class).

    Raises:
        UserError: as the stages, or when a class has fewer usable contours than `per_class`.
    """
    loaded = load_recipe(recipe_ref)
    recipe = override_recipe(loaded.recipe, {**(overrides or {}), "contours.splits": [split]})
    rows = [row for row in list_photos(recipe.data, loaded.base).rows if row.split == split]
    if not rows:
        raise UserError(f"{recipe.data.root} has no photos in `{split}`; choose another split")
    fewest = min(Counter(row.cls for row in rows).values())
    recipe = override_recipe(recipe, {"contours.per_image": -(-per_class // fewest)})
    ctx = make_context(LoadedRecipe(recipe, loaded.base, loaded.origin), workspace)
    for stage in ("contours", "finetune-guide") if guide else ("contours",):
        step(ctx, stage)
    everything = plan(ctx)
    classes = load_photos(ctx).classes
    items = tuple(sample(everything, per_class * len(classes), recipe.seed))
    for cls in classes:
        if (have := sum(item.cls == cls for item in items)) != per_class:
            raise UserError(
                f"class {cls} has {have} usable contours in `{split}`; ask for no more per class"
            )
    return Samples(ctx, items)


def photos_of(samples: Samples) -> Tensor:
    """The photo behind every item, uint8 [N, 3, S, S], as the contours saw it before their warp."""
    by_key = {photo.key: photo for photo in load_photos(samples.ctx).samples}
    side = samples.ctx.recipe.size
    photos = [fit_square(by_key[item.source].read(), side) for item in samples.items]
    return torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2).contiguous()
