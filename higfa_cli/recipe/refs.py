"""References in a recipe: a local path, a hub id, or a part of the higfa-pocket package."""

from __future__ import annotations

import difflib
import importlib.util
from importlib import resources
from pathlib import Path

from higfa_cli.errors import UserError

POCKET = {
    "sd": "sd",
    "controlnet": "controlnet",
    "aircraft": "data/aircraft",
    "aircraft-words": "data/aircraft/class_words.json",
}


def resolve_ref(ref: str, base: Path) -> Path | str:
    """Where a reference leads.

    `pocket:NAME` is a folder or file of the installed higfa-pocket package; a path that exists
    relative to `base` (the recipe's folder) or to the current folder is that path; anything else
    is returned as it is (a hub id, or a path that the caller reports as missing).
    Raises UserError for an unknown pocket name, an absent package, and for an absolute, `./`,
    `../` or `~` path that does not exist, which no hub id can be.
    """
    if ref.startswith("pocket:"):
        return _pocket(ref.removeprefix("pocket:"))
    path = Path(ref).expanduser()
    for start in (base, Path.cwd()):
        if (start / path).exists():
            return (start / path).resolve()
    if path.is_absolute() or ref.startswith(("./", "../", "~")):
        raise UserError(
            f"{ref} does not exist (looked from {base} and the current folder); correct the path"
        )
    return ref


def _pocket(name: str) -> Path:
    if name not in POCKET:
        near = difflib.get_close_matches(name, POCKET, n=1, cutoff=0.6)
        hint = f"did you mean `pocket:{near[0]}`?" if near else f"known are {', '.join(POCKET)}"
        raise UserError(f"unknown reference `pocket:{name}`; {hint}")
    if importlib.util.find_spec("higfa_pocket") is None:
        raise UserError("the higfa-pocket package is not installed: pip install ./pocket")
    path = Path(str(resources.files("higfa_pocket"))) / POCKET[name]
    if not path.exists():
        raise UserError(
            f"the installed higfa-pocket package has no {POCKET[name]}: "
            "pip install --force-reinstall ./pocket"
        )
    return path
