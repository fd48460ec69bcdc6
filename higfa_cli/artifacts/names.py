"""Class names as folder names: reversible, and safe on every common file system.

Two classes that differ in case alone still share a folder on case-insensitive file systems.
"""

from __future__ import annotations

import string
from urllib.parse import unquote_to_bytes

from higfa_cli.errors import UserError

_PLAIN = frozenset(string.ascii_letters + string.digits + " -_.,()[]{}+&'!@#$=~^;")
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul"]
    + [f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10)]
)
_LONGEST = 240


def class_dir(name: str) -> str:
    """Folder name of a class; ordinary names ("BAE 146-200") stay as they are.

    Everything else is percent-encoded UTF-8: separators, control characters, "%", non-ASCII
    letters (file systems normalise those differently), a leading or trailing dot or space, and
    the first letter of device names such as "con". Raises UserError for an empty name and for
    one whose folder would be longer than 240 characters.
    """
    if not name:
        raise UserError("a class has an empty name; give it a name")
    pieces = [char if char in _PLAIN else _encoded(char) for char in name]
    for end in (0, -1):
        if name[end] in " .":
            pieces[end] = _encoded(name[end])
    if name.split(".")[0].rstrip().lower() in _DEVICES:
        pieces[0] = _encoded(name[0])
    folder = "".join(pieces)
    if len(folder) > _LONGEST:
        raise UserError(
            f"class name {name[:40]!r}... makes a folder name of {len(folder)} characters "
            f"(at most {_LONGEST}); shorten it"
        )
    return folder


def class_name(directory: str) -> str:
    """Class of a folder name: the inverse of `class_dir`.

    A folder that was not made by `class_dir` and does not decode keeps its own name.
    """
    try:
        return unquote_to_bytes(directory).decode("utf-8", "surrogatepass")
    except UnicodeError:
        return directory


def _encoded(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogatepass"))
