"""Arms drawn by stage `synthesize` in their workspace, and read again.

What was drawn stays: an arm whose inputs have not changed is only read, one that was stopped is
finished, and what other inputs made comes back with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from higfa_cli.artifacts.artifact import read_rows
from higfa_cli.artifacts.rows import TraceRow
from higfa_cli.artifacts.stage_state import read_record, stage_state
from higfa_cli.data.images import read_image
from higfa_cli.models.classifier import load_classifier
from higfa_cli.models.device import resolve_device
from higfa_cli.stages import synthesize
from higfa_cli.stages.drawing import read_contour, torch_threads
from higfa_cli.stages.inputs import synthesize_inputs
from tools.pocket.lab.samples import Samples

GREY = 128


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Pictures of known classes: an arm's in the order of its items, or photos.

    Attributes:
        pictures: uint8 [N, 3, S, S]; grey where drawing failed.
        labels: target classes, int64 [N].
        failed: bool [N]: never finished. They agree with no label, and no other figure knows them.
        contours: asked contours, uint8 [N, S, S]; of photos none.
        traces: per picture; of photos none.
        guide_p: the guide's probability of the target class on the finished picture, [N]; NaN
            where the workspace has no guide or drawing failed; of photos none.
        seconds: of drawing, added up over processes of one thread each.
    """

    pictures: Tensor
    labels: Tensor
    failed: Tensor
    contours: Tensor = field(default_factory=lambda: torch.zeros(0))
    traces: tuple[TraceRow, ...] = ()
    guide_p: Tensor = field(default_factory=lambda: torch.zeros(0))
    seconds: float = 0.0


def draw(samples: Samples, arms: Sequence[str], workers: int = 1) -> None:
    """Draw what is missing of the arms. Raises UserError as stage `synthesize`."""
    missing = [
        arm.name
        for arm in map(samples.ctx.arm, arms)
        if stage_state(arm.ws.synthesize.directory, synthesize_inputs(arm)).kind != "fresh"
    ]
    if missing:
        with torch_threads(1):
            synthesize.run(samples.ctx, missing, workers=workers)


def read_arm(samples: Samples, name: str) -> Pictures:
    """An arm that is drawn. Raises UserError for a file that is missing or broken."""
    ctx, items = samples.ctx.arm(name), samples.items
    files, labels, size = ctx.ws.synthesize, samples.labels, ctx.recipe.size
    rows = {row.id: row for path in files.all_traces() for row in read_rows(path, TraceRow)}
    traces = tuple(rows[item.id] for item in items)
    grey = np.full((size, size, 3), GREY, np.uint8)
    drawn = [
        grey if trace.error is not None else read_image(files.images / item.file_name)
        for item, trace in zip(items, traces, strict=True)
    ]
    pictures = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).contiguous()
    failed = torch.tensor([trace.error is not None for trace in traces])
    guide_p = torch.full((len(items),), torch.nan)
    if samples.guide is not None:
        guide = load_classifier(samples.guide, resolve_device(ctx.recipe.run.device))
        p = guide.probabilities(pictures)[torch.arange(len(items)), labels]
        guide_p = p.masked_fill(failed, torch.nan)
    contours = torch.stack([read_contour(ctx, item)[0] for item in items])
    return Pictures(
        pictures=pictures,
        labels=labels,
        failed=failed,
        contours=(contours * 255).round().to(torch.uint8),
        traces=traces,
        guide_p=guide_p,
        seconds=sum(read_record(files.directory).output_seconds.values()),
    )
