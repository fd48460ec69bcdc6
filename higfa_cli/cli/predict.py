"""`higfa predict`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from higfa_cli.cli.options import RecipeFlags
from higfa_cli.errors import UserError

ModelFlag = Annotated[
    Path | None, typer.Option(help="A model.safetensors, instead of the workspace's best.")
]


def command(
    flags: RecipeFlags,
    images: Annotated[list[Path] | None, typer.Argument(help="Photos.", metavar="IMAGE...")] = None,
    model: ModelFlag = None,
    top: Annotated[int, typer.Option(min=1, help="Classes per photo.")] = 3,
) -> None:
    """Classify photos with a trained model.

    With --model or --dataset there is no RECIPE, and all arguments are photos.
    """
    from higfa_cli.cli.output import print_json, print_line, stdout_for_result

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
        path, device = find_model(model, flags)
        from higfa_cli.stages.predict import predict

        rows = predict(path, photos, top, device)
    if flags.as_json:
        print_json({"model": str(path), "predictions": rows})
        return
    for row in rows:
        guesses = ", ".join(f"{guess['class']} {guess['probability']:.1%}" for guess in row["top"])
        print_line(f"{row['image']}: {guesses}")


def find_model(model: Path | None, flags: RecipeFlags) -> tuple[Path, str]:
    """(model, device): the model given, or the best arm's in the recipe's workspace.

    Raises UserError (exit code 2) unless exactly one of --model and a recipe is given.
    """
    from higfa_cli.cli.quiet import silence_libraries

    silence_libraries()
    has_recipe = flags.ref is not None or flags.dataset is not None
    if model is not None:
        if has_recipe:
            raise UserError("give --model or a recipe, not both", exit_code=2)
        return model, flags.device or "auto"
    if not has_recipe:
        raise UserError("no model: give a recipe or --model PATH", exit_code=2)
    ctx = flags.choice.context()
    from higfa_cli.stages.predict import best_model

    return best_model(ctx), ctx.recipe.run.device
