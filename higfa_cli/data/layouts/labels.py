"""Classes from a table beside the photos: the columns are recognised, or asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from higfa_cli.artifacts.workspace import METADATA
from higfa_cli.data.layouts.common import Row, Rows
from higfa_cli.data.layouts.files import sub_folders
from higfa_cli.data.layouts.imagefolder import split_folders, split_of
from higfa_cli.data.layouts.tables import Names, read_table
from higfa_cli.errors import UserError

FLAG = "--label-column"
_METADATA = (METADATA, Path(METADATA).with_suffix(".csv").name)
_CLASS = (
    *("class", "class_name", "classname", "label", "label_name", "labels", "category"),
    *("species", "breed", "variety", "variant", "family", "target", "class_id", "label_id"),
)
_SPLIT = ("split", "set", "subset", "partition", "phase")
_REMEDY = "correct --labels"


def metadata_tables(root: Path) -> list[Path]:
    """The metadata files of folders without class folders: `root` and those of splits."""
    return [
        folder / name
        for folder in (root, *split_folders(root).values())
        for name in _METADATA
        if (folder / name).is_file() and not _has_classes(folder)
    ]


def _has_classes(folder: Path) -> bool:
    inner = sub_folders(folder)
    one_kind = len(inner) < 2 or all(split_of(path.name) for path in inner)
    return not one_kind or any(sub_folders(path) for path in inner)


def labelled_rows(
    root: Path, tables: Sequence[Path], column: str | None = None
) -> tuple[list[Row], bool]:
    """Rows of all photos that the tables name, and whether they have a split.

    A split is told by a column, or by the folders that the photos lie in; without one all count
    as train. Raises UserError naming table and line: no file, no class, several columns that may
    be either.
    """
    rows, told = Rows(root, links=True), set()
    for table in tables:
        lines = list(read_table(table, _REMEDY))
        header = lines[0][1] if lines else {}
        if len(lines) < 2:
            raise UserError(f"{table} has no rows; {_REMEDY}")
        names = Names(root, table.parent)
        path = _path_column(table, [record for _, record in lines[1:]], names)
        label = _label_column(table, [name for name in header if name != path], column)
        split = next((name for name in _SPLIT if name in header), None)
        for origin, record in lines[1:]:
            if (key := names.find(record[path], loose=True)) is None:
                raise UserError(
                    f"{origin}: no photo, or several, below {root} for {record[path][:80]!r}; "
                    "add it or remove the line"
                )
            if not record[label].strip():
                raise UserError(f"{origin}: no class for {key}; fill in the column `{label}`")
            said = split_of(record[split] if split else key.partition("/")[0])
            told.add(said)
            rows.add(key, record[label].strip(), said or "train", origin)
    listed = list(rows.listing().rows)
    if None not in told and {"train"} < told:
        return listed, True
    return [Row(row.key, row.cls, "train") for row in listed], False


def _path_column(table: Path, records: Sequence[Mapping[str, str]], names: Names) -> str:
    """The column whose first entry is a photo, and whose entries are all different."""
    for name, value in records[0].items():
        distinct = len({record[name] for record in records}) == len(records)
        if value and distinct and names.find(value, loose=True):
            return name
    header = ", ".join(records[0])[:120]
    raise UserError(
        f"{table}: no column names a photo of its own below the data folder (of {header}); "
        f"{_REMEDY}, or --root"
    )


def _label_column(table: Path, columns: Sequence[str], column: str | None) -> str:
    """The column of classes."""
    if column is not None and column.lower() in columns:
        return column.lower()
    likely = [name for name in _CLASS if name in columns]
    likely = [name for name in likely if not name.endswith("_id")] or likely
    if column is None and len(likely or columns) == 1:
        return (likely or columns)[0]
    problem = f"no column `{column}`" if column else "several columns could be the class"
    raise UserError(f"{table}: {problem}; choose with {FLAG}: {', '.join(likely or columns)[:120]}")
