"""The photos that every stage after `contours` reads: those that it found usable."""

from __future__ import annotations

from collections.abc import Collection

from higfa_cli.data.dataset import Dataset, choose_photos
from higfa_cli.data.rejected import Rejected, read_rejected
from higfa_cli.errors import UserError
from higfa_cli.recipe.schema import Recipe
from higfa_cli.stages.context import Context


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


def check_splits(recipe: Recipe, present: Collection[str]) -> None:
    """Raise UserError where `contours.splits` names a split that the data has not."""
    for split in recipe.contours.splits:
        if split not in present:
            raise UserError(
                f"contours.splits asks for `{split}`, which the data has not (present: "
                f"{', '.join(present)}); remove it from contours.splits"
            )
