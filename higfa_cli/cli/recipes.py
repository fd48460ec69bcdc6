"""`higfa recipes`."""

from __future__ import annotations

from typing import Annotated

import typer

from higfa_cli.cli.options import JsonFlag, SetFlag
from higfa_cli.cli.output import print_json, print_line, print_table
from higfa_cli.recipe.builtin import ALIASES, builtin_names, builtin_text

app = typer.Typer(
    help="List, show and check recipes.",
    epilog="Example: higfa recipes list",
    no_args_is_help=True,
)


@app.command("list", epilog="Example: higfa recipes list")
def list_recipes(as_json: JsonFlag = False) -> None:
    """List the built-in recipes."""
    from higfa_cli.recipe.load import load_recipe

    rows = []
    for name in builtin_names():
        recipe = load_recipe(name).recipe
        also = [alias for alias, full in ALIASES.items() if full == name]
        rows.append(
            {"name": name, "also": also, "data": recipe.data.root, "model": recipe.model.base}
        )
    if as_json:
        print_json({"recipes": rows})
    else:
        print_table([row | {"also": ", ".join(row["also"])} for row in rows])


@app.command(epilog="Example: higfa recipes show pocket > mine.yaml")
def show(name: Annotated[str, typer.Argument(help="Name of a built-in recipe.")]) -> None:
    """Print a built-in recipe, to be saved and changed."""
    typer.echo(builtin_text(name)[1], nl=False)


@app.command(epilog="Example: higfa recipes check birds.yaml --json")
def check(
    recipe: Annotated[str, typer.Argument(help="Recipe file or built-in name.")],
    set_: SetFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Validate a recipe; --json prints it with every key filled in."""
    from higfa_cli.recipe.load import load_recipe
    from higfa_cli.stages.recipe_checks import check_recipe

    loaded = load_recipe(recipe, set_ or ())
    check_recipe(loaded.recipe, loaded.base)
    if as_json:
        print_json(loaded.recipe.model_dump(mode="json"))
    else:
        print_line(f"{loaded.origin}: valid")


@app.command(epilog="Example: higfa recipes schema > recipe.schema.json")
def schema() -> None:
    """Print the JSON schema of a recipe, for editors."""
    from higfa_cli.recipe.load import recipe_schema

    print_json(recipe_schema())
