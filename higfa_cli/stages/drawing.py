"""What every drawing command shares: the plan, the loaded models, and one batch of plan items."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from higfa_cli.artifacts.atomic import read_jsonl
from higfa_cli.artifacts.fingerprint import hash_file
from higfa_cli.artifacts.plan import PlanItem, make_plan
from higfa_cli.data.dataset import Dataset, load_dataset
from higfa_cli.data.images import fit_square, read_image
from higfa_cli.data.prompts import prompt_for
from higfa_cli.errors import UserError
from higfa_cli.method.schedule import StrengthSchedule
from higfa_cli.models.device import resolve_device
from higfa_cli.models.draw import Drawn, draw
from higfa_cli.models.families import DiffusionModel, load_pipeline
from higfa_cli.models.guide import Guide, check_classes, load_guide
from higfa_cli.stages.context import Context


def is_guided(ctx: Context) -> bool:
    """Whether any step of the recipe consults the guide (`switch: 1` keeps it off)."""
    classifier = ctx.recipe.synthesize.classifier
    return classifier.switch_sigma is not None or classifier.switch < 1


def plan(ctx: Context) -> tuple[PlanItem, ...]:
    """All pictures of the recipe in drawing order.

    Raises:
        UserError: no contours, a class without words, or contours of another size.
    """
    settings = ctx.recipe.synthesize
    rows = read_jsonl(manifest_path(ctx))
    if ctx.recipe.contours.size != settings.size:
        raise UserError(
            f"contours.size is {ctx.recipe.contours.size} but synthesize.size is {settings.size}; "
            "set both to the same value"
        )
    words = dataset(ctx).words
    prompts = {
        name: [prompt_for(template, words[name]) for template in settings.prompts.templates]
        for name in {row["class"] for row in rows}
    }
    return make_plan(
        rows,
        prompts,
        settings.prompts.negative,
        settings.per_contour,
        settings.batch_size,
        ctx.recipe.seed,
    )


def load(ctx: Context) -> tuple[DiffusionModel, Guide | None]:
    """The diffusion model and, where the recipe needs it, the guide with its classes checked."""
    device = resolve_device(ctx.recipe.device)
    guide = None
    if is_guided(ctx):
        guide = load_guide(guide_path(ctx), device)
        check_classes(guide, dataset(ctx).classes)
    return load_pipeline(ctx.recipe.synthesize, ctx.base, device), guide


def draw_items(
    ctx: Context,
    model: DiffusionModel,
    guide: Guide | None,
    schedule: StrengthSchedule,
    items: Sequence[PlanItem],
) -> list[Drawn]:
    """Draw plan items as one batch."""
    return draw(
        model,
        guide,
        schedule,
        [item.prompt for item in items],
        items[0].negative,
        torch.stack([read_contour(ctx, item) for item in items]),
        [item.class_id for item in items],
        [item.seed for item in items],
    )


def read_contour(ctx: Context, item: PlanItem) -> Tensor:
    """[1, S, S] in [0, 1]; the file must be the one that the manifest recorded."""
    path = ctx.stage_dir("contours") / item.contour
    if not path.is_file() or hash_file(path) != item.contour_sha256:
        raise UserError(f"{path} is missing or was changed; run `higfa contours` again")
    grey = fit_square(read_image(path), ctx.recipe.synthesize.size, pad="zero")[..., 0]
    return torch.from_numpy(np.ascontiguousarray(grey))[None].float() / 255


def dataset(ctx: Context) -> Dataset:
    """The recipe's photos."""
    return load_dataset(ctx.recipe.data, ctx.base, ctx.recipe.seed)


def manifest_path(ctx: Context) -> Path:
    """The contours' manifest. Raises UserError when it is missing."""
    path = ctx.stage_dir("contours") / "manifest.jsonl"
    if not path.is_file():
        raise UserError(f"{path} is missing; run `higfa contours` first")
    return path


def guide_path(ctx: Context) -> Path:
    """The guide's checkpoint. Raises UserError when it is missing."""
    path = ctx.stage_dir("finetune-guide") / "guide.safetensors"
    if not path.is_file():
        raise UserError(
            f"{path} is missing; run `higfa finetune-guide` first, or switch the guide off with "
            "--set synthesize.classifier.switch=1"
        )
    return path
