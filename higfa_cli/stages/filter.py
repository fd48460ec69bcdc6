"""Stage `filter`: decides which drawn pictures may train, and records why the others may not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from higfa_cli.artifacts.atomic import write_jsonl
from higfa_cli.artifacts.fingerprint import hash_file
from higfa_cli.artifacts.run_record import StageInputs, stage_run
from higfa_cli.artifacts.safe_paths import checked_rows, contained
from higfa_cli.data.dataset import Dataset
from higfa_cli.data.filter_rules import (
    REASONS,
    Measured,
    Reason,
    decide,
    guide_keys,
    rank_of,
    source_correlation,
    source_thumbnail,
    spread,
    thumbnail,
)
from higfa_cli.data.images import read_image
from higfa_cli.errors import UserError
from higfa_cli.models.classifier import Classifier, check_classes, load_classifier
from higfa_cli.models.device import resolve_device
from higfa_cli.stages.context import Context
from higfa_cli.stages.photos import load_photos

NAME = "filter"
VERSION = 1
SELECTION = "selection.jsonl"
METADATA = "synthesize/images/metadata.jsonl"
GUIDE = "finetune-guide/guide.safetensors"
# Pictures that the guide reads at once: few, for they may be large.
_BATCH = 16
_DRAWN: dict[str, type] = {
    "file_name": str,
    "id": str,
    "class": str,
    "class_id": int,
    "source": str,
    "replica": int,
}


def inputs(ctx: Context) -> StageInputs:
    """What the selection depends on: its keys, the pictures, the guide where it is used, photos.

    Raises:
        UserError: no pictures, or a key asks for a guide that is not there.
    """
    return _inputs(ctx, load_photos(ctx))


def run(ctx: Context) -> dict[str, Any]:
    """Write `selection.jsonl`, one row per drawn picture; no picture is deleted or moved.

    Returns:
        Where the selection is, and how many pictures are kept or rejected for which reason.

    Raises:
        UserError: as `inputs`; nothing drawn; every picture rejected (the rows are written).
    """
    dataset = load_photos(ctx)
    known = _inputs(ctx, dataset)
    drawn = checked_rows(ctx.workspace / METADATA, _DRAWN)
    if not drawn:
        raise UserError(
            f"{ctx.workspace / METADATA} lists no picture: all failed to draw, for the reasons in "
            f"{ctx.stage_dir('synthesize') / 'failed.jsonl'}; "
            "when that is mended, run `higfa synthesize --retry-failed`"
        )
    guide = _guide(ctx, dataset)
    directory = ctx.stage_dir(NAME)
    with stage_run(directory, known, ctx.recipe) as record:
        record.device = "cpu" if guide is None else str(next(guide.parameters()).device)
        measured = list(_measure(ctx, dataset, drawn, guide))
        decisions = decide(measured, ctx.recipe.filter)
        rows = [_row(*one) for one in zip(drawn, measured, decisions, strict=True)]
        write_jsonl(directory / SELECTION, rows)
        record.output(directory / SELECTION)
        record.counts |= _counts(rows)
        if not record.counts["kept"]:
            raise UserError(_all_rejected(ctx, record.counts))
        empty = [name for name, count in record.counts["kept_by_class"].items() if not count]
        if empty:
            ctx.progress.note(
                f"filter: no picture is left of {len(empty)} classes ({', '.join(empty)}); "
                "their real photos train alone"
            )
    summary = {key: record.counts[key] for key in ("pictures", "kept", "rejected")}
    return {"selection": str(directory / SELECTION), **summary, "classes_without": empty}


def _inputs(ctx: Context, dataset: Dataset) -> StageInputs:
    recipe = ctx.recipe
    path = ctx.workspace / METADATA
    if not path.is_file():
        raise UserError(f"{path} is missing; run `higfa synthesize` first")
    files = {METADATA: hash_file(path)}
    keys, guide = guide_keys(recipe.filter), ctx.workspace / GUIDE
    if _reads_guide(ctx) and guide.is_file():
        files[GUIDE] = hash_file(guide)
    elif keys:
        raise UserError(
            f"{', '.join(keys)}: {guide} is missing; run `higfa finetune-guide` first, or leave "
            f"{'these keys' if len(keys) > 1 else 'this key'} out of the recipe"
        )
    files |= {f"data/{split}": dataset.fingerprint(split) for split in recipe.contours.splits}
    parameters = {
        "version": VERSION,
        "filter": recipe.filter.model_dump(mode="json"),
        "data": recipe.data.model_dump(mode="json", include={"crop_bottom"}),
        "classes": list(dataset.classes),
    }
    return StageInputs(parameters, files)


def _reads_guide(ctx: Context) -> bool:
    """Whether a key needs the guide, or the sampler had it, so that its measures are of use."""
    return ctx.recipe.guidance.consulted or bool(guide_keys(ctx.recipe.filter))


def _guide(ctx: Context, dataset: Dataset) -> Classifier | None:
    path = ctx.workspace / GUIDE
    if not _reads_guide(ctx) or not path.is_file():
        return None
    guide = load_classifier(path, resolve_device(ctx.recipe.run.device))
    check_classes(guide, dataset.classes)
    return guide


def _measure(
    ctx: Context, dataset: Dataset, drawn: Sequence[Mapping[str, Any]], guide: Classifier | None
) -> Iterator[Measured]:
    """Every picture in numbers, in the order of `drawn`; photos are read once each."""
    photos = _Photos(dataset)
    images = (ctx.workspace / METADATA).parent
    groups = [drawn[start : start + _BATCH] for start in range(0, len(drawn), _BATCH)]
    for group in ctx.progress.track(groups, NAME):
        pictures = [
            read_image(contained(images, row["file_name"], ctx.workspace / METADATA))
            for row in group
        ]
        probabilities = None if guide is None else _probabilities(guide, pictures)
        for index, (row, picture) in enumerate(zip(group, pictures, strict=True)):
            confidence, rank = None, None
            if probabilities is not None:
                if not 0 <= row["class_id"] < probabilities.shape[1]:
                    raise UserError(
                        f"{ctx.workspace / METADATA}: class_id {row['class_id']} is none of the "
                        "guide's; run `higfa synthesize --force`"
                    )
                confidence = float(probabilities[index, row["class_id"]])
                rank = rank_of(probabilities[index], row["class_id"])
            photo = photos.thumbnail(row["source"], len(picture))
            yield Measured(
                source=row["source"],
                replica=row["replica"],
                confidence=confidence,
                rank=rank,
                duplicate=source_correlation(thumbnail(picture), photo),
                std=spread(picture),
            )


def _probabilities(guide: Classifier, pictures: Sequence[np.ndarray]) -> np.ndarray:
    stack = np.stack([picture.transpose(2, 0, 1) for picture in pictures])
    return guide.probabilities(torch.from_numpy(stack)).numpy()


class _Photos:
    """Thumbnails of source photos, each photo read once."""

    def __init__(self, dataset: Dataset) -> None:
        self._samples = {sample.key: sample for sample in dataset.samples}
        self._known: dict[tuple[str, int], np.ndarray] = {}

    def thumbnail(self, key: str, size: int) -> np.ndarray:
        """Raises UserError for a photo that is not among the data or cannot be read."""
        if key not in self._samples:
            raise UserError(
                f"source photo {key} of a drawn picture is not among the data; restore it, or run "
                "`higfa contours` and `higfa synthesize` again"
            )
        if (key, size) not in self._known:
            self._known[key, size] = source_thumbnail(self._samples[key].read(), size)
        return self._known[key, size]


def _row(drawn: Mapping[str, Any], measured: Measured, reasons: Sequence[Reason]) -> dict[str, Any]:
    return {
        "file_name": drawn["file_name"],
        "id": drawn["id"],
        "class": drawn["class"],
        "source": measured.source,
        "replica": measured.replica,
        "kept": not reasons,
        "reasons": list(reasons),
        "confidence": measured.confidence,
        "rank": measured.rank,
        "duplicate": measured.duplicate,
        "std": measured.std,
    }


def _counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Totals; a picture that is rejected for two reasons counts under both."""
    rejected = Counter(reason for row in rows for reason in row["reasons"])
    kept = Counter(row["class"] for row in rows if row["kept"])
    return {
        "pictures": len(rows),
        "kept": kept.total(),
        "rejected": {reason: rejected[reason] for reason in REASONS},
        "kept_by_class": {name: kept[name] for name in sorted({row["class"] for row in rows})},
    }


def _all_rejected(ctx: Context, counts: Mapping[str, Any]) -> str:
    settings = ctx.recipe.filter.model_dump()
    said = [
        f"filter.{reason} {settings[reason]} rejects {count}"
        for reason, count in counts["rejected"].items()
        if count
    ]
    return (
        f"the filter leaves none of {counts['pictures']} pictures: {', '.join(said)}; loosen "
        f"{'these keys' if len(said) > 1 else 'this key'}, with the measures in "
        f"{ctx.stage_dir(NAME) / SELECTION}"
    )
