"""The files of one batch: pictures first, their traces last, so a batch with traces is whole."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from higfa_cli.artifacts.atomic import read_jsonl, write_bytes, write_jsonl
from higfa_cli.artifacts.plan import PlanItem
from higfa_cli.artifacts.run_record import StageRun
from higfa_cli.data.images import encode_png
from higfa_cli.models.classifier import Classifier
from higfa_cli.models.diffusion import DiffusionModel
from higfa_cli.stages.context import Context
from higfa_cli.stages.drawing import draw_items, load

Batch = Sequence[PlanItem]


class Models:
    """Diffusion model and guide, loaded when they are first asked for."""

    def __init__(self, ctx: Context, items: Sequence[PlanItem]) -> None:
        self._ctx, self._items = ctx, items

    @cached_property
    def loaded(self) -> tuple[DiffusionModel, Classifier | None]:
        """Raises UserError as `drawing.load`."""
        return load(self._ctx, self._items)


def trace_name(group: Batch) -> str:
    """The file that is written last."""
    return f"traces/batch-{group[0].batch:05d}.jsonl"


def is_whole(record: StageRun, group: Batch, retry_failed: bool = False) -> bool:
    """Whether all files of a batch are there from before; with `retry_failed` none may fail."""
    traces = record.directory / trace_name(group)
    if trace_name(group) not in record.kept or not traces.is_file():
        return False
    failed = {row["id"] for row in read_jsonl(traces) if row["error"] is not None}
    if failed and retry_failed:
        return False
    return all(name in record.kept for name in _pictures(group, failed))


def draw_batch(ctx: Context, record: StageRun, models: Models, group: Batch) -> None:
    """Draw a batch and write its files."""
    started = time.perf_counter()
    model, guide = models.loaded
    finished = draw_items(ctx, model, guide, ctx.recipe.guidance, group)
    rows = []
    for item, drawn in zip(group, finished, strict=True):
        path = record.directory / "images" / item.file_name
        if drawn.pixels is not None:
            write_bytes(path, encode_png(drawn.pixels))
            record.output(path)
        about = {"error": drawn.error, "effective_batch": drawn.effective_batch}
        rows.append({"id": item.id, **about, **drawn.trace})
    traces = record.directory / trace_name(group)
    write_jsonl(traces, rows)
    record.output(traces, seconds=round(time.perf_counter() - started, 4))


def keep_batch(record: StageRun, group: Batch) -> None:
    """Take over a whole batch."""
    rows = read_jsonl(record.directory / trace_name(group))
    failed = {row["id"] for row in rows if row["error"] is not None}
    for name in [trace_name(group), *_pictures(group, failed)]:
        record.keep(name)


def rows_of(record: StageRun, group: Batch) -> list[dict[str, Any]]:
    """One row per picture of a finished batch, from its plan and its trace."""
    traces = {row["id"]: row for row in read_jsonl(record.directory / trace_name(group))}
    return [_row(record, item, traces[item.id]) for item in group]


def write_metadata(record: StageRun, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows of pictures beside them; rows of failed ones apart, for they have no file."""
    parts = {
        "images/metadata.jsonl": [row for row in rows if row["status"] == "ok"],
        "failed.jsonl": [row for row in rows if row["status"] != "ok"],
    }
    for name, part in parts.items():
        if part or name.startswith("images/"):
            write_jsonl(record.directory / name, part)
            record.output(record.directory / name)
        else:
            (record.directory / name).unlink(missing_ok=True)


def failures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many pictures there are, how many failed and why, and how small the smallest part was."""
    errors = Counter(str(row["error"]).split(":")[0] for row in rows if row["status"] != "ok")
    return {
        "images": sum(row["status"] == "ok" for row in rows),
        "failed": sum(errors.values()),
        "failures": dict(sorted(errors.items())),
        "smallest_batch": min((row["effective_batch"] for row in rows), default=None),
    }


def drawn_so_far(directory: Path) -> int:
    """Batches that have their traces, by whomever."""
    return sum(1 for _ in (directory / "traces").glob("batch-*.jsonl"))


def _pictures(group: Batch, failed: set[str]) -> list[str]:
    return [f"images/{item.file_name}" for item in group if item.id not in failed]


def _row(record: StageRun, item: PlanItem, trace: Mapping[str, Any]) -> dict[str, Any]:
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
        "sha256": record.digest(f"images/{item.file_name}") if ok else None,
    }


def _last(trace: Mapping[str, Any], name: str) -> float | None:
    """The value at the last step; None where there was none (out of memory, or no guide)."""
    values = trace.get(name)
    return values[-1] if values else None
