"""`higfa predict`: photos in, classes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from higfa_cli.artifacts.artifact import read_model
from higfa_cli.artifacts.results import ArmRun, Results
from higfa_cli.artifacts.workspace import DownstreamFolder
from higfa_cli.data.images import fit_square, read_photo
from higfa_cli.data.layouts.boxes import Box
from higfa_cli.data.layouts.files import image_files
from higfa_cli.errors import UserError
from higfa_cli.models.classifier import Classifier, load_classifier
from higfa_cli.models.device import resolve_device
from higfa_cli.stages.context import Context, load_photos

# Photos that are read before any of them is classified.
_TOGETHER = 128


def predict(
    model_path: Path,
    images: Sequence[Path],
    top: int = 3,
    device: str = "auto",
    boxes: Mapping[Path, Box] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """The `top` most probable classes of each photo, most probable first; folders are walked.

    Returns rows {"image", "top": [{"class", "probability"}]}, probabilities in [0, 1] after the
    checkpoint's temperature, and {"image", "error"} for photos that cannot be used.
    A model of photos that were cut to `boxes` (resolved path -> box) has "whole": true at others.
    Raises UserError: no photo at all, none that can be used, unusable checkpoint.
    """
    if not images:
        raise UserError("no photo to classify; give at least one", exit_code=2)
    if top < 1:
        raise UserError("--top must be at least 1", exit_code=2)
    paths = [path for image in images for path in _photos(Path(image))]
    classifier = load_classifier(Path(model_path), resolve_device(device))
    parts = (paths[start : start + _TOGETHER] for start in range(0, len(paths), _TOGETHER))
    rows = [row for part in parts for row in _predict(classifier, part, top, boxes)]
    if all("error" in row for row in rows):
        raise UserError(rows[0]["error"])
    return rows


def _photos(path: Path) -> list[Path]:
    """The photo itself, or all below a folder. Raises UserError for a folder without any."""
    if not path.is_dir():
        return [path]
    photos = image_files(path)
    if not photos:
        raise UserError(f"no photo lies below {path}; give another folder, or files")
    return photos


def photo_boxes(ctx: Context) -> dict[Path, Box]:
    """Resolved path -> box of the recipe's photos; none where they are not cut to boxes."""
    if not ctx.recipe.data.boxes:
        return {}
    return {photo.path.resolve(): photo.box for photo in load_photos(ctx).samples if photo.box}


def _predict(
    classifier: Classifier, paths: Sequence[Path], top: int, boxes: Mapping[Path, Box]
) -> list[dict[str, Any]]:
    spec = classifier.spec
    rows: list[dict[str, Any]] = []
    fitted = []
    for path in paths:
        try:
            box = boxes.get(path.resolve()) if spec.boxes else None
            fitted.append(fit_square(read_photo(path, spec.crop_bottom, box), spec.image_size))
            whole = {"whole": True} if spec.boxes and box is None else {}
            rows.append({"image": str(path), **whole})
        except UserError as error:
            rows.append({"image": str(path), "error": str(error)})
    if fitted:
        pictures = torch.from_numpy(np.stack(fitted)).permute(0, 3, 1, 2).contiguous()
        best = classifier.probabilities(pictures).topk(min(top, len(spec.classes)))
        good = [row for row in rows if "error" not in row]
        for row, values, ids in zip(good, best.values.tolist(), best.indices.tolist(), strict=True):
            named = zip(ids, values, strict=True)
            row["top"] = [{"class": spec.classes[i], "probability": value} for i, value in named]
    return rows


def best_model(ctx: Context) -> Path:
    """The checkpoint of the arm with the best mean validation accuracy, at its best seed.

    Test accuracy has no say. Ties, and trainings without validation, go to the first.
    Raises UserError when `train-downstream` has not finished.
    """
    files = ctx.ws.downstream
    if not files.results.is_file():
        raise UserError(
            f"{files.results} is missing; run `higfa train-downstream` first, or give --model"
        )

    def accuracy(run: ArmRun) -> float:
        return -1.0 if run.val_accuracy is None else run.val_accuracy

    arms = read_model(files.results, Results).arms
    arm = max(arms, key=lambda arm: sum(map(accuracy, arm.runs)) / len(arm.runs))
    model = files.training(arm.name, max(arm.runs, key=accuracy).seed).model
    if not model.is_file():
        raise UserError(f"{model} is missing; run `higfa train-downstream --force`")
    return model


def credentials(model: Path) -> dict[str, object]:
    """What the results beside a checkpoint say of it: arm, seed, test accuracy, and chance.

    Empty for a checkpoint that has been moved away from them, or where they are broken.
    """
    parents = model.absolute().parents
    files = DownstreamFolder(parents[min(3, len(parents) - 1)])
    try:
        results = read_model(files.results, Results)
    except UserError:
        return {}
    for arm in results.arms:
        for run in arm.runs:
            if files.training(arm.name, run.seed).model == model.absolute():
                return {
                    "arm": arm.name,
                    "seed": run.seed,
                    "test_accuracy": run.test_accuracy,
                    "test_photos": results.counts.test,
                    "chance": 1 / len(results.classes),
                }
    return {}
