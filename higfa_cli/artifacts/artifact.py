"""Typed files: what one stage writes and another reads, checked on reading, stable in bytes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from higfa_cli.artifacts.atomic import read_json, read_jsonl, write_json, write_jsonl
from higfa_cli.errors import UserError
from higfa_cli.text import inert, plain_words

T = TypeVar("T")
# JSON has lists alone, so this one type is taken from another.
# As large as a float holds exactly; files of strangers may hold any number of digits.
Count = Annotated[int, Field(ge=0, le=2**53)]
Several = Annotated[tuple[T, ...], Field(strict=False)]
_SHOWN = 80


class Artifact(BaseModel):
    """A row or a file: immutable, closed to unknown keys, no type converted, no NaN.

    A key with a default is left out of the file where it has that value. `remedy`, given where a
    class is defined, ends the error about a file that does not hold such a thing.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, populate_by_name=True
    )
    remedy: ClassVar[str] = "run the stage that wrote it again with --force"

    def __init_subclass__(cls, remedy: str | None = None, **config: Any) -> None:
        super().__init_subclass__(**config)
        if remedy is not None:
            cls.remedy = remedy

    def plain(self) -> dict[str, Any]:
        """As JSON holds it, by the names that the file has."""
        return self.model_dump(by_alias=True, exclude_defaults=True)


A = TypeVar("A", bound=Artifact)


def read_model(path: Path, model: type[A]) -> A:
    """The content of a JSON file.

    Raises UserError naming file, key and remedy: absent, broken, or of something else.
    """
    return parse(read_json(path), model, path)


def read_rows(path: Path, model: type[A]) -> list[A]:
    """The rows of a file of one JSON object per line.

    Raises UserError naming file, row, key and remedy: absent, broken, or of something else.
    """
    rows = enumerate(read_jsonl(path), start=1)
    return [parse(row, model, f"{path}, row {number}") for number, row in rows]


def parse(value: Any, model: type[A], origin: Path | str) -> A:
    """`value`, as it came out of JSON. Raises UserError naming `origin`, key and remedy."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = inert(".".join(str(part) for part in first["loc"]))[:_SHOWN]
        where = f"`{key}`: " if key else ""
        raise UserError(
            f"{origin}: {where}{inert(plain_words(first['msg']))}; {model.remedy}"
        ) from None


def write_model(path: Path, content: Artifact) -> None:
    """Write a JSON file atomically; keys are sorted."""
    write_json(path, content.plain())


def write_rows(path: Path, rows: Iterable[Artifact]) -> None:
    """Write one JSON object per line atomically; keys are sorted."""
    write_jsonl(path, (row.plain() for row in rows))
