"""What every drawing command shares: the plan, the loaded models, and one batch of plan items."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from higfa_cli.artifacts.fingerprint import hash_file
from higfa_cli.artifacts.rows import PlanItem
from higfa_cli.artifacts.safe_paths import contained
from higfa_cli.data.images import fit_square, read_image
from higfa_cli.errors import UserError
from higfa_cli.method.guidance import Guidance
from higfa_cli.models.classifier import Classifier, check_classes, load_classifier
from higfa_cli.models.device import in_parts_that_fit, resolve_device
from higfa_cli.models.diffusion import DiffusionModel
from higfa_cli.models.draw import Drawn, draw
from higfa_cli.models.loading import load_pipeline
from higfa_cli.models.text import cut_off_classes
from higfa_cli.stages.context import Context
from higfa_cli.stages.inputs import guide_path
from higfa_cli.stages.photos import load_photos
from higfa_cli.stages.plan import prompts_of

# Classes whose cut prompts are named one by one, and how much of each end of a prompt is shown.
WARNED = 5
SHOWN = 60


def load_model(ctx: Context, items: Sequence[PlanItem]) -> DiffusionModel:
    """The diffusion model, ready for the items' prompts."""
    recipe, device = ctx.recipe, resolve_device(ctx.recipe.run.device)
    prompts = prompts_of(items)
    model = load_pipeline(recipe, ctx.base, device, prompts)
    by_class: dict[str, set[str]] = defaultdict(set)
    for item in items:
        by_class[item.cls].add(item.prompt)
    warn_of_cut_prompts(ctx, model, {cls: sorted(own) for cls, own in sorted(by_class.items())})
    return model


def warn_of_cut_prompts(
    ctx: Context, model: DiffusionModel, prompts: dict[str, list[str]]
) -> dict[str, str]:
    """Tell of the classes (with their prompts) that the text encoders do not read to the end."""
    tokenizers = model.tokenizers
    cut, limit = cut_off_classes(tokenizers, prompts)
    for cls, prompt in list(cut.items())[:WARNED]:
        shown = prompt if len(prompt) <= 2 * SHOWN else f"{prompt[:SHOWN]} ... {prompt[-SHOWN:]}"
        ctx.progress.note(
            f"warning: class {cls}: the text encoder reads {limit} tokens and cuts the end of this "
            f"prompt off: {shown}"
        )
    if len(cut) > WARNED:
        ctx.progress.note(f"warning: prompts of {len(cut) - WARNED} more classes are cut off")
    return cut


def load_steering(ctx: Context) -> Classifier:
    """The guide, its classes checked. Raises UserError when it is missing or of other classes."""
    guide = load_classifier(guide_path(ctx), resolve_device(ctx.recipe.run.device))
    check_classes(guide, load_photos(ctx).classes)
    return guide


def draw_together(
    ctx: Context,
    model: DiffusionModel,
    guide: Classifier | None,
    guidance: Guidance,
    items: Sequence[PlanItem],
) -> list[Drawn]:
    """Draw plan items as one batch."""
    return draw(
        model,
        guide,
        guidance,
        [item.prompt for item in items],
        items[0].negative,
        torch.stack([read_contour(ctx, item) for item in items]),
        [item.class_id for item in items],
        [item.seed for item in items],
    )


def draw_items(
    ctx: Context,
    model: DiffusionModel,
    guide: Classifier | None,
    guidance: Guidance,
    items: Sequence[PlanItem],
) -> list[Drawn]:
    """Draw plan items as one batch, or in halves of it where the device has no room.

    A picture that does not fit even alone is a failed one.
    """
    drawn = in_parts_that_fit(
        items,
        lambda part: draw_together(ctx, model, guide, guidance, part),
        lambda item: Drawn(None, {}, "out of memory", 1),
    )
    smallest = min(one.effective_batch for one in drawn)
    if smallest < len(items):
        ctx.progress.note(
            f"out of memory: {len(items)} pictures were drawn in parts, down to {smallest}; "
            f"a smaller run.batch_size saves the failed attempts"
        )
    return drawn


def read_contour(ctx: Context, item: PlanItem) -> Tensor:
    """[1, S, S] in [0, 1]; the file must be the one that the manifest recorded."""
    picture = read_image(contour_path(ctx, item))
    grey = fit_square(picture, ctx.recipe.size, pad="zero")[..., 0]
    return torch.from_numpy(np.ascontiguousarray(grey))[None].float() / 255


def contour_path(ctx: Context, item: PlanItem) -> Path:
    """A plan item's contour; the file must be the one that the manifest recorded.

    Raises UserError where it is gone, was changed, or lies outside its stage's folder.
    """
    files = ctx.ws.contours
    path = contained(files.directory, item.contour, files.manifest)
    if not path.is_file() or hash_file(path) != item.contour_sha256:
        raise UserError(f"{path} is missing or was changed; run `higfa contours` again")
    return path
