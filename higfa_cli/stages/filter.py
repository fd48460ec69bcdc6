"""Stage `filter`: decides which drawn pictures may train, and records why the others may not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache

import numpy as np
import torch

from higfa_cli.artifacts.artifact import read_rows, write_rows
from higfa_cli.artifacts.records import FilterCounts
from higfa_cli.artifacts.rows import PICTURE_FAULTS, PictureRow, SelectionRow
from higfa_cli.artifacts.run_record import stage_run
from higfa_cli.artifacts.safe_paths import contained
from higfa_cli.data.dataset import Dataset
from higfa_cli.data.filter_rules import (
    Measured,
    decide,
    rank_of,
    source_correlation,
    source_thumbnail,
    spread,
    thumbnail,
)
from higfa_cli.data.images import fit_square, read_image
from higfa_cli.errors import UserError
from higfa_cli.models.classifier import Classifier, check_classes, load_classifier
from higfa_cli.models.device import resolve_device
from higfa_cli.stages.context import ArmContext, Context, arms_of, load_photos
from higfa_cli.stages.inputs import filter_inputs, filter_reads_guide

NAME = "filter"
# Pictures that the guide reads at once: few, for they may be large.
_BATCH = 16


def run(ctx: Context, arms: Sequence[str]) -> dict[str, Mapping[str, object]]:
    """Write `selection.jsonl` of each arm; no picture is deleted or moved.

    Returns:
        Arm -> where the selection is, and how many pictures are kept or rejected for which reason.

    Raises:
        UserError: as `inputs`; nothing drawn; every picture rejected (the rows are written).
    """
    return {arm.name: _filter(arm) for arm in arms_of(ctx, NAME, arms)}


def _filter(ctx: ArmContext) -> Mapping[str, object]:
    """One row per drawn picture."""
    dataset = load_photos(ctx)
    inputs = filter_inputs(ctx)
    pictures = ctx.ws.synthesize
    drawn = read_rows(pictures.metadata, PictureRow)
    if not drawn:
        raise UserError(
            f"{pictures.metadata} lists no picture: all failed to draw, for the reasons in "
            f"{pictures.failed}; when that is mended, run `higfa synthesize --retry-failed`"
        )
    guide = None
    if filter_reads_guide(ctx.recipe) and ctx.ws.guide.checkpoint.is_file():
        guide = load_classifier(ctx.ws.guide.checkpoint, resolve_device(ctx.recipe.run.device))
        check_classes(guide, dataset.classes)
    files = ctx.ws.filter
    with stage_run(files.directory, inputs, ctx.recipe) as record:
        record.device = "cpu" if guide is None else str(next(guide.parameters()).device)
        measured = list(_measure(ctx, dataset, drawn, guide))
        decisions = decide(measured, ctx.recipe.filter)
        rows = [
            SelectionRow(
                file_name=row.file_name,
                id=row.id,
                cls=row.cls,
                kept=not reasons,
                reasons=tuple(reasons),
                **asdict(measures),
            )
            for row, measures, reasons in zip(drawn, measured, decisions, strict=True)
        ]
        write_rows(files.selection, rows)
        record.output(files.selection)
        counts = _counts(rows)
        record.counts = counts
        if not counts.kept:
            raise UserError(_all_rejected(ctx, counts))
        empty = [name for name, count in counts.kept_by_class.items() if not count]
        if empty:
            ctx.progress.note(
                f"filter, {ctx.name}: no picture is left of {len(empty)} classes "
                f"({', '.join(empty)}); their real photos train alone"
            )
    return {
        "selection": str(files.selection),
        "pictures": counts.pictures,
        "kept": counts.kept,
        "rejected": counts.rejected,
        "classes_without": empty,
    }


def _measure(
    ctx: ArmContext, dataset: Dataset, drawn: Sequence[PictureRow], guide: Classifier | None
) -> Iterator[Measured]:
    """Every picture in numbers, in the order of `drawn`; photos are read once each."""
    files = ctx.ws.synthesize
    photos = {sample.key: sample for sample in dataset.samples}

    @cache
    def photo_thumbnail(key: str, size: int) -> np.ndarray:
        if key not in photos:
            raise UserError(
                f"source photo {key} of a drawn picture is not among the data; restore it, or run "
                "`higfa contours` and `higfa synthesize` again"
            )
        return source_thumbnail(photos[key].read(), size)

    groups = [drawn[start : start + _BATCH] for start in range(0, len(drawn), _BATCH)]
    for group in ctx.progress.track(groups, NAME):
        pictures = [
            read_image(contained(files.images, row.file_name, files.metadata)) for row in group
        ]
        probabilities = None if guide is None else _probabilities(guide, pictures)
        for index, (row, picture) in enumerate(zip(group, pictures, strict=True)):
            confidence, rank = None, None
            if probabilities is not None:
                if row.class_id >= probabilities.shape[1]:
                    raise UserError(
                        f"{files.metadata}: class_id {row.class_id} is none of the guide's; "
                        "run `higfa synthesize --force`"
                    )
                confidence = float(probabilities[index, row.class_id])
                rank = rank_of(probabilities[index], row.class_id)
            photo = photo_thumbnail(row.source, len(picture))
            yield Measured(
                source=row.source,
                replica=row.replica,
                confidence=confidence,
                rank=rank,
                duplicate=source_correlation(thumbnail(picture), photo),
                std=spread(picture),
            )


def _probabilities(guide: Classifier, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """As `predict` reads files; nothing is cut off pictures of photos that were cut before."""
    fitted = [fit_square(picture, guide.spec.image_size) for picture in pictures]
    stack = np.stack([picture.transpose(2, 0, 1) for picture in fitted])
    return guide.probabilities(torch.from_numpy(stack)).numpy()


def _counts(rows: Sequence[SelectionRow]) -> FilterCounts:
    rejected = Counter(reason for row in rows for reason in row.reasons)
    kept = Counter(row.cls for row in rows if row.kept)
    return FilterCounts(
        pictures=len(rows),
        kept=kept.total(),
        rejected={reason: rejected[reason] for reason in PICTURE_FAULTS},
        kept_by_class={name: kept[name] for name in sorted({row.cls for row in rows})},
    )


def _all_rejected(ctx: ArmContext, counts: FilterCounts) -> str:
    settings = ctx.recipe.filter.model_dump()
    rejecting = [
        f"filter.{reason} {settings[reason]} rejects {count}"
        for reason, count in counts.rejected.items()
        if count
    ]
    return (
        f"the filter leaves none of {counts.pictures} pictures of {ctx.name}: "
        f"{', '.join(rejecting)}; loosen "
        f"{'these keys' if len(rejecting) > 1 else 'this key'}, with the measures in "
        f"{ctx.ws.filter.selection}"
    )
