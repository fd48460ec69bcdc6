"""Every file below a data folder: a photo, or left out for a reason."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from higfa_cli.artifacts.workspace import RECORD
from higfa_cli.errors import UserError

_JPEG = {".jpg", ".jpeg", ".jfif", ".jpe", ".jif", ".mpo"}
_OTHERS = {".png", ".apng", ".webp", ".avif", ".avifs", ".bmp", ".dib", ".gif", ".tif", ".tiff"}
IMAGE_SUFFIXES = frozenset(_JPEG | _OTHERS | {".ppm", ".pgm", ".pbm", ".pnm"})
# What storage systems, archives and tools put between the photos of others.
_SYNOLOGY = {"@eadir", "#recycle", "#snapshot"}
_QNAP = {"@recycle", "@recently-snapshot"}
_WINDOWS = {"$recycle.bin", "recycler", "system volume information"}
_SYSTEM = _SYNOLOGY | _QNAP | _WINDOWS | {"__macosx", "lost+found", "__pycache__", "thumbnails"}
# Lists, descriptions and programs beside photos: a folder of these alone is no class.
_PAPERS = {".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".mat", ".md"}
_PAPERS |= {".pdf", ".html", ".py", ".ipynb", ".sh", ".log", ".zip", ".tar", ".gz", ".tgz", ".npy"}
# Copies that editors keep, and cameras' thumbnails: their photo lies beside them.
_COPY = re.compile(r"(_original|~|\.bak|\.orig|\.old|\.thm|\.part|\.crdownload)$", re.IGNORECASE)
# How a JPEG, PNG, GIF, WebP and AVIF begin. Not TIFF: most cameras' raw files begin so too.
_MAGIC = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n|GIF8[79]a|RIFF....WEBP|....ftypavi[fs]", re.DOTALL)


@dataclass
class Found:
    """What lies in a folder. `left_out` and `folders`: path -> why it holds no photos of a class.

    Paths are in no order but `photos`, which are sorted.
    """

    photos: list[Path] = field(default_factory=list)
    left_out: dict[Path, str] = field(default_factory=dict)
    folders: dict[Path, str] = field(default_factory=dict)

    @property
    def is_beside(self) -> bool:
        """Whether all that lies there is plainly something else than the photos of a class."""
        strange = [p for p, why in self.left_out.items() if why != "hidden"]
        papers = all(path.suffix.lower() in _PAPERS for path in strange)
        return not self.photos and papers and bool(self.folders or self.left_out)


def look(folder: Path, deep: bool = True) -> Found:
    """All files at any depth (or `folder`'s own); links are followed, each folder once.

    A photo has an image's suffix, or begins as an image whatever it is called.
    Raises UserError for a folder that may not be listed: its photos must not go missing unseen.
    """
    found = Found()
    top = Path(os.path.realpath(folder))
    above = {str(folder): {str(path) for path in (top, *top.parents)}}
    for base, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        entered = []
        for name in folders:
            path = Path(base, name)
            real = os.path.realpath(path)
            if reason := "leads back through a link" if real in above[base] else why_none(path):
                found.folders[path] = reason
            elif deep:
                entered.append(name)
                above[str(path)] = above[base] | {real}
        folders[:] = entered
        for path in (Path(base, name) for name in files):
            if reason := _why_no_photo(path):
                found.left_out[path] = reason
            else:
                found.photos.append(path)
    found.photos.sort()
    return found


def why_none(folder: Path) -> str | None:
    """Why no photos of a class lie in a folder; None where they may."""
    if folder.name.startswith("."):
        return "hidden"
    if folder.name.lower() in _SYSTEM:
        return "left by a system"
    try:
        # A stage's folder, or that of an arm.
        record = any((folder / name).is_file() for name in (RECORD, f"contours/{RECORD}"))
    except OSError:
        return None
    return "results of higfa" if record else None


def _why_no_photo(path: Path) -> str | None:
    if path.name.startswith("."):
        return "hidden"
    if _COPY.search(path.name):
        return "a copy or part of another file"
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return None
    try:
        # A pipe would block.
        if path.is_file():
            with path.open("rb") as handle:
                if _MAGIC.match(handle.read(16)):
                    return None
    except OSError:
        pass
    return "no image"


def _refuse(error: OSError) -> None:
    raise UserError(
        f"{error.filename} cannot be listed: {error.strerror}; change its permissions or remove it"
    ) from None


def sub_folders(folder: Path) -> list[Path]:
    """Sub-folders that may hold photos, sorted by name."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not why_none(p))


def image_files(folder: Path) -> list[Path]:
    """The photos at any depth, sorted. Raises UserError as `look`."""
    return look(folder).photos


def kinds(paths: Iterable[Path]) -> str:
    """For people: `3 .heic, 1 .txt`."""
    counts: dict[str, int] = {}
    for path in paths:
        counts[path.suffix or path.name] = counts.get(path.suffix or path.name, 0) + 1
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
