"""The arms of a downstream comparison: real photos alone, and with each set of new pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from higfa_cli.artifacts.artifact import read_rows
from higfa_cli.artifacts.fingerprint import hash_file, hash_json, hash_tree
from higfa_cli.artifacts.rows import SelectionRow
from higfa_cli.artifacts.stage_state import read_record
from higfa_cli.artifacts.workspace import METADATA, Workspace
from higfa_cli.errors import UserError
from higfa_cli.stages.context import Context

REAL = "real"
OWN = "real+higfa"
STAGE = "train-downstream"


@dataclass(frozen=True)
class Arm:
    """`folder`: class folders of synthetic pictures, or None for real photos alone.

    `selection`: the filter's file, where only the pictures that it keeps may train.
    """

    name: str
    folder: Path | None
    selection: Path | None = None

    def source(self, ws: Workspace) -> str | None:
        """The folder as recorded: the workspace's own is relative to it."""
        if self.folder is None:
            return None
        return ws.name(self.folder) if self.name == OWN else str(self.folder)

    def kept(self) -> frozenset[str] | None:
        """Names, relative to `folder`, of the pictures that passed the filter; None: unfiltered."""
        if self.selection is None:
            return None
        rows = read_rows(self.selection, SelectionRow)
        return frozenset(row.file_name for row in rows if row.kept)

    def files(self, ws: Workspace) -> dict[str, str]:
        """Logical names and content hashes of the pictures, empty for real photos alone."""
        if self.folder is None:
            return {}
        kept = self.kept()
        if kept is None or self.selection is None:
            return {f"synthetic/{self.name}": hash_tree(self.folder)}
        metadata = self.folder / METADATA
        return {
            # This file holds every picture's own hash.
            ws.name(metadata): hash_file(metadata),
            # Of the selection only the choice: other measures or reasons train the same classifier.
            ws.name(self.selection): hash_json(sorted(kept)),
        }


def choose_arms(
    ctx: Context, synthetic: Sequence[str] = (), arms: Sequence[str] | None = None
) -> tuple[Arm, ...]:
    """`real`, `real+higfa` if `synthesize` has run, and `real+NAME` per `[NAME=]DIR`.

    Without `synthetic` the folders of the last run are kept, so that its results stay fresh and a
    later run compares the same arms. `arms` restricts the choice to the arms it names.

    Raises UserError: no new pictures at all, or not filtered yet; a folder that is not there, or
    a name used twice.
    """
    found = [Arm(REAL, None)]
    pictures = ctx.ws.synthesize
    if pictures.metadata.is_file():
        found.append(Arm(OWN, pictures.images, ctx.ws.filter.selection))
    found += [_parse(text) for text in synthetic] if synthetic else _remembered(ctx)
    names = [arm.name for arm in found]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"--synthetic: two arms are called {name}; name them apart with NAME=DIR", 2
            )
    if arms is not None:
        unknown = [name for name in arms if name not in names]
        if unknown:
            raise _no_arm(unknown[0], names, pictures.metadata)
        found = [arm for arm in found if arm.name in arms]
    _check_folders(found)
    if arms is not None:
        return tuple(found)
    if len(found) == 1:
        raise UserError(
            f"{pictures.metadata} is missing, so there are no pictures to compare with: run "
            "`higfa synthesize` first, give --synthetic DIR, or train on the photos alone with "
            "--arm real"
        )
    return tuple(found)


def _no_arm(name: str, names: Sequence[str], metadata: Path) -> UserError:
    if name in (OWN, OWN.removeprefix(f"{REAL}+")) and OWN not in names:
        return UserError(
            f"--arm {name}: {metadata} is missing, so there are no pictures to train on: "
            "run `higfa synthesize` first"
        )
    return UserError(f"--arm {name}: there is no such arm; arms are {', '.join(names)}", 2)


def _check_folders(arms: Sequence[Arm]) -> None:
    """An arm of the last run whose pictures have gone must not vanish from the comparison."""
    for arm in arms:
        if arm.selection is not None and not arm.selection.is_file():
            raise UserError(
                f"{arm.selection} is missing, so it is not known which pictures may train: run "
                "`higfa filter` first, or name other arms with --arm"
            )
        if arm.folder is not None and not arm.folder.is_dir():
            raise UserError(
                f"arm {arm.name} of the last run: {arm.folder} is gone; restore it, give "
                "--synthetic again, or name the arms to train with --arm"
            )


def _parse(text: str) -> Arm:
    """`[NAME=]DIR`; a folder whose own name holds "=" is meant as it stands."""
    name, separator, rest = text.partition("=")
    if not separator or "/" in name or Path(text).expanduser().is_dir():
        name, rest = "", text
    folder = Path(rest).expanduser().resolve()
    if not folder.is_dir():
        raise UserError(f"--synthetic {text}: {folder} is not a folder; correct the path", 2)
    return Arm(f"{REAL}+{name or folder.name}", folder)


def _remembered(ctx: Context) -> list[Arm]:
    try:
        recorded = read_record(ctx.ws.downstream.directory).inputs.parameters.get("arms")
    except UserError:
        # A broken record remembers nothing; the stage's own state reports it and runs again.
        return []
    named = recorded.items() if isinstance(recorded, dict) else ()
    return [
        Arm(name, Path(source))
        for name, source in named
        if name not in (REAL, OWN) and isinstance(source, str)
    ]
