"""`higfa predict`: photos in, classes out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from higfa_cli.artifacts.atomic import read_json
from higfa_cli.data.images import read_image
from higfa_cli.errors import UserError
from higfa_cli.models.classifier import load_classifier
from higfa_cli.models.device import resolve_device
from higfa_cli.stages.arms import RESULTS
from higfa_cli.stages.context import Context
from higfa_cli.stages.train_downstream import NAME, run_dir
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
    path = ctx.workspace / RESULTS
    if not path.is_file():
        raise UserError(f"{path} is missing; run `higfa train-downstream` first, or give --model")

    def val(run: dict[str, Any]) -> float:
        return -1.0 if run["val_accuracy"] is None else float(run["val_accuracy"])

    try:
        arms = read_json(path)["arms"]
        arm = max(arms, key=lambda one: sum(val(run) for run in one["runs"]) / len(one["runs"]))
        run = max(arm["runs"], key=val)
        folder = run_dir(ctx.stage_dir(NAME), str(arm["name"]), int(run["seed"]))
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UserError(
            f"{path} is not as higfa writes it ({type(error).__name__}: {error}); "
            "run `higfa train-downstream --force`"
        ) from None
    model = folder / "model.safetensors"
    if not model.is_file():
        raise UserError(f"{model} is missing; run `higfa train-downstream --force`")
    return model
