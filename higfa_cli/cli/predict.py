"""`higfa predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from higfa_cli.cli.options import (
    DatasetFlag,
    DeviceFlag,
    JsonFlag,
    RecipeFlag,
    SetFlag,
    WorkspaceFlag,
    choose,
)
from higfa_cli.errors import UserError

ModelFlag = Annotated[
    Path | None, typer.Option(help="A model.safetensors, instead of the workspace's best.")
]


def command(
    images: Annotated[list[Path], typer.Argument(help="Photos.", metavar="IMAGE...")],
    model: ModelFlag = None,
    recipe: RecipeFlag = None,
    dataset: DatasetFlag = None,
    set_: SetFlag = None,
    workspace: WorkspaceFlag = None,
    device: DeviceFlag = None,
    top: Annotated[int, typer.Option(min=1, help="Classes per photo.")] = 3,
    as_json: JsonFlag = False,
) -> None:
    """Classify photos with a trained model."""
    from higfa_cli.cli.output import print_json, print_line, stdout_for_result

    with stdout_for_result(as_json):
        path, on = find_model(model, recipe, dataset, set_, workspace, device)
        from higfa_cli.stages.predict import predict

        rows = predict(path, images, top, on)
    if as_json:
        print_json({"model": str(path), "predictions": rows})
        return
    for row in rows:
        guesses = ", ".join(f"{one['class']} {one['probability']:.1%}" for one in row["top"])
        print_line(f"{row['image']}: {guesses}")


def find_model(
    model: Path | None,
    recipe: str | None,
    dataset: str | None,
    overrides: list[str] | None,
    workspace: Path | None,
    device: str | None,
) -> tuple[Path, str]:
    """(model, device): the model given, or the best arm's in the workspace.

    Raises UserError (exit code 2) unless one of --model, --recipe and --dataset is given.
    """
    from higfa_cli.cli.quiet import silence_libraries

    silence_libraries()
    if model is not None:
        if recipe is not None or dataset is not None:
            raise UserError("give --model or a recipe, not both", exit_code=2)
        return model, device or "auto"
    if recipe is None and dataset is None:
        raise UserError("no model: give --model PATH, --recipe PATH or --dataset NAME", exit_code=2)
    ctx = choose(recipe, dataset, overrides, workspace, device).context()
    from higfa_cli.stages.predict import best_model

    return best_model(ctx), ctx.recipe.run.device
