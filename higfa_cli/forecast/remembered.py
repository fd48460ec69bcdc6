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


def remembered(kind: str, key: Any, compute: Callable[[], Any]) -> Any:
    """`compute()`, or what it gave on this machine before for the same key.

    Args:
        kind: what is computed, a file name.
        key: all that it depends on beside libraries and higfa itself, as JSON holds it.
        compute: gives what JSON holds; an error is not remembered.
    """
    home = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(home) if home else Path.home() / ".cache") / "higfa"
    path = folder / f"{kind}-{hash_json([kind, key, _edition()])[:32]}.json"
    with contextlib.suppress(OSError, ValueError):
        return json.loads(path.read_text(encoding="utf-8"))
    content = compute()
    # A cache that cannot be written is none.
    with contextlib.suppress(OSError, UserError):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, content)
    return content


@functools.cache
def _edition() -> list[Any]:
    """What computes: another edition of it may come to other numbers."""
    root = Path(higfa_cli.__file__).parent
    rooms = (sorted((root / room).rglob("*.py")) for room in ("method", "models"))
    versions = [metadata.version(name) for name in ("torch", "diffusers", "transformers", "timm")]
    return [versions, [hash_file(path) for room in rooms for path in room]]
