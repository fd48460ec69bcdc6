"""Stage `synthesize`: contours and guide in, pictures with their traces out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from higfa_cli.artifacts.atomic import read_json, read_jsonl, write_bytes, write_json, write_jsonl
from higfa_cli.artifacts.fingerprint import hash_bytes, hash_file
from higfa_cli.artifacts.plan import PlanItem, batches, in_batches
from higfa_cli.artifacts.run_record import StageInputs, StageRun, stage_run
from higfa_cli.data.images import encode_png
from higfa_cli.models.diffusion import DiffusionModel
from higfa_cli.models.draw import Drawn, evaluations, schedule_of
from higfa_cli.models.guide import Guide
from higfa_cli.stages.batching import batch_size, dearest_step
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
from higfa_cli.stages.dry_run import dry_run
from higfa_cli.stages.gallery import write_gallery
from higfa_cli.stages.model_inputs import model_inputs
from higfa_cli.stages.preview import preview, sweep

__all__ = ["NAME", "dry_run", "inputs", "preview", "run", "sweep"]

NAME = "synthesize"
VERSION = 2
PLAN = "plan.json"


def inputs(ctx: Context) -> StageInputs:
    """What the pictures depend on.

    Raises:
        UserError: contours or guide are missing, or do not fit the recipe.
    """
    settings = ctx.recipe.synthesize
    photos = dataset(ctx)
    files = {"contours/manifest.jsonl": hash_file(manifest_path(ctx))}
    if is_guided(ctx):
        files["finetune-guide/guide.safetensors"] = hash_file(guide_path(ctx))
    files |= model_inputs(ctx, photos.classes)
    parameters = {
        "version": VERSION,
        "seed": ctx.recipe.seed,
        # Where the files are looked for does not change what is in them.
        "synthesize": settings.model_dump(mode="json", exclude={"local_files_only"}),
        "words": dict(photos.words),
    }
    return StageInputs(parameters, files)


def run(ctx: Context) -> dict[str, Any]:
    """Draw the whole plan; batches of an interrupted run that are whole are kept.

    Returns:
        Counts and cost, as in `run.json`.
    """
    known = inputs(ctx)
    items = plan(ctx)
    directory = ctx.stage_dir(NAME)
    with stage_run(directory, known, ctx.recipe, resume=not ctx.force) as record:
        model, guide = load(ctx, items)
        record.device = str(model.device)
        size = _settled_batch_size(ctx, record, model, guide, items)
        items = in_batches(items, size)
        write_jsonl(directory / "plan.jsonl", [item.row() for item in items])
        record.output(directory / "plan.jsonl")
        rows = _draw_all(ctx, record, model, guide, items)
        _write_metadata(record, rows)
        write_gallery(ctx, record, model, items)
        levels = model.solver(ctx.recipe.synthesize.steps).levels
        denoiser, passes = evaluations(schedule_of(ctx.recipe.synthesize), levels)
        record.counts |= _counts(rows) | {
            "denoiser_evaluations_per_image": denoiser,
            "guide_evaluations_per_image": passes,
            "batch_size": size,
            "dtype": ctx.recipe.synthesize.dtype,
            "peak_device_memory": _peak_memory(model),
        }
    return {"output": str(directory / "images"), **record.counts}


def _settled_batch_size(
    ctx: Context,
    record: StageRun,
    model: DiffusionModel,
    guide: Guide | None,
    items: Sequence[PlanItem],
) -> int:
    """The batch size of the whole plan, written to plan.json; a resumed run keeps the first's."""
    path = record.directory / PLAN
    if PLAN not in record.kept:
        size = batch_size(ctx, model, dearest_step(ctx, model, guide, items[0]))
        probed = ctx.recipe.synthesize.batch_size == "auto"
        about = {"batch_size": size, "probed": probed, "pictures": len(items)}
        write_json(path, about | {"device": str(model.device), "dtype": model.settings.dtype})
    record.output(path)
    return int(read_json(path)["batch_size"])


def _draw_all(
    ctx: Context,
    record: StageRun,
    model: DiffusionModel,
    guide: Guide | None,
    items: Sequence[PlanItem],
) -> list[dict[str, Any]]:
    """Every batch drawn or taken over; returns the rows of all pictures."""
    schedule = schedule_of(ctx.recipe.synthesize)
    rows: list[dict[str, Any]] = []
    seconds, drawn = 0.0, 0
    for group in ctx.progress.track(batches(items), "synthesize"):
        started = time.perf_counter()
        if not _keep(record, group):
            finished = draw_items(ctx, model, guide, schedule, group)
            _write_batch(record, group, finished)
            seconds += time.perf_counter() - started
            drawn += len(group)
        rows += _metadata(record, group)
    record.counts |= {
        "drawn_now": drawn,
        "seconds": round(seconds, 3),
        "seconds_per_image": round(seconds / drawn, 4) if drawn else None,
    }
    return rows


def _counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many pictures there are, how many failed and why, and how small the smallest part was."""
    errors = Counter(str(row["error"]).split(":")[0] for row in rows if row["status"] != "ok")
    return {
        "images": sum(row["status"] == "ok" for row in rows),
        "failed": sum(errors.values()),
        "failures": dict(sorted(errors.items())),
        "smallest_batch": min((row["effective_batch"] for row in rows), default=None),
    }


def _peak_memory(model: DiffusionModel) -> int | None:
    """Most bytes that the device held for tensors in this process; None where nobody counts."""
    if model.device.type != "cuda":
        return None
    return int(torch.cuda.max_memory_allocated(model.device))


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
        about = {"error": drawn.error, "effective_batch": drawn.effective_batch}
        rows.append({"id": item.id, **about, **drawn.trace})
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
            name: _last(trace, f"s_{name}") for name in ("text", "contour", "classifier")
        },
        "confidence": _last(trace, "p"),
        "effective_batch": trace["effective_batch"],
        "status": "ok" if ok else "failed",
        "error": trace["error"],
        "sha256": hash_bytes(path.read_bytes()) if ok else None,
    }


def _last(trace: Mapping[str, Any], name: str) -> float | None:
    """The value at the last step; None where there was none (out of memory, or no guide)."""
    values = trace.get(name)
    return values[-1] if values else None


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
