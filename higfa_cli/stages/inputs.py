"""What each stage's result depends on. Needs no torch, so that a look costs little."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from higfa_cli.artifacts.fingerprint import hash_file, hash_json, hash_tree
from higfa_cli.artifacts.run_record import StageInputs
from higfa_cli.data.filter_rules import guide_keys
from higfa_cli.data.prompt_bank import templates_for
from higfa_cli.errors import UserError
from higfa_cli.recipe.contours import Edges
from higfa_cli.recipe.refs import resolve_ref, weights_path
from higfa_cli.recipe.schema import Recipe
from higfa_cli.stages.arms import choose_arms
from higfa_cli.stages.context import ArmContext, Context
from higfa_cli.stages.photos import load_photos

_GUIDE_READS = {"seed", "size", "guide", "model", "sampling"}
_PICTURES_READ = {"seed", "size", "model", "guidance", "sampling", "prompts"}


def guide_inputs(ctx: Context) -> StageInputs:
    """Of `finetune-guide`: its keys, train and val photos, the diffusion model.

    Raises UserError when data or weights are missing.
    """
    recipe, photos = ctx.recipe, load_photos(ctx)
    classifier = recipe.guidance.classifier
    files = {
        f"data/{split}": photos.fingerprint(split) for split in photos.splits if split != "test"
    }
    files |= model_inputs(ctx, photos.classes)
    if recipe.guide.weights is not None:
        files["guide.weights"] = hash_file(weights_path(recipe.guide.weights, ctx.base))
    parameters = {
        "version": 1,
        **recipe.model_dump(mode="json", include=_GUIDE_READS),
        "data": recipe.data.choices(),
        "words": dict(photos.words),
        "contours": recipe.contours.model_dump(mode="json", include=set(Edges.model_fields)),
        # The plain conditional branch is all that is asked of the model.
        "prompts": recipe.prompts.model_dump(mode="json", exclude={"negative"}),
        # Of the guidance nothing but the levels at which the guide is consulted.
        "switch": [classifier.switch, classifier.switch_sigma],
    }
    return StageInputs(parameters, files)


def synthesize_inputs(ctx: ArmContext) -> StageInputs:
    """Of an arm of `synthesize`: contours, guide, model, and all that the recipe says of drawing.

    Raises UserError: contours or guide are missing, or do not fit the recipe.
    """
    photos = load_photos(ctx)
    read = [manifest_path(ctx), *([guide_path(ctx)] if ctx.recipe.guidance.consulted else [])]
    files = {ctx.ws.name(path): hash_file(path) for path in read}
    files |= model_inputs(ctx, photos.classes)
    words = {"words": dict(photos.words)}
    return StageInputs({"version": 2, **drawing_parameters(ctx), **words}, files)


def drawing_parameters(ctx: ArmContext) -> dict[str, object]:
    """The keys that the pictures of an arm depend on."""
    recipe = ctx.recipe
    pictures = {"per_contour": recipe.pictures.per_contour, "sample": ctx.sample}
    sections = recipe.model_dump(mode="json", include=_PICTURES_READ)
    return sections | {"pictures": pictures, "run": recipe.run.parting()}


def filter_inputs(ctx: ArmContext) -> StageInputs:
    """Of an arm of `filter`: its keys, the pictures, the guide where it is used, photos.

    Raises UserError: no pictures, or a key asks for a guide that is not there.
    """
    recipe, photos, path = ctx.recipe, load_photos(ctx), ctx.ws.synthesize.metadata
    if not path.is_file():
        raise UserError(f"{path} is missing; run `higfa synthesize` first")
    files = {ctx.ws.name(path): hash_file(path)}
    keys, guide = guide_keys(recipe.filter), ctx.ws.guide.checkpoint
    if filter_reads_guide(recipe) and guide.is_file():
        files[ctx.ws.name(guide)] = hash_file(guide)
    elif keys:
        raise UserError(
            f"{', '.join(keys)}: {guide} is missing; run `higfa finetune-guide` first, or leave "
            f"{'these keys' if len(keys) > 1 else 'this key'} out of the recipe"
        )
    files |= {f"data/{split}": photos.fingerprint(split) for split in recipe.contours.splits}
    parameters = {
        "version": 1,
        "filter": recipe.filter.model_dump(mode="json"),
        "data": recipe.data.model_dump(mode="json", include={"crop_bottom"}),
        "classes": list(photos.classes),
    }
    return StageInputs(parameters, files)


def filter_reads_guide(recipe: Recipe) -> bool:
    """Whether a key needs the guide, or the sampler had it, so that its measures are of use."""
    return recipe.guidance.consulted or bool(guide_keys(recipe.filter))


def downstream_inputs(
    ctx: Context, synthetic: Sequence[str] = (), arms: Sequence[str] | None = None
) -> StageInputs:
    """Of `train-downstream`: the `downstream` keys, all photos, every arm's pictures.

    Raises UserError: data missing, or no new pictures (names the command that makes them).
    """
    recipe, photos = ctx.recipe, load_photos(ctx)
    chosen = choose_arms(ctx, synthetic, arms)
    files = {f"data/{split}": photos.fingerprint(split) for split in photos.splits}
    for arm in chosen:
        files |= arm.files()
    if recipe.downstream.weights is not None:
        weights = weights_path(recipe.downstream.weights, ctx.base)
        files["downstream.weights"] = hash_file(weights)
    parameters = {
        "version": 1,
        "seed": recipe.seed,
        "data": recipe.data.choices(),
        "downstream": recipe.downstream.model_dump(mode="json"),
        "arms": {arm.name: arm.recorded for arm in chosen},
    }
    return StageInputs(parameters, files)


def model_inputs(ctx: Context, classes: Sequence[str]) -> dict[str, str]:
    """Recipe key -> hash of the local folder that it names, and of a bank's prompts.

    A hub id is named by the recipe itself, with its revision.
    Raises UserError for a path or prompt bank that is missing or broken.
    """
    model, prompts = ctx.recipe.model, ctx.recipe.prompts
    files = {}
    for key in ("base", "controlnet", "gradient_autoencoder"):
        ref = getattr(model, key)
        found = None if ref is None else resolve_ref(ref, ctx.base)
        if isinstance(found, Path):
            files[f"model.{key}"] = hash_tree(found)
    if prompts.bank is not None:
        templates = templates_for(prompts, classes, ctx.base)
        files["prompts.bank"] = hash_json({name: list(own) for name, own in templates.items()})
    return files


def manifest_path(ctx: Context) -> Path:
    """The contours' manifest. Raises UserError when it is missing."""
    path = ctx.ws.contours.manifest
    if not path.is_file():
        raise UserError(f"{path} is missing; run `higfa contours` first")
    return path


def guide_path(ctx: Context) -> Path:
    """The guide's checkpoint. Raises UserError when it is missing."""
    path = ctx.ws.guide.checkpoint
    if not path.is_file():
        raise UserError(
            f"{path} is missing; run `higfa finetune-guide` first, or switch the guide off with "
            "--set guidance.classifier.switch=1"
        )
    return path
