"""Class names as folder names, reversible and safe on every common file system."""

from __future__ import annotations

import hashlib
import re
import string
from collections import Counter
from collections.abc import Iterable
from urllib.parse import unquote_to_bytes

from higfa_cli.errors import UserError

_PLAIN = frozenset(string.ascii_letters + string.digits + " -_.,()[]{}+&'!@#$=~^;")
_CAPITALS = frozenset(string.ascii_uppercase)
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", "conin$", "conout$"]
    + [f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10)]
)
_LONGEST = 240
# No encoded name holds a "%" that is not followed by two digits, so this cannot be part of one.
_CUT = "%~"
_HEAD = 160
_DIGEST = 32


def class_dir(name: str) -> str:
    """Folder name of a class; ordinary names ("BAE 146-200") stay as they are.

    Everything else is percent-encoded UTF-8: separators, control characters, "%", non-ASCII
    letters (file systems normalise those differently), a leading dash, tilde, dot or space, a
    trailing dot or space, and the first letter of device names such as "con". A folder name of
    more than 240 characters is cut and ends in "%~" and a hash of the name, which `class_name`
    cannot undo. Raises UserError for an empty name.
    """
    return _folder(name, _PLAIN)


def class_dirs(names: Iterable[str]) -> dict[str, str]:
    """Name -> `class_dir`; in names that differ in case alone the capitals are encoded too.

    Raises UserError for an empty name.
    """
    folders = {name: class_dir(name) for name in names}
    shared = Counter(folder.lower() for folder in folders.values())
    return {
        name: folder if shared[folder.lower()] == 1 else _folder(name, _PLAIN - _CAPITALS)
        for name, folder in folders.items()
    }


def class_name(directory: str) -> str:
    """Class of a folder name; one that `class_dir` has not made, or cut, keeps its own name."""
    if _CUT in directory:
        return directory
    try:
        return unquote_to_bytes(directory).decode("utf-8", "surrogatepass")
    except UnicodeError:
        return directory


def _folder(name: str, plain: frozenset[str]) -> str:
    if not name:
        raise UserError("a class has an empty name; give it a name")
    pieces = [char if char in plain else _encoded(char) for char in name]
    if name[0] in " .-~" or name.split(".")[0].rstrip().lower() in _DEVICES:
        pieces[0] = _encoded(name[0])
    if name[-1] in " .":
        pieces[-1] = _encoded(name[-1])
    folder = "".join(pieces)
    if len(folder) <= _LONGEST:
        return folder
    head = re.sub("%[0-9A-F]?$", "", folder[:_HEAD])
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{head}{_CUT}{digest[:_DIGEST]}"


def _encoded(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogatepass"))
