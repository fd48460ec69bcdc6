"""Four small photos of two classes and a recipe whose guide is off; nothing here needs torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageDraw

from higfa_cli.recipe.load import load_recipe, override_recipe
from higfa_cli.stages.context import Context, make_context


def write_plain_project(root: Path) -> Context:
    """A context over four small photos of two classes; the guide is off."""
    for cls in ("A320", "A321"):
        folder = root / "photos" / "train" / cls
        folder.mkdir(parents=True)
        for index in range(2):
            image = Image.new("RGB", (40, 30), "white")
            ImageDraw.Draw(image).rectangle((8, 8, 28 + index, 18), fill="black")
            image.save(folder / f"{index}.png")
    (root / "recipe.yaml").write_text(
        "name: small/one\n"
        "data: {root: photos}\n"
        "size: 32\n"
        "model: {base: a/b, controlnet: a/c}\n"
        "guidance: {classifier: {switch: 1.0}}\n"
        "arms: {higfa: {}}\n"
        "pictures: {gallery: 0}\n"
    )
    return make_context(load_recipe(str(root / "recipe.yaml")), root / "runs")


def changed(ctx: Context, **values: object) -> Context:
    keys = {key.replace("__", "."): value for key, value in values.items()}
    return replace(ctx, recipe=override_recipe(ctx.recipe, keys))
