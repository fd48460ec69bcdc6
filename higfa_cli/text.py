"""Words for people: text that only shows, the nearest name, counts and units."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

# Control characters (C0, DEL, C1), invisible and direction-changing ones, line separators, halves
# of surrogate pairs. Joiners stay: emoji and several scripts need them.
HAZARD = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
# What pydantic says, and what people do.
_WORDS = {
    "Field required": "is missing",
    "Extra inputs are not permitted": "is not known",
    "Tuple should": "the list should",
    "List should": "the list should",
    " after validation": "",
    "a valid array": "a list",
    "an object": "a section with keys of its own",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid string": "text",
    "a valid boolean": "true or false",
}
_GIB = 2**30
_YEAR_S = 365.25 * 86400


def inert(text: str) -> str:
    """Text that a terminal or a page only shows: control characters are written out.

    ESC becomes the four characters `\\x1b`, a line break `\\x0a`, a right-to-left override
    `\\u202e`; ordinary text of any script stays as it is.
    """
    return HAZARD.sub(_written_out, text)


def printable(text: str) -> str:
    """Text in which everything prints: stricter than `inert`, for names that nobody vouches for."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def one_line(error: BaseException) -> str:
    """An error's message in one printable line."""
    return printable(" ".join(str(error).split())) or "no more is known"


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no more is known"


def plain_words(message: str) -> str:
    """pydantic's sentence without the words of Python and JSON, to stand after a colon."""
    message = message.removeprefix("Value error, ")
    message = re.sub("a valid dictionary( or instance of \\w+)?", "an object", message)
    for theirs, ours in _WORDS.items():
        message = message.replace(theirs, ours)
    return message[:1].lower() + message[1:]


def nearest(name: str, options: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The option that `name` is a typo of; None where none is near (similarity 0 to 1)."""
    close = difflib.get_close_matches(name, list(options), n=1, cutoff=cutoff)
    return close[0] if close else None


def did_you_mean(name: str, options: Iterable[str], otherwise: str = "") -> str:
    """`did you mean ...?`, or `otherwise` where no option is near."""
    close = nearest(name, options)
    return f"did you mean `{close}`?" if close else otherwise


def or_nearest(name: str, options: Iterable[str]) -> str:
    """`; did you mean ...?` as the end of a sentence, or nothing."""
    close = nearest(name, options)
    return f"; did you mean `{close}`?" if close else ""


def plural(count: int, singular: str, several: str | None = None) -> str:
    """A number of things: 1 photo, 1,680 photos."""
    return f"{count:,} {singular if count == 1 else several or singular + 's'}"


def gib(size: float) -> str:
    """Bytes for people."""
    if size < 2**20:
        return "less than 1 MiB"
    return f"{size / _GIB:.1f} GiB" if size >= 0.1 * _GIB else f"{size / 2**20:.0f} MiB"


def roughly(size: float) -> str:
    """`gib` of an estimate."""
    return gib(size) if size < 2**20 else f"about {gib(size)}"


def duration(seconds: float) -> str:
    """Seconds for people: 1.3 s, 12 s, 35 min, 9.8 h, 27 days, 7.5 years."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    if seconds < _YEAR_S:
        return f"{seconds / 86400:.0f} days"
    return f"{seconds / _YEAR_S:,.1f} years"


def _written_out(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
