"""References in a recipe: a path, a hub id, shipped words, or a part of higfa-pocket."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection
from importlib import resources
from pathlib import Path

from higfa_cli.errors import UserError
from higfa_cli.text import nearest

POCKET = {
    "sd": "sd",
    "controlnet": "controlnet",
    "backbone": "backbone.safetensors",
    "aircraft": "data/aircraft",
    "aircraft-words": "data/aircraft/class_words.json",
}
WORDS = ("fgvc-aircraft", "flowers102", "oxford-pets")


def resolve_ref(ref: str, base: Path, key: str = "") -> Path | str:
    """Where a reference leads; `key` begins an error's message.

    `pocket:NAME` is a part of the installed higfa-pocket package, `words:NAME` a class words file
    that higfa ships; a path that exists relative to `base` (the recipe's folder, or the current one
    for a built-in recipe) is that path; anything else is returned as it is (a hub id, or a
    missing path).
    Raises UserError for an unknown pocket or words name, an absent package, and for an absolute,
    `./`, `../` or `~` path that does not exist, which no hub id can be.
    """
    try:
        return _resolved(ref, base)
    except UserError as error:
        raise UserError(f"{key}: {error}" if key else str(error)) from error


def existing_path(ref: str, base: Path, key: str) -> Path:
    """A reference of `key` that must be a file or folder; raises UserError where it is none."""
    path = resolve_ref(ref, base, key)
    if isinstance(path, Path):
        return path
    raise UserError(f"{key}: {ref} does not exist (looked in {base}); correct {key}")


def weights_path(ref: str, base: Path) -> Path:
    """Where a recipe's `weights` lies; it may not exist."""
    path = resolve_ref(ref, base)
    return path if isinstance(path, Path) else base / path


def _resolved(ref: str, base: Path) -> Path | str:
    if ref.startswith("pocket:"):
        return _pocket(ref.removeprefix("pocket:"))
    if ref.startswith("words:"):
        name = ref.removeprefix("words:")
        _check_known("words", name, WORDS)
        return Path(str(resources.files("higfa_cli"))) / "data" / "words" / f"{name}.yaml"
    try:
        path = Path(ref).expanduser()
        if (base / path).exists():
            return (base / path).resolve()
    except (OSError, ValueError, RuntimeError) as error:
        # A name that no file system takes, or the home folder of an unknown user.
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{ref[:80]!r} is no path ({reason}); correct it") from None
    if path.is_absolute() or ref.startswith(("./", "../", "~")):
        raise UserError(
            f"{ref} does not exist (looked from {base}, the folder of the recipe); correct the path"
        )
    return ref


def _pocket(name: str) -> Path:
    _check_known("pocket", name, POCKET)
    if importlib.util.find_spec("higfa_pocket") is None:
        raise UserError("the higfa-pocket package is not installed: pip install ./pocket")
    path = Path(str(resources.files("higfa_pocket"))) / POCKET[name]
    if not path.exists():
        raise UserError(
            f"the installed higfa-pocket package has no {POCKET[name]}: "
            "pip install --force-reinstall ./pocket"
        )
    return path


def _check_known(scheme: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        near = nearest(name, known)
        hint = f"did you mean `{scheme}:{near}`?" if near else f"known are {', '.join(known)}"
        raise UserError(f"unknown reference `{scheme}:{name}`; {hint}")
