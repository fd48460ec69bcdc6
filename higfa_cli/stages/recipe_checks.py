"""What can be said of a recipe before its data and models are there. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from higfa_cli.data.dataset import Dataset
from higfa_cli.data.layouts.common import Split
from higfa_cli.data.prompts import load_words, negative_for
from higfa_cli.errors import UserError
from higfa_cli.models.architecture import check_model
from higfa_cli.recipe.refs import POCKET, existing_path, resolve_ref, weights_path
from higfa_cli.recipe.schema import Recipe
from higfa_cli.stages.context import Context, load_photos
from higfa_cli.stages.inputs import MODELS
from higfa_cli.stages.plan import expected
from higfa_cli.training import room


def check_run(ctx: Context, stages: Sequence[str]) -> None:
    """Raise UserError for what would stop a stage after hours of others."""
    if "train-downstream" in stages and not ctx.ws.downstream.results.is_file():
        # Only timm knows its names, and a look at what is finished does not wait for it.
        from higfa_cli.models.backbones import check_name, read_weights

        downstream = ctx.recipe.downstream
        check_name(downstream.backbone, "downstream")
        if downstream.weights is not None:
            read_weights(weights_path(downstream.weights, ctx.base), "downstream.weights")
    if {"finetune-guide", "synthesize"} & set(stages):
        for name in ctx.recipe.arms:
            check_recipe(ctx.recipe.arm(name), ctx.base)
        try:
            photos = load_photos(ctx)
        except UserError:
            # The first stage says it.
            return
        check_photos(ctx.recipe, photos)


def check_recipe(recipe: Recipe, base: Path) -> None:
    """Raise UserError unless the texts and parts that a valid recipe names are there.

    `base` is the recipe's folder.
    """
    check_texts(recipe, base)
    refs = {f"model.{key}": getattr(recipe.model, key) for key in MODELS}
    for key, ref in {"data.root": recipe.data.root, **refs}.items():
        if ref is not None and ref.startswith("pocket:") and not _is_of_absent_pocket(ref):
            resolve_ref(ref, base, key)
    if not any(ref and _is_of_absent_pocket(ref) for ref in refs.values()):
        check_model(recipe, base)


def check_photos(recipe: Recipe, photos: Dataset) -> None:
    """`check_room`, and that there is something to draw."""
    counts = {split: len(photos.of(split)) for split in photos.splits}
    check_room(recipe, counts, sum(expected(recipe, photos).values()))


def check_room(recipe: Recipe, photos: Mapping[Split, int], drawn: int) -> None:
    """Raise UserError where what a stage will hold in memory does not fit.

    `photos`: split -> how many; `drawn`: pictures of an arm. What a filter by the guide will leave
    is not known before.
    """
    pictures = {}
    for name in recipe.arms:
        rules = recipe.arm(name).filter
        if not rules.confidence and rules.top_k is None:
            pictures[name] = drawn // rules.best_of
    room.check_guide(recipe, photos)
    room.check_downstream(recipe, photos, pictures)


def check_texts(recipe: Recipe, base: Path) -> None:
    """Raise UserError unless prompt bank and class words can be read.

    Which classes they must have only the data can say.
    """
    negative_for(recipe.prompts.model_copy(update={"negative": None}), base)
    words = recipe.data.class_words
    if words is not None and not _is_of_absent_pocket(words):
        load_words(existing_path(words, base, "data.class_words"))


def _is_of_absent_pocket(ref: str) -> bool:
    """Whether a reference is right, but its package is not installed: no fault of the recipe."""
    scheme, _, name = ref.partition(":")
    return scheme == "pocket" and name in POCKET and find_spec("higfa_pocket") is None
