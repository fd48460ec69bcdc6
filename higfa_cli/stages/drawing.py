"""What every drawing command shares: the loaded models, one batch of plan items, and its size."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
import psutil
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor

from higfa_cli.artifacts.fingerprint import hash_file
from higfa_cli.artifacts.rows import PlanItem
from higfa_cli.artifacts.safe_paths import contained
from higfa_cli.data.images import fit_square, read_image
from higfa_cli.errors import UserError
from higfa_cli.method.guidance import Guidance
from higfa_cli.models.architecture import architecture
from higfa_cli.models.classifier import Classifier, check_classes, load_classifier
from higfa_cli.models.device import in_parts_that_fit, resolve_device
from higfa_cli.models.diffusion import DiffusionModel
from higfa_cli.models.draw import Drawn, draw
from higfa_cli.models.footprint import guided_step
from higfa_cli.models.loading import load_pipeline
from higfa_cli.models.text import cut_off_classes, unread_placeholders
from higfa_cli.recipe.drawing import AUTOMATIC_SHARE
from higfa_cli.stages.context import ArmContext, Context, load_photos
from higfa_cli.stages.inputs import guide_path

LARGEST = 32
# Classes whose cut prompts are named one by one, and how much of each end of a prompt is shown.
WARNED = 5
SHOWN = 60


class Models:
    """Diffusion model and guide of all arms with their plans, loaded once, when first asked for."""

    def __init__(self, plans: Sequence[tuple[ArmContext, Sequence[PlanItem]]]) -> None:
        self._ctx = plans[0][0]
        self._items = [item for _, items in plans for item in items]

    @cached_property
    def _guide(self) -> Classifier:
        guide = load_classifier(guide_path(self._ctx), resolve_device(self._ctx.recipe.run.device))
        check_classes(guide, load_photos(self._ctx).classes)
        return guide

    @cached_property
    def _model(self) -> DiffusionModel:
        return load_model(self._ctx, self._items)

    def of(self, ctx: ArmContext) -> tuple[DiffusionModel, Classifier | None]:
        """The model, sampled as the arm is, and the guide where the arm consults it.

        Raises UserError where one of them is missing or unusable.
        """
        guide = self._guide if ctx.recipe.guidance.consulted else None
        return self._model.with_sampling(ctx.recipe.sampling), guide


def load_model(ctx: Context, items: Sequence[PlanItem]) -> DiffusionModel:
    """The diffusion model, ready for the items' prompts; tells of prompts that it cuts off."""
    recipe, device = ctx.recipe, resolve_device(ctx.recipe.run.device)
    prompts = {text for item in items for text in (item.prompt, item.negative)}
    model = load_pipeline(recipe, ctx.base, device, prompts)
    by_class: dict[str, set[str]] = defaultdict(set)
    for item in items:
        by_class[item.cls].add(item.prompt)
    every = {cls: sorted(by_class[cls]) for cls in sorted(by_class)}
    cut, limit = cut_off_classes(model.tokenizers, every)
    for cls, prompt in list(cut.items())[:WARNED]:
        shown = prompt if len(prompt) <= 2 * SHOWN else f"{prompt[:SHOWN]} ... {prompt[-SHOWN:]}"
        ctx.progress.note(
            f"warning: class {cls}: the text encoder reads {limit} tokens and "
            f"cuts the end of this prompt off: {shown}"
        )
    if len(cut) > WARNED:
        ctx.progress.note(f"warning: prompts of {len(cut) - WARNED} more classes are cut off")
    for word in unread_placeholders(model.tokenizers, prompts)[:WARNED]:
        ctx.progress.note(
            f"warning: `{word}` is no token of this model's tokenizer, so its letters are read; "
            "save the model with its embedding (docs/models.md), or write plain words"
        )
    return model


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
    smallest = min(picture.effective_batch for picture in drawn)
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


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Compute with so many threads: another number gives slightly other pictures on a CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def batch_size(ctx: Context, model: DiffusionModel, attempt: Callable[[int], None]) -> int:
    """`run.batch_size`; where it is `auto`, the largest power of two up to 32 that fits.

    On a GPU `attempt(size)` is tried; a device that kills the program instead of raising an error
    (CPU, MPS) is asked for its free memory, and a guided step's need is estimated.

    Raises UserError where not even one picture fits.
    """
    wanted = ctx.recipe.run.batch_size
    if wanted != "auto":
        return wanted
    if model.device.type == "cuda":
        return largest_that_runs(attempt)
    room = psutil.virtual_memory().available * AUTOMATIC_SHARE
    arch = architecture(ctx.recipe.model, ctx.base)
    size = LARGEST
    while size:
        need = guided_step(arch, ctx.recipe, size)
        if need.peak - need.weights <= room:
            return size
        size //= 2
    raise _too_large()


def largest_that_runs(attempt: Callable[[int], None], start: int = LARGEST) -> int:
    """`start`, halved until `attempt(size)` does not run out of memory.

    Raises UserError where 1 is still too much.
    """
    size = start
    while size:
        try:
            attempt(size)
            return size
        except Exception as error:
            if not should_reduce_batch_size(error):
                raise
        clear_device_cache(garbage_collection=True)
        size //= 2
    raise _too_large()


def costliest_step(
    ctx: Context, model: DiffusionModel, guide: Classifier | None, item: PlanItem
) -> Callable[[int], None]:
    """Draw so many copies of `item` in one step that is guided if any is, and decode them."""
    # The first step from pure noise is never guided: then the second of two is.
    steps = 1 if model.solver(1).levels[0].alpha > 0 else 2
    changes = {"steps": steps, "conditioning_interval": (0.0, 1.0)}
    sampling = model.sampling.model_copy(update=changes)
    guidance = ctx.recipe.guidance.switched(1.0 if guide is None else 0.0)

    def attempt(size: int) -> None:
        draw_together(ctx, model.with_sampling(sampling), guide, guidance, [item] * size)

    return attempt


def _too_large() -> UserError:
    return UserError(
        "not even one picture fits in this device's memory; set model.gradient_autoencoder "
        "to a tiny autoencoder, run.memory.gradient_checkpointing: true or "
        "run.memory.cpu_offload: true"
    )
