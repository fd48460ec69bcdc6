"""What every stage is given: the recipe, where its paths start, where artifacts go; the photos."""

from __future__ import annotations

import contextlib
import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypeVar

from higfa_cli.artifacts.class_folders import class_dir
from higfa_cli.artifacts.safe_paths import refuse_linked_folder
from higfa_cli.artifacts.workspace import ArmWorkspace, Workspace
from higfa_cli.data.copies import notes
from higfa_cli.data.dataset import Dataset, choose_photos, list_photos, photo_boxes
from higfa_cli.data.layouts import CLASS_FOLDERS, layout_of
from higfa_cli.data.layouts.common import SPLITS, Listing
from higfa_cli.data.rejected import Rejected, by_reason, first_of, read_rejected, still_rejected
from higfa_cli.errors import UserError
from higfa_cli.recipe.data import Data
from higfa_cli.recipe.load import LoadedRecipe
from higfa_cli.recipe.refs import resolve_ref
from higfa_cli.recipe.schema import Recipe
from higfa_cli.text import plural

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
    """One run of the program: passed to every stage.

    `sample`: draw only so many pictures of each arm, spread over the classes; None for all.
    """

    recipe: Recipe
    base: Path
    workspace: Path
    progress: Progress = field(default_factory=Silent)
    force: bool = False
    sample: int | None = None

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

    def arm(self, name: str) -> ArmContext:
        """The same run for one of `Recipe.drawn`, with the recipe of that arm."""
        values = {each.name: getattr(self, each.name) for each in fields(Context)}
        if name not in self.recipe.arms:
            values["sample"] = self.recipe.pictures.gallery
        arm = ArmContext(**values | {"recipe": self.recipe.arm(name)}, name=name)
        # Arms have the same photos; those that were listed are not listed again.
        listed = {"listing": self.listing} if "listing" in vars(self) else {}
        vars(arm).update(listed, photos=self.photos)
        return arm

    def stage_dir(self, stage: str) -> Path:
        """Folder of a stage's artifacts."""
        return self.workspace / stage


def choose_names(asked: Sequence[str], choices: Iterable[str]) -> tuple[str, ...]:
    """The arms that `--arm` names, or all. Raises UserError (exit code 2) for one that is none."""
    every = tuple(choices)
    for name in asked:
        if name not in every:
            raise UserError(
                f"--arm {name}: there is no such arm; arms are {', '.join(every)}", exit_code=2
            )
    return tuple(asked) or every


def arms_of(ctx: Context, stage: str, names: Sequence[str]) -> list[ArmContext]:
    """The arms by name, for a stage that has a folder for each.

    Raises UserError where a link lies in the place of the stage's folder.
    """
    refuse_linked_folder(ctx.workspace / stage)
    return [ctx.arm(name) for name in names]


@dataclass(frozen=True, kw_only=True)
class ArmContext(Context):
    """A run as one arm's pictures are given it.

    Attributes:
        recipe: the arm's own.
        name: the arm.
    """

    name: str

    @property
    def ws(self) -> ArmWorkspace:
        """Where each artifact lies, the arm's pictures among them."""
        return ArmWorkspace(self.workspace, self.name)


def make_context(
    loaded: LoadedRecipe,
    workspace: Path | None = None,
    progress: Progress | None = None,
    force: bool = False,
) -> Context:
    """A context; `workspace` is relative to the current folder, the recipe's own to the recipe.

    Raises UserError where that folder, or the home folder of `~`, does not exist, and for a
    workspace among the photos.
    """
    recipe = loaded.recipe
    named = recipe.workspace.replace("{name}", class_dir(recipe.name))
    folder = workspace or loaded.base / Path(named).expanduser()
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
    _check_apart(recipe, loaded.base, folder)
    return Context(
        recipe=recipe,
        base=loaded.base,
        workspace=folder,
        progress=progress or Silent(),
        force=force,
    )


