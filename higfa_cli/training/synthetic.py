"""Synthetic pictures as a training source: any folder of class folders."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from higfa_cli.artifacts.atomic import read_jsonl
from higfa_cli.artifacts.class_folders import class_dirs, class_name
from higfa_cli.artifacts.workspace import METADATA
from higfa_cli.data.layouts.files import IMAGE_SUFFIXES
from higfa_cli.errors import UserError
from higfa_cli.text import did_you_mean


@dataclass(frozen=True)
class SyntheticFolder:
    """Pictures of a folder: sorted paths, their class ids, and the classes without any."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    missing: tuple[str, ...]


def list_synthetic(
    root: Path,
    classes: Sequence[str],
    held_out: Collection[str] = (),
    kept: Collection[str] | None = None,
) -> SyntheticFolder:
    """List `root`/<class>/**/picture; a class folder has the class's name or its encoded name.

    With a metadata.jsonl in `root`, pictures whose row has a status other than "ok" are left out,
    and so are those drawn from a source photo in `held_out` (its key). With `kept`, only the
    pictures of these paths (relative to `root`) are listed.

    Raises UserError: no such folder, a folder that is no class, or not a single picture.
    """
    if not root.is_dir():
        raise UserError(f"synthetic folder {root} does not exist; correct --synthetic")
    ids = {name: index for index, name in enumerate(classes)}
    folders = {folder: ids[name] for name, folder in class_dirs(classes).items()}
    refused = _refused(root, held_out)
    pictures: list[tuple[Path, int]] = []
    for folder in sorted(root.iterdir()):
        if folder.name.startswith(".") or not folder.is_dir():
            continue
        label = _label(folder.name, ids, folders, root)
        for path in filter(_is_picture, sorted(folder.rglob("*"))):
            name = path.relative_to(root).as_posix()
            if name not in refused and (kept is None or name in kept):
                pictures.append((path, label))
    if not pictures and kept is not None:
        raise UserError(
            f"none of the {len(kept)} pictures of {root} that passed the filter may train: they "
            "are gone, or drawn from photos held out for validation; loosen the recipe's filter "
            "keys, or run `higfa synthesize` again"
        )
    if not pictures:
        raise UserError(
            f"{root} holds no usable picture in class folders; point --synthetic at a folder "
            "with one sub-folder of pictures per class"
        )
    have = {label for _, label in pictures}
    return SyntheticFolder(
        paths=tuple(path for path, _ in pictures),
        labels=tuple(label for _, label in pictures),
        missing=tuple(name for name, index in ids.items() if index not in have),
    )


def _is_picture(path: Path) -> bool:
    hidden = path.name.startswith(".")
    return not hidden and path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()


def _label(folder: str, ids: dict[str, int], folders: dict[str, int], root: Path) -> int:
    if folder in folders:
        return folders[folder]
    for name in (folder, class_name(folder)):
        if name in ids:
            return ids[name]
    hint = did_you_mean(folder, ids, otherwise=f"classes are {', '.join(list(ids)[:4])} ...")
    raise UserError(f"{root}: folder `{folder}` is no class of the data; {hint} Rename or move it")


def _refused(root: Path, held_out: Collection[str]) -> set[str]:
    if not (root / METADATA).is_file():
        return set()
    rows = read_jsonl(root / METADATA)
    return {
        PurePosixPath(str(row.get("file_name"))).as_posix()
        for row in rows
        if row.get("status", "ok") != "ok" or row.get("source") in held_out
    }
