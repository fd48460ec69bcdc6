"""Stage `synthesize`: contours and guide in, pictures with their traces out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from higfa_cli.artifacts.atomic import read_jsonl, write_bytes, write_jsonl
from higfa_cli.artifacts.fingerprint import hash_bytes, hash_file, hash_tree
from higfa_cli.artifacts.plan import PlanItem, batches
from higfa_cli.artifacts.run_record import StageInputs, StageRun, stage_run
from higfa_cli.data.images import encode_png
from higfa_cli.errors import UserError
from higfa_cli.models.draw import Drawn, evaluations, schedule_of
from higfa_cli.models.scheduler import SchedulerSolver
from higfa_cli.recipe.refs import resolve_ref
from higfa_cli.stages.context import Context
from higfa_cli.stages.drawing import (
    dataset,
    draw_items,
    guide_path,
    is_guided,
    load,
    manifest_path,
    plan,
)
from higfa_cli.stages.gallery import write_gallery
from higfa_cli.stages.preview import preview, sweep

__all__ = ["NAME", "dry_run", "inputs", "preview", "run", "sweep"]

NAME = "synthesize"
VERSION = 1


def inputs(ctx: Context) -> StageInputs:
    """What the pictures depend on.

    Raises:
        UserError: contours or guide are missing, or do not fit the recipe.
    """
    settings = ctx.recipe.synthesize
    files = {"contours/manifest.jsonl": hash_file(manifest_path(ctx))}
    if is_guided(ctx):
        files["finetune-guide/guide.safetensors"] = hash_file(guide_path(ctx))
    for key in ("model", "controlnet"):
        found = resolve_ref(getattr(settings, key), ctx.base)
        if isinstance(found, Path):
            files[f"synthesize.{key}"] = hash_tree(found)
    parameters = {
        "version": VERSION,
        "seed": ctx.recipe.seed,
        "synthesize": settings.model_dump(mode="json"),
        "words": dict(dataset(ctx).words),
    }
    return StageInputs(parameters, files)


def dry_run(ctx: Context) -> dict[str, Any]:
    """The plan in numbers: pictures, batches, steps, evaluations; nothing is loaded or written."""
    settings = ctx.recipe.synthesize
    items = plan(ctx)
    solver = SchedulerSolver(settings.scheduler, _scheduler_config(ctx), settings.steps)
    denoiser, guide = evaluations(schedule_of(settings), solver.levels)
    return {
        "images": len(items),
        "classes": len({item.cls for item in items}),
        "batches": len(batches(items)),
        "batch_size": settings.batch_size,
        "steps": settings.steps,
        "guided_steps": guide,
        "denoiser_evaluations": denoiser * len(items),
        "denoiser_evaluations_per_image": denoiser,
        "guide_evaluations": guide * len(items),
        "output": str(ctx.stage_dir(NAME) / "images"),
        "first": [item.row() for item in items[:3]],
    }


def run(ctx: Context) -> dict[str, Any]:
    """Draw the whole plan; batches of an interrupted run that are whole are kept.

    Returns:
        Counts and cost, as in `run.json`.
    """
    known = inputs(ctx)
    items = plan(ctx)
    directory = ctx.stage_dir(NAME)
    with stage_run(directory, known, ctx.recipe, resume=not ctx.force) as record:
        write_jsonl(directory / "plan.jsonl", [item.row() for item in items])
        record.output(directory / "plan.jsonl")
        model, guide = load(ctx)
        record.device = str(model.device)
        schedule = schedule_of(ctx.recipe.synthesize)
        rows, seconds, drawn = [], 0.0, 0
        for group in ctx.progress.track(batches(items), "synthesize"):
            started = time.perf_counter()
            if not _keep(record, group):
                finished = draw_items(ctx, model, guide, schedule, group)
                _write_batch(record, group, finished)
                seconds += time.perf_counter() - started
                drawn += len(group)
            rows += _metadata(record, group)
        _write_metadata(record, rows)
        write_gallery(ctx, record, model, items)
        levels = model.solver(ctx.recipe.synthesize.steps).levels
        denoiser, passes = evaluations(schedule, levels)
        failed = sum(row["status"] != "ok" for row in rows)
        record.counts |= {
            "images": len(rows) - failed,
            "failed": failed,
            "drawn_now": drawn,
            "seconds": round(seconds, 3),
            "seconds_per_image": round(seconds / drawn, 4) if drawn else None,
            "denoiser_evaluations_per_image": denoiser,
            "guide_evaluations_per_image": passes,
            "batch_size": ctx.recipe.synthesize.batch_size,
            "dtype": ctx.recipe.synthesize.dtype,
        }
    return {"output": str(directory / "images"), **record.counts}


def _keep(record: StageRun, group: Sequence[PlanItem]) -> bool:
    """Take over a batch that an earlier run finished; False unless all its files are whole."""
    traces = _trace_name(group)
    if traces not in record.kept:
        return False
    rows = read_jsonl(record.directory / traces)
    failed = {row["id"] for row in rows if row["error"] is not None}
    wanted = [traces, *(f"images/{item.file_name}" for item in group if item.id not in failed)]
    if not all(name in record.kept for name in wanted):
        return False
    for name in wanted:
        record.output(record.directory / name)
    return True


def _trace_name(group: Sequence[PlanItem]) -> str:
    return f"traces/batch-{group[0].batch:05d}.jsonl"


def _write_batch(record: StageRun, group: Sequence[PlanItem], finished: Sequence[Drawn]) -> None:
    """Pictures first, the batch's traces last: a batch with traces is whole."""
    rows = []
    for item, drawn in zip(group, finished, strict=True):
        path = record.directory / "images" / item.file_name
        if drawn.pixels is not None:
            write_bytes(path, encode_png(drawn.pixels))
            record.output(path)
        rows.append({"id": item.id, "error": drawn.error, **drawn.trace})
    traces = record.directory / _trace_name(group)
    write_jsonl(traces, rows)
    record.output(traces)


