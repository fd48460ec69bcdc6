"""The recipes that come with the package."""

from __future__ import annotations

from importlib import resources

from higfa_cli.errors import RecipeError
from higfa_cli.text import did_you_mean

PACKAGE = "higfa_cli.builtin_recipes"
ALIASES = {
    "pocket": "pocket-aircraft",
    "aircraft": "aircraft-sdxl",
    "cub": "cub-sdxl",
    "cars": "cars-sdxl",
    "dogs": "dogs-sdxl",
    "flowers": "flowers-sdxl",
    "pets": "pets-sdxl",
    "dtd": "dtd-sdxl",
}


def builtin_names() -> list[str]:
    """Names of the built-in recipes, sorted (aliases not included)."""
    files = resources.files(PACKAGE).iterdir()
    return sorted(item.name[: -len(".yaml")] for item in files if item.name.endswith(".yaml"))


def is_builtin(name: str) -> bool:
    """Whether `name` is a built-in recipe or an alias of one."""
    return ALIASES.get(name, name) in builtin_names()


def builtin_text(name: str) -> tuple[str, str]:
    """(full name, YAML text) of a built-in recipe.

    Raises RecipeError naming the nearest recipe when there is none of that name.
    """
    full = ALIASES.get(name, name)
    known = builtin_names()
    if full not in known:
        names = [*known, *ALIASES]
        hint = did_you_mean(name, names, otherwise=f"built in are {', '.join(known)}")
        raise RecipeError(f"there is no built-in recipe `{name}`; {hint}")
    return full, (resources.files(PACKAGE) / f"{full}.yaml").read_text(encoding="utf-8")
