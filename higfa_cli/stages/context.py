"""What every stage is given: the recipe, where its paths start, and where artifacts go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypeVar

from higfa_cli.artifacts.class_folders import class_dir
from higfa_cli.artifacts.workspace import Workspace
from higfa_cli.data.dataset import Dataset, list_photos
from higfa_cli.data.layouts.common import Listing
from higfa_cli.data.rejected import Rejected
from higfa_cli.errors import UserError
from higfa_cli.recipe.load import LoadedRecipe
from higfa_cli.recipe.schema import Recipe

T = TypeVar("T")


class Progress(Protocol):
    """How a stage tells what it is doing, without knowing the terminal."""

    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        """Yield `items`, showing how far it is; `total` where `items` has no length."""
        ...

    def note(self, message: str) -> None:
        """One human line."""
        ...


class Silent:
    """Progress that shows nothing."""

    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        """Yield `items`."""
        yield from items

    def note(self, message: str) -> None:
        """Say nothing."""


@dataclass(frozen=True)
class Context:
    """One run of the program: passed to every stage."""

    recipe: Recipe
    base: Path
    workspace: Path
    progress: Progress = field(default_factory=Silent)
    force: bool = False

    @cached_property
    def listing(self) -> Listing:
        """All files that should be photos, looked for once. Raises UserError as `list_photos`."""
        return list_photos(self.recipe.data, self.base)

    @cached_property
    def photos(self) -> dict[Rejected, Dataset]:
        """The usable photos, by what was found unusable; filled by `load_photos`."""
        return {}

    @property
    def ws(self) -> Workspace:
        """Where each artifact lies."""
        return Workspace(self.workspace)

    def stage_dir(self, stage: str) -> Path:
        """Folder of a stage's artifacts."""
        return self.workspace / stage


def make_context(
    loaded: LoadedRecipe,
    workspace: Path | None = None,
    progress: Progress | None = None,
    force: bool = False,
) -> Context:
    """A context; without `workspace` the recipe's own, relative to the current folder.

    Raises UserError where that folder, or the home folder of `~`, does not exist.
    """
    recipe = loaded.recipe
    named = recipe.workspace.replace("{name}", class_dir(recipe.name))
    folder = workspace or Path(named)
    try:
        # Absolute ones need no current folder; it may have been deleted.
        folder = folder.expanduser()
        folder = folder if folder.is_absolute() else Path.cwd() / folder
    except RuntimeError:
        raise UserError(
            f"workspace {folder}: no home folder known; give --workspace another path"
        ) from None
    except FileNotFoundError:
        raise UserError(
            f"workspace {folder}: the current folder is gone; cd to another, or give --workspace "
            "an absolute path"
        ) from None
    return Context(
        recipe=recipe,
        base=loaded.base,
        workspace=folder,
        progress=progress or Silent(),
        force=force,
    )