def _metadata(record: StageRun, group: Sequence[PlanItem]) -> list[dict[str, Any]]:
    """One row per picture of a finished batch, from its plan and its trace."""
    traces = {row["id"]: row for row in read_jsonl(record.directory / _trace_name(group))}
    return [_row(record, item, traces[item.id]) for item in group]


def _row(record: StageRun, item: PlanItem, trace: Mapping[str, Any]) -> dict[str, Any]:
    path = record.directory / "images" / item.file_name
    ok = trace["error"] is None
    row = {key: value for key, value in item.row().items() if key != "contour_sha256"}
    return row | {
        "file_name": item.file_name,
        "strengths": {
            "text": trace["s_text"][-1],
            "contour": trace["s_contour"][-1],
            "classifier": trace["s_classifier"][-1],
        },
        "confidence": trace["p"][-1],
        "status": "ok" if ok else "failed",
        "error": trace["error"],
        "sha256": hash_bytes(path.read_bytes()) if ok else None,
    }


def _write_metadata(record: StageRun, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows of pictures beside them; rows of failed ones apart, for they have no file."""
    parts = {
        "images/metadata.jsonl": [row for row in rows if row["status"] == "ok"],
        "failed.jsonl": [row for row in rows if row["status"] != "ok"],
    }
    for name, part in parts.items():
        if part or name.startswith("images/"):
            write_jsonl(record.directory / name, part)
            record.output(record.directory / name)


def _scheduler_config(ctx: Context) -> Any:
    from diffusers import DDIMScheduler

    settings = ctx.recipe.synthesize
    found = resolve_ref(settings.model, ctx.base)
    try:
        return DDIMScheduler.load_config(
            str(found), subfolder="scheduler", revision=settings.revision
        )
    except OSError as error:
        raise UserError(
            f"synthesize.model `{settings.model}`: no scheduler config found; give a local "
            "diffusers folder, or download the model first"
        ) from error
