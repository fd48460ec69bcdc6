"""`higfa predict`: photos in, classes out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from higfa_cli.artifacts.artifact import read_model
from higfa_cli.artifacts.results import ArmRun, Results
from higfa_cli.data.images import read_image
from higfa_cli.errors import UserError
from higfa_cli.models.classifier import load_classifier
from higfa_cli.models.device import resolve_device
from higfa_cli.stages.context import Context
from higfa_cli.training.pictures import load_pictures


def predict(
    model_path: Path, images: Sequence[Path], top: int = 3, device: str = "auto"
) -> list[dict[str, Any]]:
    """The `top` most probable classes of each photo, most probable first.

    Returns rows {"image", "top": [{"class", "probability"}]}, probabilities in [0, 1] after the
    checkpoint's temperature. Raises UserError: no photo, unreadable photo, unusable checkpoint.
    """
    if not images:
        raise UserError("no photo to classify; give at least one", exit_code=2)
    if top < 1:
        raise UserError("--top must be at least 1", exit_code=2)
    classifier = load_classifier(Path(model_path), resolve_device(device))
    paths = [Path(image) for image in images]
    pictures = load_pictures(map(read_image, paths), [0] * len(paths), classifier.spec.image_size)
    classes = classifier.spec.classes
    values, indices = classifier.probabilities(pictures.images).topk(min(top, len(classes)))
    return [
        {
            "image": str(path),
            "top": [
                {"class": classes[index], "probability": value}
                for index, value in zip(ids, row, strict=True)
            ],
        }
        for path, row, ids in zip(paths, values.tolist(), indices.tolist(), strict=True)
    ]


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
