"""The files of one batch: pictures first, their traces last, so a batch with traces is whole."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from functools import cached_property

from higfa_cli.artifacts.artifact import read_rows, write_rows
from higfa_cli.artifacts.atomic import write_bytes
from higfa_cli.artifacts.rows import LastStrengths, PictureRow, PlanItem, Planned, TraceRow
from higfa_cli.artifacts.run_record import StageRun
from higfa_cli.artifacts.workspace import SynthesizeFolder
from higfa_cli.data.images import encode_png
from higfa_cli.models.classifier import Classifier
from higfa_cli.models.diffusion import DiffusionModel
from higfa_cli.stages.context import ArmContext
from higfa_cli.stages.drawing import draw_items, load_model, load_steering

Batch = Sequence[PlanItem]


class Models:
    """Diffusion model and guide of all arms with their plans, loaded once, when first asked for."""

    def __init__(self, plans: Sequence[tuple[ArmContext, Sequence[PlanItem]]]) -> None:
        self._ctx = plans[0][0]
        self._items = [item for _, items in plans for item in items]

    @cached_property
    def _guide(self) -> Classifier:
        return load_steering(self._ctx)

    @cached_property
    def _model(self) -> DiffusionModel:
        return load_model(self._ctx, self._items)

    def of(self, ctx: ArmContext) -> tuple[DiffusionModel, Classifier | None]:
        """The model, sampled as the arm is, and the guide where the arm consults it.

        Raises UserError as `load_model` and `load_steering`.
        """
        guide = self._guide if ctx.recipe.guidance.consulted else None
        return self._model.with_sampling(ctx.recipe.sampling), guide


def is_whole(
    record: StageRun, files: SynthesizeFolder, group: Batch, retry_failed: bool = False
) -> bool:
    """Whether all files of a batch are there from before; with `retry_failed` none may fail."""
    trace = files.trace(group[0].batch)
    if not record.is_kept(files.name(trace)) or not trace.is_file():
        return False
    traces = read_rows(trace, TraceRow)
    if retry_failed and any(row.error is not None for row in traces):
        return False
    return all(map(record.is_kept, _names(files, group, traces)))


def draw_batch(
    ctx: ArmContext, record: StageRun, files: SynthesizeFolder, models: Models, group: Batch
) -> None:
    """Draw a batch and write its files."""
    started = time.perf_counter()
    model, guide = models.of(ctx)
    finished = draw_items(ctx, model, guide, ctx.recipe.guidance, group)
    traces = []
    for item, drawn in zip(group, finished, strict=True):
        path = files.images / item.file_name
        if drawn.pixels is not None:
            write_bytes(path, encode_png(drawn.pixels))
            record.output(path)
        about = {"id": item.id, "error": drawn.error, "effective_batch": drawn.effective_batch}
        traces.append(TraceRow.model_validate(about | drawn.trace))
    trace = files.trace(group[0].batch)
    write_rows(trace, traces)
    record.output(trace, seconds=round(time.perf_counter() - started, 4))


def keep_batch(record: StageRun, files: SynthesizeFolder, group: Batch) -> None:
    """Take over a whole batch."""
    for name in _names(files, group, read_rows(files.trace(group[0].batch), TraceRow)):
        record.keep(name)


def rows_of(record: StageRun, files: SynthesizeFolder, group: Batch) -> list[PictureRow]:
    """One row per picture of a finished batch, from its plan and its trace."""
    traces = {row.id: row for row in read_rows(files.trace(group[0].batch), TraceRow)}
    return [_row(record, files, item, traces[item.id]) for item in group]


def write_metadata(record: StageRun, files: SynthesizeFolder, rows: Sequence[PictureRow]) -> None:
    """Rows of pictures beside them; rows of failed ones apart, for they have no file."""
    failed = [row for row in rows if row.status == "failed"]
    write_rows(files.metadata, [row for row in rows if row.status == "ok"])
    record.output(files.metadata)
    if failed:
        write_rows(files.failed, failed)
        record.output(files.failed)
    else:
        files.failed.unlink(missing_ok=True)


def failures(rows: Sequence[PictureRow]) -> dict[str, int]:
    """What failed, and how many pictures of it."""
    errors = Counter(row.error.split(":")[0] for row in rows if row.error is not None)
    return dict(sorted(errors.items()))


def _names(files: SynthesizeFolder, group: Batch, traces: Sequence[TraceRow]) -> list[str]:
    """The outputs of a whole batch: its trace, and the pictures that did not fail."""
    failed = {row.id for row in traces if row.error is not None}
    pictures = [files.images / item.file_name for item in group if item.id not in failed]
    return [files.name(path) for path in (files.trace(group[0].batch), *pictures)]


def _row(record: StageRun, files: SynthesizeFolder, item: PlanItem, trace: TraceRow) -> PictureRow:
    ok = trace.error is None
    return PictureRow(
        **{name: getattr(item, name) for name in Planned.model_fields},
        strengths=LastStrengths(
            text=_last(trace.s_text),
            contour=_last(trace.s_contour),
            classifier=_last(trace.s_classifier),
        ),
        confidence=_last(trace.p),
        effective_batch=trace.effective_batch,
        status="ok" if ok else "failed",
        error=trace.error,
        sha256=record.digest(files.name(files.images / item.file_name)) if ok else None,
    )


def _last(values: Sequence[float | None]) -> float | None:
    """The value at the last step; None where there was none (out of memory, or no guide)."""
    return values[-1] if values else None
