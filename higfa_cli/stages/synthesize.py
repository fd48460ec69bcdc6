"""Stage `synthesize`: contours and guide in, pictures with their traces out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

from higfa_cli.artifacts.fingerprint import hash_file
from higfa_cli.artifacts.plan import PlanItem
from higfa_cli.artifacts.run_record import StageInputs, StageRun, stage_run
from higfa_cli.models.diffusion import DiffusionModel
from higfa_cli.models.draw import evaluations
from higfa_cli.recipe.schema import Recipe
from higfa_cli.stages.batch_files import Models, failures, rows_of, write_metadata
from higfa_cli.stages.context import Context
from higfa_cli.stages.drawing import guide_path, is_guided, manifest_path, plan
from higfa_cli.stages.gallery import write_gallery
from higfa_cli.stages.model_inputs import model_inputs
from higfa_cli.stages.photos import load_photos
from higfa_cli.stages.preview import preview, sweep
from higfa_cli.stages.shards import (
    Shard,
    count_workers,
    draw_batches,
    draw_in_workers,
    run_shard,
    settle,
    torch_threads,
)

__all__ = ["NAME", "inputs", "preview", "run", "sweep"]

NAME = "synthesize"
VERSION = 2
_READS = {"seed", "size", "model", "guidance", "sampling", "pictures", "prompts"}


def inputs(ctx: Context) -> StageInputs:
    """What the pictures depend on.

    Raises:
        UserError: contours or guide are missing, or do not fit the recipe.
    """
    recipe, photos = ctx.recipe, load_photos(ctx)
    files = {"contours/manifest.jsonl": hash_file(manifest_path(ctx))}
    if is_guided(ctx):
        files["finetune-guide/guide.safetensors"] = hash_file(guide_path(ctx))
    files |= model_inputs(ctx, photos.classes)
    words = {"words": dict(photos.words)}
    return StageInputs({"version": VERSION, **parameters(recipe), **words}, files)


def parameters(recipe: Recipe) -> dict[str, Any]:
    """The sections that the pictures depend on."""
    return recipe.model_dump(mode="json", include=_READS) | {"run": recipe.run.parting()}


def run(
    ctx: Context,
    shard: tuple[int, int] | None = None,
    workers: int | Literal["auto"] = 1,
    retry_failed: bool = False,
) -> dict[str, Any]:
    """Draw the whole plan; batches of an interrupted run that are whole are kept.

    Args:
        ctx: the run.
        shard: (i, n): draw only the batches whose index leaves i on division by n, beside other
            processes that draw the others; the last of them closes the stage.
        workers: draw in so many processes.
        retry_failed: draw batches with a failed picture again.

    Returns:
        Counts and cost, as in `run.json`; for a shard that is not the last, how far the plan is.
    """
    known = inputs(ctx)
    items = plan(ctx)
    directory = ctx.stage_dir(NAME)
    if shard is not None:
        return run_shard(ctx, known, items, Shard(*shard), lambda r, m: _finish(ctx, r, m, items))
    with stage_run(directory, known, ctx.recipe, resume=not ctx.force) as record:
        count = count_workers(ctx, workers)
        return _finish(ctx, record, Models(ctx, items), items, count, retry_failed)


def _finish(
    ctx: Context,
    record: StageRun,
    models: Models,
    items: Sequence[PlanItem],
    workers: int = 1,
    retry_failed: bool = False,
) -> dict[str, Any]:
    """Draw what is missing of the plan, then everything that is made of the whole."""
    settled = settle(ctx, record, models, items, workers)
    drawn = 0
    if workers > 1:
        drawn = draw_in_workers(ctx, record, items, settled, workers, retry_failed)
        retry_failed = False
    with torch_threads(settled.threads):
        drawn += draw_batches(ctx, record, models, settled.groups, retry_failed)
        model, _ = models.loaded
        record.device = str(model.device)
        rows = [row for group in settled.groups for row in rows_of(record, group)]
        write_metadata(record, rows)
        write_gallery(ctx, record, model, settled.items)
    levels = model.solver(ctx.recipe.sampling.steps).levels
    denoiser, passes = evaluations(ctx.recipe.guidance, levels)
    seconds = sum(record.seconds.values())
    record.counts |= failures(rows) | {
        "drawn_now": drawn,
        "seconds": round(seconds, 3),
        "seconds_per_image": round(seconds / len(rows), 4),
        "denoiser_evaluations_per_image": denoiser,
        "guide_evaluations_per_image": passes,
        "batch_size": settled.batch_size,
        "dtype": ctx.recipe.model.dtype,
        "peak_device_memory": _peak_memory(model),
    }
    return {"output": str(record.directory / "images"), **record.counts}


def _peak_memory(model: DiffusionModel) -> int | None:
    """Most bytes that the device held for tensors in this process; None where nobody counts."""
    if model.device.type != "cuda":
        return None
    return int(torch.cuda.max_memory_allocated(model.device))
