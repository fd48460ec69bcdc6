"""Stage `contours`: edges of the training photos, each under drawn geometric transforms."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from higfa_cli.artifacts.atomic import write_bytes, write_jsonl
from higfa_cli.artifacts.fingerprint import hash_bytes, hash_file
from higfa_cli.artifacts.names import class_dir
from higfa_cli.artifacts.run_record import StageInputs, StageRun, stage_run
from higfa_cli.artifacts.seeds import seed_for
from higfa_cli.contour.extract import edge_fraction, extract
from higfa_cli.contour.transform import apply_transform, draw_transform
from higfa_cli.data.dataset import Dataset, Sample, load_dataset
from higfa_cli.data.images import encode_png
from higfa_cli.errors import UserError
from higfa_cli.recipe.schema import Contours
from higfa_cli.stages.context import Context

NAME = "contours"
MANIFEST = "manifest.jsonl"
# Raised whenever the same inputs would give other files.
VERSION = 1
_LONGEST_STEM = 120


def inputs(ctx: Context) -> StageInputs:
    """What the contours depend on: their keys, the seed, and the content of the wanted splits.

    Raises UserError when the data is missing or broken, or has no images in a wanted split.
    """
    return _inputs(ctx, _dataset(ctx))


def run(ctx: Context) -> dict[str, Any]:
    """Write `images/<class>/<stem>-<k>.png` and `manifest.jsonl`; returns a summary.

    One image per photo of `contours.splits` and k < `contours.per_image`. Raises UserError naming
    the photo when it cannot be read or has no edges; then there is no manifest.
    """
    dataset = _dataset(ctx)
    recipe = ctx.recipe.contours
    samples = [sample for split in recipe.splits for sample in dataset.of(split)]
    stems = _stems(samples)
    rows: list[dict[str, Any]] = []
    directory = ctx.stage_dir(NAME)
    with stage_run(directory, _inputs(ctx, dataset), ctx.recipe) as stage:
        for sample in ctx.progress.track(samples, "contours", total=len(samples)):
            rows += _contours_of(sample, stems[sample.key], recipe, ctx.recipe.seed, stage)
        write_jsonl(directory / MANIFEST, rows)
        stage.output(directory / MANIFEST)
        summary = _summary(directory, dataset, samples, rows)
        stage.counts |= {"images": len(rows), "sources": len(samples)}
    return summary


def _inputs(ctx: Context, dataset: Dataset) -> StageInputs:
    recipe = ctx.recipe
    return StageInputs(
        # Of the data keys only these: where the folder lies does not change a contour, and
        # everything else about it is in the content hashes.
        parameters={
            "version": VERSION,
            "seed": recipe.seed,
            "contours": recipe.contours.model_dump(mode="json"),
            "data": recipe.data.model_dump(mode="json", include={"layout", "shots", "crop_bottom"}),
        },
        files={f"data/{split}": dataset.fingerprint(split) for split in recipe.contours.splits},
    )


def _dataset(ctx: Context) -> Dataset:
    splits = ctx.recipe.contours.splits
    if not splits or len(set(splits)) < len(splits):
        raise UserError("contours.splits must name each wanted split once, for example [train]")
    dataset = load_dataset(ctx.recipe.data, ctx.base, ctx.recipe.seed)
    for split in splits:
        if not dataset.of(split):
            raise UserError(
                f"contours.splits asks for `{split}`, but {ctx.recipe.data.root} has no images in "
                f"it (present: {', '.join(dataset.splits)}); remove it from contours.splits"
            )
    return dataset


def _contours_of(
    sample: Sample, stem: str, recipe: Contours, seed: int, stage: StageRun
) -> list[dict[str, Any]]:
    """Write the transformed contours of one photo and return their manifest rows."""
    contour = extract(sample.read(), recipe)
    if not contour.any():
        raise UserError(f"{sample.path} has no edges; {_more_edges(recipe)}, or leave it out")
    source_sha256 = hash_file(sample.path)
    rows: list[dict[str, Any]] = []
    for index in range(recipe.per_image):
        draw = seed_for(seed, NAME, sample.cls, sample.key, index)
        record = draw_transform(recipe.transforms, np.random.default_rng(draw))
        moved = apply_transform(contour, record)
        if not moved.any():
            raise UserError(
                f"{sample.path}: its transformed contour {index} is empty; lower "
                "contours.transforms.translation or contours.transforms.scale"
            )
        png = encode_png(moved)
        name = f"images/{class_dir(sample.cls)}/{stem}-{index}.png"
        write_bytes(stage.directory / name, png)
        stage.output(stage.directory / name)
        rows.append(
            {
                "file_name": name,
                "class": sample.cls,
                "class_id": sample.class_id,
                "source": sample.key,
                "source_sha256": source_sha256,
                "split": sample.split,
                "index": index,
                "transform": record.to_dict(),
                "edge_fraction": edge_fraction(moved),
                "sha256": hash_bytes(png),
            }
        )
    return rows


def _more_edges(recipe: Contours) -> str:
    if recipe.extractor == "canny":
        return "lower contours.canny_low, contours.canny_high or contours.blur"
    return "lower contours.blur"


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
            digest = hashlib.sha256(sample.key.encode("utf-8")).hexdigest()
            stem = f"{stem[:_LONGEST_STEM]}-{digest[:8]}"
        stems[sample.key] = stem
    return stems


def _summary(
    directory: Path, dataset: Dataset, samples: Sequence[Sample], rows: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    fractions = [row["edge_fraction"] for row in rows]
    return {
        "stage": NAME,
        "directory": str(directory),
        "classes": len(dataset.classes),
        "splits": dict(Counter(sample.split for sample in samples)),
        "sources": len(samples),
        "images": len(rows),
        "edge_fraction": {
            "min": min(fractions),
            "mean": sum(fractions) / len(fractions),
            "max": max(fractions),
        },
    }
