"""What takes long to work out and never changes, kept in the user's cache folder."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import higfa_cli
from higfa_cli.artifacts.atomic import write_json
from higfa_cli.artifacts.fingerprint import hash_file, hash_json
from higfa_cli.errors import UserError

_LIBRARIES = ("torch", "diffusers", "transformers", "timm")
# What computes: another edition of it may come to other numbers.
_ROOMS = ("method", "models")


def remembered(kind: str, key: Any, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """`compute()`, or what it gave on this machine before for the same key.

    Args:
        kind: what is computed, a file name.
        key: all that it depends on beside libraries and higfa itself, as JSON holds it.
        compute: gives a JSON object; an error is not remembered.
    """
    digest = hash_json([kind, key, _edition()])
    path = _folder() / f"{kind}-{digest[:32]}.json"
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    content = compute()
    # A cache that cannot be written is none.
    with contextlib.suppress(OSError, UserError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, content)
    return content


@functools.cache
def _edition() -> list[Any]:
    root = Path(higfa_cli.__file__).parent
    sources = [path for room in _ROOMS for path in sorted((root / room).rglob("*.py"))]
    return [
        [metadata.version(library) for library in _LIBRARIES],
        [hash_file(path) for path in sources],
    ]


def _folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "higfa"
