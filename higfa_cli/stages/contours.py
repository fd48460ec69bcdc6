"""Stage `contours`: edges of the training photos, each under drawn geometric transforms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np

from higfa_cli.artifacts.artifact import write_rows
from higfa_cli.artifacts.atomic import write_bytes
from higfa_cli.artifacts.class_folders import class_dir, class_dirs
from higfa_cli.artifacts.fingerprint import hash_bytes, hash_file
from higfa_cli.artifacts.records import ContourCounts, PhotoCounts
from higfa_cli.artifacts.rows import (
    PHOTO_FAULTS,
    ContourRow,
    EdgeFault,
    RejectedRow,
    TransformRecord,
)
from higfa_cli.artifacts.run_record import StageRun, stage_run
from higfa_cli.artifacts.seeds import seed_for
from higfa_cli.data.dataset import Sample, photo_boxes
from higfa_cli.data.images import encode_png
from higfa_cli.data.layouts.common import Row
from higfa_cli.data.rejected import (
    Rejected,
    by_reason,
    check_share,
    first_of,
    rejection,
    scan,
    write_rejected,
)
from higfa_cli.errors import UserError
from higfa_cli.recipe.contours import Contours
from higfa_cli.stages.context import Context, usable_photos
from higfa_cli.stages.inputs import checked_listing, contour_inputs, edge_state

NAME = "contours"
_LONGEST_STEM = 120


def run(ctx: Context) -> Mapping[str, object]:
    """Write `images/<class>/<stem>-<k>.png`, `manifest.jsonl`, `rejected.jsonl` and `sheet.png`.

    Every photo of every split is decoded first; those that cannot be used are listed with their
    reasons, and the later stages leave them out too. Then one image per photo of
    `contours.splits` and k < `contours.per_image`; a photo of too few or too many edges
    (`contours.edge_fraction`) is listed and gives none, but trains.

    Returns:
        What was counted; "edge_fraction" is the share of edge pixels in a contour.

    Raises:
        UserError: more rejected than `data.max_bad` (the list is written, the manifest is not), a
            class without a usable training photo, or without a single contour.
    """
    # Not at the top: OpenCV is not needed to say what is fresh.
    from higfa_cli.contour.sheet import contour_sheet

    listing = checked_listing(ctx)
    files, recipe, data = ctx.ws.contours, ctx.recipe.contours, ctx.recipe.data
    with stage_run(files.directory, contour_inputs(ctx, anew=True), ctx.recipe) as stage:
        found = len(listing.rows)
        track = partial(ctx.progress.track, description="checking photos", total=found)
        rejected = scan(listing, data.crop_bottom, photo_boxes(data, listing), track)
        _list(ctx, stage, rejected)
        dataset = usable_photos(ctx, Rejected(files.rejected, tuple(rejected)))
        samples = [sample for split in recipe.splits for sample in dataset.of(split)]
        rows, edgeless = _extract(ctx, samples, stage)
        rejected += edgeless
        _list(ctx, stage, rejected)
        write_bytes(files.sheet, contour_sheet(ctx.recipe, files, samples, rows, edgeless))
        stage.output(files.sheet)
        check_share(rejected, found, data.max_bad, files.rejected)
        _check_classes(samples, rows, edgeless, recipe)
        write_rows(files.manifest, rows)
        stage.output(files.manifest)
        photos = PhotoCounts(found=found, accepted=found - len(rejected), rejected=len(rejected))
        sources = len(samples) - len(edgeless)
        counts = ContourCounts(images=len(rows), sources=sources, photos=photos)
        stage.counts = counts
    if rejected:
        ctx.progress.note(
            f"warning: {len(rejected)} of {found} photos were left out ({by_reason(rejected)}): "
            f"{first_of(rejected)}; all in {files.rejected}, contours in {files.sheet}"
        )
    reasons = Counter(row.reason for row in rejected)
    fractions = [row.edge_fraction for row in rows]
    mean = sum(fractions) / len(fractions)
    return {
        "classes": len(dataset.classes),
        **counts.plain(),
        "edge_fraction": {"min": min(fractions), "mean": mean, "max": max(fractions)},
        "rejected": {reason: reasons[reason] for reason in PHOTO_FAULTS if reasons[reason]},
        "rejected_list": str(files.rejected),
        "sheet": str(files.sheet),
    }


def _list(ctx: Context, stage: StageRun, rejected: Sequence[RejectedRow]) -> None:
    write_rejected(ctx.ws.contours.rejected, rejected)
    stage.output(ctx.ws.contours.rejected)


def _extract(
    ctx: Context, samples: Sequence[Sample], stage: StageRun
) -> tuple[list[ContourRow], list[RejectedRow]]:
    """Write the contours of the photos; returns their manifest rows, and the photos without any."""
    from higfa_cli.contour.extract import edge_fraction

    recipe, stems, files = ctx.recipe, _stems(samples), ctx.ws.contours
    folders = class_dirs(sample.cls for sample in samples)
    rows: list[ContourRow] = []
    edgeless: list[RejectedRow] = []
    for sample in ctx.progress.track(samples, NAME, total=len(samples)):
        try:
            drawn = _contours_of(sample, recipe.contours, recipe.size, recipe.seed)
        except _EdgesError as error:
            photo = Row(sample.key, sample.cls, sample.split)
            state = edge_state(ctx, sample.path, sample.box)
            edgeless.append(rejection(photo, error.reason, str(error), state))
            continue
        source_sha256 = hash_file(sample.path)
        for index, (moved, record) in enumerate(drawn):
            png = encode_png(moved)
            path = files.image(folders[sample.cls], stems[sample.key], index)
            write_bytes(path, png)
            stage.output(path)
            rows.append(
                ContourRow(
                    file_name=files.name(path),
                    cls=sample.cls,
                    class_id=sample.class_id,
                    source=sample.key,
                    source_sha256=source_sha256,
                    split=sample.split,
                    index=index,
                    transform=record,
                    edge_fraction=edge_fraction(moved),
                    sha256=hash_bytes(png),
                )
            )
    return rows, edgeless


class _EdgesError(Exception):
    """A photo of which not every contour has edges within bounds; says which has not."""

    def __init__(self, reason: EdgeFault, message: str) -> None:
        super().__init__(message)
        self.reason: EdgeFault = reason


def _contours_of(
    sample: Sample, recipe: Contours, size: int, seed: int
) -> list[tuple[np.ndarray, TransformRecord]]:
    """The transformed contours of one photo."""
    from higfa_cli.contour.extract import edge_fraction, extract
    from higfa_cli.contour.transform import apply_transform, draw_transform

    least, most = recipe.edge_fraction

    def check(contour: np.ndarray, what: str, hint: str = "") -> None:
        part = edge_fraction(contour)
        if not contour.any():
            raise _EdgesError("no-edges", f"its {what} is empty{hint}")
        if not least <= part <= most:
            reason: EdgeFault = "few-edges" if part < least else "many-edges"
            bound = least if part < least else most
            # As many digits as show on which side of the bound it is.
            digits = next(d for d in count(4) if (round(part, d) - bound) * (part - bound) > 0)
            share = f"{part:.{digits}f}"
            raise _EdgesError(reason, f"{share} of its {what} is edge; the bound is {bound}")

    contour = extract(sample.read(), recipe, size)
    check(contour, "contour")
    drawn = []
    for index in range(recipe.per_image):
        draw = seed_for(seed, NAME, sample.cls, sample.key, index)
        record = draw_transform(recipe.transforms, np.random.default_rng(draw))
        moved = apply_transform(contour, record)
        hint = "; a lower contours.transforms.translation or contours.transforms.scale may help"
        check(moved, f"transformed contour {index}", hint)
        drawn.append((moved, record))
    return drawn


def _check_classes(
    samples: Sequence[Sample],
    rows: Sequence[ContourRow],
    edgeless: Sequence[RejectedRow],
    recipe: Contours,
) -> None:
    """A class of which nothing could be drawn is an error, not a shorter run."""
    canny = "contours.canny_low, contours.canny_high, " if recipe.extractor == "canny" else ""
    drawn = {row.cls for row in rows}
    for sample in samples:
        if sample.cls not in drawn:
            why = by_reason(row for row in edgeless if row.cls == sample.cls)
            raise UserError(
                f"no photo of class `{sample.cls}` gives a contour ({sample.path} and others: "
                f"{why}); change {canny}contours.blur or contours.edge_fraction, or replace its "
                "photos"
            )


def _stems(samples: Sequence[Sample]) -> dict[str, str]:
    """Sample.key -> stem of its file names, unique within the class on any file system.

    Photos of one class that share a stem (`a.jpg` and `a.png`) get a piece of their key's hash.
    """
    plain = {sample.key: class_dir(Path(sample.key).stem or "_") for sample in samples}
    shared = Counter((sample.cls, plain[sample.key].lower()) for sample in samples)
    stems: dict[str, str] = {}
    for sample in samples:
        stem = plain[sample.key]
        if shared[sample.cls, stem.lower()] > 1 or len(stem) > _LONGEST_STEM:
            digest = hash_bytes(sample.key.encode("utf-8"))
            stem = f"{stem[:_LONGEST_STEM]}-{digest[:8]}"
        stems[sample.key] = stem
    return stems
