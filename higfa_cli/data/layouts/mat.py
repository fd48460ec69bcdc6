"""MATLAB files: columns of text and of whole numbers, by name. Needs scipy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from higfa_cli.errors import UserError

REMEDY = "unpack the authors' archive again"


class Mat:
    """One .mat file. Every method raises UserError naming the file and the variable."""

    def __init__(self, path: Path) -> None:
        try:
            from scipy.io import loadmat
        except ImportError as error:
            raise UserError(f'reading {path} needs scipy: pip install "higfa[mat]"') from error
        self._path = path
        try:
            self._data: dict[str, Any] = loadmat(str(path), squeeze_me=True)
        except OSError as error:
            raise UserError(f"{path} cannot be read; {REMEDY}") from error
        # A damaged file fails anywhere in scipy's parser, with whatever error that part has.
        except Exception as error:
            raise UserError(f"{path} is not a MATLAB file (version 5); {REMEDY}") from error

    def texts(self, name: str, field: str | None = None) -> list[str]:
        """A column of text: a cell array, or one field of a struct array."""
        values = self._column(name, field)
        for index, value in enumerate(values, start=1):
            if not isinstance(value, str):
                raise UserError(f"{self.origin(name, index)}: not a text; {REMEDY}")
        return values

    def numbers(self, name: str, field: str | None = None) -> list[int]:
        """A column of whole numbers; MATLAB may have stored them as floating point."""
        values = self._column(name, field)
        for index, value in enumerate(values, start=1):
            if not isinstance(value, int | float) or not float(value).is_integer():
                raise UserError(f"{self.origin(name, index)}: not a whole number; {REMEDY}")
        return [int(value) for value in values]

    def origin(self, name: str, index: int) -> str:
        """How messages name an element, counted from 1 as in MATLAB."""
        return f"{self._path} {name}({index})"

    def _column(self, name: str, field: str | None) -> list[Any]:
        if name not in self._data:
            raise UserError(f"{self._path} has no variable `{name}`; {REMEDY}")
        # Squeezing leaves a bare value where the array has one element.
        array = np.atleast_1d(self._data[name]).ravel()
        if field is not None:
            if field not in (array.dtype.names or ()):
                raise UserError(f"{self._path}: `{name}` has no field `{field}`; {REMEDY}")
            array = array[field]
        return array.tolist()
