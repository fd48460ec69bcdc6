"""The arms of a downstream comparison: real photos alone, and with each set of new pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from higfa_cli.artifacts.artifact import read_rows
from higfa_cli.artifacts.fingerprint import hash_file, hash_json, hash_tree
from higfa_cli.artifacts.rows import SelectionRow
from higfa_cli.artifacts.stage_state import read_record
from higfa_cli.artifacts.workspace import METADATA, ArmWorkspace
from higfa_cli.errors import UserError
from higfa_cli.recipe.arms import REAL, Changes, trained_as
from higfa_cli.stages.context import Context

STAGE = "train-downstream"


class Source(Protocol):
    """Where an arm's new pictures come from."""

    @property
    def folder(self) -> Path:
        """Class folders of pictures."""
        ...

    @property
    def recorded(self) -> str:
        """The folder as records and results name it."""
        ...

    def kept(self) -> frozenset[str] | None:
        """Names, relative to `folder`, of the pictures that may train; None for all."""
        ...

    def files(self) -> dict[str, str]:
        """Logical names and content hashes of the pictures."""
        ...

    def check(self) -> None:
        """Raise UserError unless the pictures are there."""
        ...


@dataclass(frozen=True)
class Drawn:
    """What stage `synthesize` drew for an arm, and stage `filter` kept."""

    ws: ArmWorkspace

    @property
    def folder(self) -> Path:
        return self.ws.synthesize.images

    @property
    def recorded(self) -> str:
        return self.ws.name(self.folder)

    def kept(self) -> frozenset[str]:
        rows = read_rows(self.ws.filter.selection, SelectionRow)
        return frozenset(row.file_name for row in rows if row.kept)

    def files(self) -> dict[str, str]:
        metadata, selection = self.ws.synthesize.metadata, self.ws.filter.selection
        return {
            # This file holds every picture's own hash.
            self.ws.name(metadata): hash_file(metadata),
            # Of the selection only the choice: other measures or reasons train the same classifier.
            self.ws.name(selection): hash_json(sorted(self.kept())),
        }

    def check(self) -> None:
        if not self.ws.filter.selection.is_file():
            raise UserError(
                f"{self.ws.filter.selection} is missing, so it is not known which pictures may "
                "train: run `higfa filter` first, or name other arms with --arm"
            )
        _check_folder(self.ws.arm_name, self.folder)


@dataclass(frozen=True)
class Folder:
    """A folder that the user gave; all of its pictures train."""

    name: str
    folder: Path

    @property
    def recorded(self) -> str:
        return str(self.folder)

    def kept(self) -> None:
        return None

    def files(self) -> dict[str, str]:
        return {f"synthetic/{self.name}": hash_tree(self.folder)}

    def check(self) -> None:
        _check_folder(self.name, self.folder)


@dataclass(frozen=True)
class Arm:
    """One side of the comparison.

    Attributes:
        name: as it is trained: `real`, or `real+NAME`.
        source: its new pictures; None for real photos alone.
        changes: the recipe's keys that it draws and filters with.
    """

    name: str
    source: Source | None = None
    changes: Changes = field(default_factory=dict)

    @property
    def recorded(self) -> str | None:
        """Where its new pictures are, as records and results name it."""
        return None if self.source is None else self.source.recorded


def choose_arms(
    ctx: Context, synthetic: Sequence[str] = (), arms: Sequence[str] | None = None
) -> tuple[Arm, ...]:
    """`real`, `real+NAME` for each of the recipe's arms that is drawn, and per `[NAME=]DIR`.

    Without `synthetic` the folders of the last run are kept, so that its results stay fresh and a
    later run compares the same arms. `arms` restricts the choice to the arms it names.

    Raises UserError: no new pictures at all, or not filtered yet; a folder that is not there, or
    a name used twice.
    """
    drawn = {
        trained_as(name): Arm(trained_as(name), Drawn(ctx.ws.arm(name)), changes)
        for name, changes in ctx.recipe.arms.items()
    }
    given = [_parse(text) for text in synthetic] if synthetic else _remembered(ctx)
    names = [REAL, *drawn, *(arm.name for arm in given)]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"--synthetic: two arms are called {name}; name them apart with NAME=DIR", 2
            )
    chosen = [Arm(REAL), *(arm for arm in drawn.values() if _is_drawn(arm)), *given]
    names = [arm.name for arm in chosen]
    if arms is not None:
        for name in arms:
            if name not in names:
                raise _no_arm(name, names, drawn)
        chosen = [arm for arm in chosen if arm.name in arms]
    for arm in chosen:
        if arm.source is not None:
            arm.source.check()
    if arms is None and len(chosen) == 1:
        missing = ctx.ws.arm(next(iter(ctx.recipe.arms))).synthesize.metadata
        raise UserError(
            f"{missing} is missing, so there are no pictures to "
            "compare with: run `higfa synthesize` first, give --synthetic DIR, or train on the "
            "photos alone with --arm real"
        )
    return tuple(chosen)


def _is_drawn(arm: Arm) -> bool:
    return arm.source is not None and (arm.source.folder / METADATA).is_file()


def _no_arm(name: str, names: Sequence[str], drawn: Mapping[str, Arm]) -> UserError:
    near = drawn.get(name) or drawn.get(trained_as(name))
    if near is not None and near.source is not None and near.name not in names:
        return UserError(
            f"--arm {name}: {near.source.folder / METADATA} is missing, so there are no pictures "
            "to train on: run `higfa synthesize` first"
        )
    return UserError(f"--arm {name}: there is no such arm; arms are {', '.join(names)}", 2)


def _check_folder(name: str, folder: Path) -> None:
    """An arm of the last run whose pictures have gone must not vanish from the comparison."""
    if not folder.is_dir():
        raise UserError(
            f"arm {name} of the last run: {folder} is gone; restore it, give --synthetic again, "
            "or name the arms to train with --arm"
        )


def _parse(text: str) -> Arm:
    """`[NAME=]DIR`; a folder whose own name holds "=" is meant as it stands."""
    name, separator, rest = text.partition("=")
    if not separator or "/" in name or Path(text).expanduser().is_dir():
        name, rest = "", text
    folder = Path(rest).expanduser().resolve()
    if not folder.is_dir():
        raise UserError(f"--synthetic {text}: {folder} is not a folder; correct the path", 2)
    return _folder_arm(trained_as(name or folder.name), folder)


def _folder_arm(name: str, folder: Path) -> Arm:
    return Arm(name, Folder(name, folder))


def _remembered(ctx: Context) -> list[Arm]:
    try:
        recorded = read_record(ctx.ws.downstream.directory).inputs.parameters.get("arms")
    except UserError:
        # A broken record remembers nothing; the stage's own state reports it and runs again.
        return []
    named = recorded.items() if isinstance(recorded, dict) else ()
    # Folders of the workspace are recorded relative to it.
    return [
        _folder_arm(name, Path(source))
        for name, source in named
        if isinstance(source, str) and Path(source).is_absolute()
    ]
