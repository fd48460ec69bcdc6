"""The pictures of one arm: a plan in batches, and the files of each batch.

Pictures are written first and their traces last, so a batch with traces is whole.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from higfa_cli.artifacts.artifact import read_model, read_rows, write_model, write_rows
from higfa_cli.artifacts.atomic import write_bytes
from higfa_cli.artifacts.plan import batches, in_batches
from higfa_cli.artifacts.records import SynthesisCounts
from higfa_cli.artifacts.rows import (
    LastStrengths,
    PictureRow,
    PlanFile,
    PlanItem,
    Planned,
    TraceRow,
)
from higfa_cli.artifacts.run_record import StageInputs, StageRun
from higfa_cli.artifacts.stage_state import read_record
from higfa_cli.artifacts.workspace import SynthesizeFolder
from higfa_cli.data.images import encode_png, fit_square
from higfa_cli.errors import UserError
from higfa_cli.models.device import resolve_device
from higfa_cli.models.draw import evaluations
from higfa_cli.recipe.arms import GALLERY
from higfa_cli.stages.context import ArmContext, load_photos
from higfa_cli.stages.drawing import Models, batch_size, costliest_step, draw_items, torch_threads

Batch = Sequence[PlanItem]


@dataclass(frozen=True)
class ArmJob:
    """The pictures of an arm, and all that drawing them takes."""

    ctx: ArmContext
    inputs: StageInputs
    models: Models
    items: tuple[PlanItem, ...]

    @property
    def files(self) -> SynthesizeFolder:
        """Where they go."""
        return self.ctx.ws.synthesize

    def settle(self, record: StageRun, workers: int = 1) -> tuple[PlanFile, list[Batch]]:
        """Write plan.json and plan.jsonl, or follow those of an earlier run of the same inputs.

        Returns what all who draw the plan must have in common, and the batches in their order.
        Raises UserError: the plan was settled on another kind of device.
        """
        recipe, files = self.ctx.recipe, self.files
        device = resolve_device(recipe.run.device).type
        if record.is_kept(files.name(files.plan)):
            record.keep(files.name(files.plan))
        else:
            written = PlanFile(
                batch_size=self._batch_size(),
                probed=recipe.run.batch_size == "auto",
                pictures=len(self.items),
                device=device,
                threads=max(1, torch.get_num_threads() // workers),
                dtype=recipe.model.dtype,
            )
            write_model(files.plan, written)
            record.output(files.plan)
        plan = read_model(files.plan, PlanFile)
        if plan.device.split(":")[0] != device:
            raise UserError(
                f"{files.plan} was begun on {plan.device}, and {device} draws slightly other "
                f"pictures; go on with --device {plan.device}, or start again with --force"
            )
        items = in_batches(self.items, plan.batch_size)
        if record.is_kept(files.name(files.items)):
            record.keep(files.name(files.items))
        else:
            write_rows(files.items, items)
            record.output(files.items)
        return plan, list(batches(items))

    def is_whole(self, record: StageRun, group: Batch, retry_failed: bool = False) -> bool:
        """Whether all files of a batch are there from before; with `retry_failed` none may fail."""
        trace = self.files.trace(group[0].batch)
        if not record.is_kept(self.files.name(trace)) or not trace.is_file():
            return False
        traces = read_rows(trace, TraceRow)
        if retry_failed and any(row.error is not None for row in traces):
            return False
        return all(map(record.is_kept, self._names(group, traces)))

    def draw(self, record: StageRun, groups: Sequence[Batch], retry_failed: bool = False) -> int:
        """Every batch drawn or taken over; returns how many pictures were drawn now."""
        drawn = 0
        for group in self.ctx.progress.track(groups, f"synthesize {self.ctx.name}"):
            if self.is_whole(record, group, retry_failed):
                traces = read_rows(self.files.trace(group[0].batch), TraceRow)
                for name in self._names(group, traces):
                    record.keep(name)
            else:
                self._draw_batch(record, group)
                drawn += len(group)
        return drawn

    def finish(self, record: StageRun, retry_failed: bool = False) -> Mapping[str, object]:
        """Draw what is missing of the plan, then everything that is made of the whole."""
        recipe, files = self.ctx.recipe, self.files
        plan, groups = self.settle(record)
        with torch_threads(plan.threads):
            drawn = self.draw(record, groups, retry_failed)
            model, _ = self.models.of(self.ctx)
            record.device = str(model.device)
            rows = [row for group in groups for row in self._rows(record, group)]
            self._write_metadata(record, rows)
            if self.ctx.name == GALLERY:
                self._write_sources(record)
        levels = model.solver(recipe.sampling.steps).levels
        denoiser, passes = evaluations(recipe.guidance, levels)
        seconds = sum(record.seconds.values())
        failures = Counter(row.error.split(":")[0] for row in rows if row.error is not None)
        on_gpu = model.device.type == "cuda"
        counts = SynthesisCounts(
            images=len(rows) - failures.total(),
            failed=failures.total(),
            failures=dict(sorted(failures.items())),
            smallest_batch=min((row.effective_batch for row in rows), default=None),
            drawn_now=drawn,
            seconds=round(seconds, 3),
            seconds_per_image=round(seconds / len(rows), 4),
            denoiser_evaluations_per_image=denoiser,
            guide_evaluations_per_image=passes,
            batch_size=plan.batch_size,
            dtype=recipe.model.dtype,
            peak_device_memory=torch.cuda.max_memory_allocated(model.device) if on_gpu else None,
        )
        record.counts = counts
        return {"output": str(files.images), **counts.plain()}

    def closed(self) -> Mapping[str, object] | None:
        """The summary of an arm that is finished with these inputs."""
        record = read_record(self.files.directory)
        if record.status != "done" or record.inputs.key != self.inputs.key:
            return None
        return {"output": str(self.files.images), **record.counts}

    def _batch_size(self) -> int:
        wanted = self.ctx.recipe.run.batch_size
        if wanted != "auto":
            return wanted
        model, guide = self.models.of(self.ctx)
        return batch_size(self.ctx, model, costliest_step(self.ctx, model, guide, self.items[0]))

    def _draw_batch(self, record: StageRun, group: Batch) -> None:
        started = time.perf_counter()
        model, guide = self.models.of(self.ctx)
        finished = draw_items(self.ctx, model, guide, self.ctx.recipe.guidance, group)
        traces = []
        for item, drawn in zip(group, finished, strict=True):
            path = self.files.images / item.file_name
            if drawn.pixels is not None:
                write_bytes(path, encode_png(drawn.pixels))
                record.output(path)
            row = {"id": item.id, "error": drawn.error, "effective_batch": drawn.effective_batch}
            traces.append(TraceRow.model_validate(row | drawn.trace))
        trace = self.files.trace(group[0].batch)
        write_rows(trace, traces)
        record.output(trace, seconds=round(time.perf_counter() - started, 4))

    def _names(self, group: Batch, traces: Sequence[TraceRow]) -> list[str]:
        """The outputs of a whole batch: its trace, and the pictures that did not fail."""
        failed = {row.id for row in traces if row.error is not None}
        pictures = [self.files.images / item.file_name for item in group if item.id not in failed]
        return [self.files.name(path) for path in (self.files.trace(group[0].batch), *pictures)]

    def _rows(self, record: StageRun, group: Batch) -> list[PictureRow]:
        """One row per picture of a finished batch, from its plan and its trace."""
        traces = {row.id: row for row in read_rows(self.files.trace(group[0].batch), TraceRow)}
        rows = []
        for item, trace in ((item, traces[item.id]) for item in group):
            ok = trace.error is None
            name = self.files.name(self.files.images / item.file_name)
            rows.append(
                PictureRow(
                    **{key: getattr(item, key) for key in Planned.model_fields},
                    strengths=LastStrengths(
                        text=_last(trace.s_text),
                        contour=_last(trace.s_contour),
                        classifier=_last(trace.s_classifier),
                    ),
                    confidence=_last(trace.p),
                    effective_batch=trace.effective_batch,
                    status="ok" if ok else "failed",
                    error=trace.error,
                    sha256=record.digest(name) if ok else None,
                )
            )
        return rows

    def _write_metadata(self, record: StageRun, rows: Sequence[PictureRow]) -> None:
        """Rows of pictures beside them; rows of failed ones apart, for they have no file."""
        files, failed = self.files, [row for row in rows if row.status == "failed"]
        write_rows(files.metadata, [row for row in rows if row.status == "ok"])
        record.output(files.metadata)
        if failed:
            write_rows(files.failed, failed)
            record.output(files.failed)
        else:
            files.failed.unlink(missing_ok=True)

    def _write_sources(self, record: StageRun) -> None:
        """The photos of the gallery's pictures beside them, so that the report needs no data."""
        photos = {sample.key: sample for sample in load_photos(self.ctx).samples}
        for item in self.items:
            path, photo = self.files.source(item.id), photos[item.source].read()
            write_bytes(path, encode_png(fit_square(photo, self.ctx.recipe.size)))
            record.output(path)


def _last(values: Sequence[float | None]) -> float | None:
    """The value at the last step; None where there was none (out of memory, or no guide)."""
    return values[-1] if values else None