def _check_apart(recipe: Recipe, base: Path, workspace: Path) -> None:
    """Raise UserError for a workspace in the folder of the user's photos."""
    root: Path | str = ""
    with contextlib.suppress(UserError):
        root = resolve_ref(recipe.data.root, base)
    if (
        recipe.data.layout != CLASS_FOLDERS
        or not isinstance(root, Path)
        or not workspace.resolve().is_relative_to(root)
    ):
        return
    apart = root.parent / "runs" / workspace.name
    raise UserError(
        f"workspace {workspace} lies in the data folder {root}, whose folders are classes; give "
        f"another: --workspace {shlex.quote(str(apart))}, or the recipe's key `workspace`"
    )


def load_photos(ctx: Context) -> Dataset:
    """The recipe's photos, without those that stage `contours` rejected (if it has run).

    Without that stage a bad photo is an error of the stage that reads it.
    Raises UserError as `load_dataset`.
    """
    return usable_photos(ctx, read_rejected(ctx.ws.contours.rejected))


def usable_photos(ctx: Context, rejected: Rejected) -> Dataset:
    """The recipe's photos without those that are known to be unusable; put together once."""
    if rejected not in ctx.photos:
        recipe = ctx.recipe
        ctx.photos[rejected] = choose_photos(
            ctx.listing, recipe.data, ctx.base, recipe.seed, rejected
        )
    return ctx.photos[rejected]


def photo_notes(ctx: Context) -> list[str]:
    """What a user may not expect of the photos; nothing where they cannot be listed."""
    try:
        listing = ctx.listing
    except UserError:
        return []
    sentences = [*_unlike_published(ctx.recipe.data, listing)]
    sentences += notes(listing.root, listing.rows)
    try:
        sentences += _left_out(ctx, listing)
        if rows := read_rejected(ctx.ws.contours.rejected).rows:
            left = plural(len(rows), "photo was", "photos were")
            sentences.append(f"{left} left out ({by_reason(rows)}): {ctx.ws.contours.rejected}")
        unlisted = listing.unlisted()
    except UserError as error:
        return [*sentences, str(error)]
    if unlisted:
        lie = plural(len(unlisted), "photo lies", "photos lie")
        sentences.append(
            f"{lie} below data.root and in no row of the split file ({unlisted[0]}, ...): "
            "write it again with `higfa init --force`, or add rows (split `unused`: left out)"
        )
    return sentences


def _unlike_published(data: Data, listing: Listing) -> Iterator[str]:
    """Where there are fewer or more photos than others have who name that public dataset."""
    layout = layout_of(data.layout)
    if layout is None or data.root.startswith("pocket:"):
        return
    here = Counter(row.split for row in listing.rows)
    if here != layout.sizes:
        published, found = (
            ", ".join(f"{sizes[split]:,} {split}" for split in SPLITS if sizes.get(split))
            for sizes in (layout.sizes, here)
        )
        yield f"{layout.title} as published has {published} photos, here are {found}"


def _left_out(ctx: Context, listing: Listing) -> Iterator[str]:
    """Test photos on which nobody is tested."""
    data, rejected = ctx.recipe.data, read_rejected(ctx.ws.contours.rejected).rows
    boxes = photo_boxes(data, listing)
    lost = still_rejected(listing, rejected, data.crop_bottom, boxes).values()
    if tests := [row for row in lost if row.split == "test"]:
        whole = plural(sum(row.split == "test" for row in listing.rows), "test photo")
        yield f"{len(tests):,} of {whole} cannot be used and take no part: {first_of(tests)}"


def check_splits(recipe: Recipe, present: Collection[str]) -> None:
    """Raise UserError where `contours.splits` names a split that the data has not."""
    for split in recipe.contours.splits:
        if split not in present:
            raise UserError(
                f"contours.splits asks for `{split}`, which the data has not (present: "
                f"{', '.join(present)}); remove it from contours.splits"
            )
