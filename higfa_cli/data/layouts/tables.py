"""Lists and tables as people have them: encodings, separators, empty rows, names written anyhow."""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import unicodedata
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from higfa_cli.data.layouts.common import is_file, read_bytes
from higfa_cli.errors import UserError

_SEPARATORS = ",;\t|"
_BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def read_table(path: Path, remedy: str) -> Iterator[tuple[str, dict[str, str]]]:
    """("FILE line N", column -> text) of the rows that are not empty; columns in small letters.

    CSV in UTF-8 or UTF-16, separated by comma, semicolon, tab or bar; or JSON lines.
    Raises UserError with the remedy: unreadable, another encoding, a line that is no row.
    """
    text = _decoded(path, remedy)
    rows = _json_rows(path, text) if path.suffix == ".jsonl" else _csv_rows(path, text)
    for number, row in rows:
        if any(value.strip() for value in row.values()):
            yield f"{path} line {number}", row


def _decoded(path: Path, remedy: str) -> str:
    content = read_bytes(path, remedy)
    encoding = next((name for bom, name in _BOMS.items() if content.startswith(bom)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path} cannot be read: line {line} is not {encoding.upper()} (a spreadsheet's own "
            "encoding, such as Windows-1252?); save it as `CSV UTF-8`"
        ) from None


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    header = text.partition("\n")[0]
    separator = max(_SEPARATORS, key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        names = [name.strip().lower() for name in reader.fieldnames or ()]
        reader.fieldnames = names
        yield 1, {name: name for name in names}
        for record in reader:
            yield reader.line_num, {name: record[name] or "" for name in names}
    except csv.Error as error:
        raise UserError(f"{path} line {reader.line_num}: {error}; correct the line") from None


def _json_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    names: dict[str, str] = {}
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            row = json.loads(line) if line.strip() else {}
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise UserError(f"{path} line {number}: not a JSON object; correct the line")
        texts = {
            str(name).lower(): str(value)
            for name, value in row.items()
            if isinstance(value, str | int) and not isinstance(value, bool)
        }
        names |= dict.fromkeys(texts, "")
        rows.append((number, texts))
    yield 1, {name: name for name in names}
    yield from ((number, {**names, **row}) for number, row in rows)


class Names:
    """Files below a folder, by names that lists give them."""

    def __init__(self, root: Path, beside: Path) -> None:
        """`beside`: the folder of the list, which names may be relative to."""
        self._root, self._beside = root, beside

    def find(self, name: str, loose: bool = False) -> str | None:
        """The file's POSIX path relative to the root; None where no file, or several, are meant.

        Tried in order: the name; without a leading root, with `/` for a backslash, relative to the
        list; in another Unicode form or case; `loose`: by its last part, without its suffix.
        """
        plain = name.strip().replace("\\", "/")
        relative = [name, plain, *self._below_root(plain)]
        for key in relative:
            outside = not key or ".." in key.split("/") or Path(key).is_absolute()
            if not outside and is_file(self._root / key):
                return key
        keys = [_folded(key) for key in relative]
        if loose:
            last = _folded(plain).rpartition("/")[2]
            keys += [f"*/{last}", f"*/{last}.*"]
        for key in keys:
            if len(matches := self._index.get(key, [])) == 1:
                return matches[0]
        return None

    def _below_root(self, name: str) -> Iterator[str]:
        for folder in {self._root, self._root.absolute(), self._root.resolve()}:
            for path in (name, os.path.normpath(self._beside / name) if name else ""):
                if path.startswith(f"{folder}/"):
                    yield path.removeprefix(f"{folder}/")

    @cached_property
    def _index(self) -> dict[str, list[str]]:
        index: dict[str, list[str]] = {}
        for base, _, files in os.walk(self._root, followlinks=False):
            for file in files:
                key = Path(base, file).relative_to(self._root).as_posix()
                last = _folded(file)
                for name in {_folded(key), f"*/{last}", f"*/{Path(last).stem}.*"}:
                    index.setdefault(name, []).append(key)
        return index


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
