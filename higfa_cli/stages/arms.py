"""The arms of a downstream comparison: real photos alone, and with each set of new pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from higfa_cli.artifacts.artifact import read_rows
from higfa_cli.artifacts.fingerprint import hash_file, hash_json, hash_tree
from higfa_cli.artifacts.rows import SelectionRow
from higfa_cli.artifacts.stage_state import read_record
from higfa_cli.artifacts.workspace import METADATA, ArmWorkspace
from higfa_cli.errors import UserError
from higfa_cli.recipe.arms import REAL, trained_as
from higfa_cli.stages.context import Context


@dataclass(frozen=True)
class Arm:
    """One side of the comparison.

    Attributes:
        name: as it is trained: `real`, or `real+NAME`.
        folder: class folders of its new pictures; None for real photos alone.
        drawn: where `synthesize` and `filter` left them; None for a folder that the user gave.
    """

    name: str
    folder: Path | None = None
    drawn: ArmWorkspace | None = None

    @property
    def recorded(self) -> str | None:
        """The folder as records and results name it."""
        if self.folder is None:
            return None
        return str(self.folder) if self.drawn is None else self.drawn.name(self.folder)

    def kept(self) -> frozenset[str] | None:
        """Names, relative to `folder`, of the pictures that may train; None for all."""
        if self.drawn is None:
            return None
        rows = read_rows(self.drawn.filter.selection, SelectionRow)
        return frozenset(row.file_name for row in rows if row.kept)

    def files(self) -> dict[str, str]:
        """Logical names and content hashes of the new pictures."""
        if self.folder is None:
            return {}
        if self.drawn is None:
            return {f"synthetic/{self.name}": hash_tree(self.folder)}
        metadata, selection = self.drawn.synthesize.metadata, self.drawn.filter.selection
        return {
            # This file holds every picture's own hash.
            self.drawn.name(metadata): hash_file(metadata),
            # Of the selection only the choice: other measures or reasons train the same classifier.
            self.drawn.name(selection): hash_json(sorted(self.kept() or ())),
        }

    def check(self) -> None:
        """Raise UserError unless the pictures are there, and it is known which may train."""
        if self.drawn is not None and not self.drawn.filter.selection.is_file():
            raise UserError(
                f"{self.drawn.filter.selection} is missing, so it is not known which pictures may "
                "train: run `higfa filter` first, or name other arms with --arm"
            )
        # An arm of the last run whose pictures have gone must not vanish from the comparison.
        if self.folder is not None and not self.folder.is_dir():
            raise UserError(
                f"arm {self.name} of the last run: {self.folder} is gone; restore it, give "
                "--synthetic again, or name the arms to train with --arm"
            )


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
        trained_as(ws.arm_name): Arm(trained_as(ws.arm_name), ws.synthesize.images, ws)
        for ws in map(ctx.ws.arm, ctx.recipe.arms)
    }
    given = [_parse(text) for text in synthetic] if synthetic else _remembered(ctx)
    names = [REAL, *drawn, *(arm.name for arm in given)]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"--synthetic: two arms are called {name}; name them apart with NAME=DIR", 2
            )
    ready = [arm for arm in drawn.values() if arm.drawn and arm.drawn.synthesize.metadata.is_file()]
    chosen = [Arm(REAL), *ready, *given]
    names = [arm.name for arm in chosen]
    if arms is not None:
        for name in arms:
            if name not in names:
                raise _no_arm(name, names, drawn)
        chosen = [arm for arm in chosen if arm.name in arms]
    for arm in chosen:
        arm.check()
    if arms is None and len(chosen) == 1:
        missing = ctx.ws.arm(next(iter(ctx.recipe.arms))).synthesize.metadata
        raise UserError(
            f"{missing} is missing, so there are no pictures to "
            "compare with: run `higfa synthesize` first, give --synthetic DIR, or train on the "
            "photos alone with --arm real"
        )
    return tuple(chosen)


def left_out(ctx: Context, chosen: Sequence[Arm]) -> tuple[str, ...]:
    """Arms of the recipe whose pictures are not drawn, so that they do not train."""
    trained = {arm.name for arm in chosen}
    return tuple(
        name
        for name in ctx.recipe.arms
        if trained_as(name) not in trained and not ctx.ws.arm(name).synthesize.metadata.is_file()
    )


def _no_arm(name: str, names: Sequence[str], drawn: Mapping[str, Arm]) -> UserError:
    near = drawn.get(name) or drawn.get(trained_as(name))
    if near is not None and near.folder is not None and near.name not in names:
        return UserError(
            f"--arm {name}: {near.folder / METADATA} is missing, so there are no pictures "
            "to train on: run `higfa synthesize` first"
        )
    return UserError(f"--arm {name}: there is no such arm; arms are {', '.join(names)}", 2)


def _parse(text: str) -> Arm:
    """`[NAME=]DIR`; a folder whose own name holds "=" is meant as it stands."""
    name, separator, rest = text.partition("=")
    if not separator or "/" in name or Path(text).expanduser().is_dir():
        name, rest = "", text
    folder = Path(rest).expanduser().resolve()
    if not folder.is_dir():
        raise UserError(f"--synthetic {text}: {folder} is not a folder; correct the path", 2)
    return Arm(trained_as(name or folder.name), folder)


def recorded_arms(ctx: Context) -> dict[str, str | None]:
    """The arms of the last run, and where each one's new pictures were; none without a run."""
    try:
        arms = read_record(ctx.ws.downstream.directory).inputs.parameters.get("arms")
    except UserError:
        # A broken record remembers nothing; the stage's own state reports it and runs again.
        return {}
    rows = arms.items() if isinstance(arms, dict) else ()
    return {name: source if isinstance(source, str) else None for name, source in rows}


def _remembered(ctx: Context) -> list[Arm]:
    """The folders that were given to the last run; those of the workspace are recorded below it."""
    sources = recorded_arms(ctx).items()
    return [
        Arm(name, Path(place)) for name, place in sources if place and Path(place).is_absolute()
    ]
