"""`higfa predict` and `higfa export`: what a trained model is good for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from higfa_cli.cli.guard import complain
from higfa_cli.cli.options import DeviceFlags, RecipeFlags, silence_libraries
from higfa_cli.cli.output import print_json, print_line, print_result, stdout_for_result
from higfa_cli.cli.stage import WITH_FAILURES
from higfa_cli.errors import UserError
from higfa_cli.text import plural

ModelFlag = Annotated[
    Path | None, typer.Option(help="A model.safetensors, instead of the workspace's best.")
]


class Format(StrEnum):
    """File formats of an export."""

    safetensors = "safetensors"
    onnx = "onnx"


def predict(
    flags: DeviceFlags,
    images: Annotated[list[Path] | None, typer.Argument(help="Photos.", metavar="IMAGE...")] = None,
    model: ModelFlag = None,
    top: Annotated[int, typer.Option(min=1, help="Classes per photo.")] = 3,
) -> None:
    """Classify photos, or all photos of folders, with a trained model.

    With --model or --dataset there is no RECIPE, and all arguments are photos.
    """
    photos = images or []
    if flags.ref is not None and (model is not None or flags.dataset is not None):
        photos = [Path(flags.ref), *photos]
        flags = replace(flags, ref=None)
    if not photos:
        raise UserError(
            "no photo: higfa predict RECIPE IMAGE..., or higfa predict --model PATH IMAGE...",
            exit_code=2,
        )
    with stdout_for_result(flags.as_json):
        path, device = _find_model(model, flags)
        from higfa_cli.trained.predict import credentials, photo_boxes, predict

        known = credentials(path)
        boxes = {} if model is not None else photo_boxes(flags.context())
        rows = predict(path, photos, top, device, boxes)
    if whole := sum("whole" in row for row in rows):
        text = "the model was trained on photos cut to their subject's box; no box is known of "
        complain(f"{text}{plural(whole, 'photo')} here: cut them to it first", "warning")
    good, bad = ([row for row in rows if ("error" in row) == sign] for sign in (False, True))
    if flags.as_json:
        failed = {"failed": bad} if bad else {}
        print_json({"model": str(path), **known, "predictions": good, **failed})
    elif known:
        print_line(_introduced(path, known))
    for row in () if flags.as_json else good:
        guesses = ", ".join(f"{guess['class']} {guess['probability']:.1%}" for guess in row["top"])
        print_line(f"{row['image']}: {guesses}")
    for row in bad:
        complain(row["error"])
    if bad:
        raise typer.Exit(WITH_FAILURES)


def _introduced(model: Path, known: Mapping[str, Any]) -> str:
    accuracy = known["test_accuracy"]
    tested = "never tested"
    if accuracy is not None:
        tested = f"{accuracy:.1%} of {plural(known['test_photos'], 'test photo')} right"
    named = f"{known['arm']}, seed {known['seed']}"
    return f"model: {model} ({named}; {tested}, chance {known['chance']:.1%})"


def export(
    flags: RecipeFlags,
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    format_: Annotated[Format, typer.Option("--format", help="File format.")],
    model: ModelFlag = None,
) -> None:
    """Write a trained model for use elsewhere."""
    with stdout_for_result(flags.as_json):
        path, _ = _find_model(model, flags)
        from higfa_cli.trained.export import export

        result = export(path, out, format_.value)
    print_result(f"exported {path}", result, flags.as_json)


def _find_model(model: Path | None, flags: RecipeFlags) -> tuple[Path, str]:
    """(model, device): the model given, or the best arm's in the recipe's workspace."""
    silence_libraries()
    has_recipe = flags.ref is not None or flags.dataset is not None
    if model is not None:
        if has_recipe:
            raise UserError("give --model or a recipe, not both", exit_code=2)
        return model, flags.device or "auto"
    if not has_recipe:
        raise UserError("no model: give a recipe or --model PATH", exit_code=2)
    ctx = flags.context()
    from higfa_cli.trained.predict import best_model

    return best_model(ctx), ctx.recipe.run.device
