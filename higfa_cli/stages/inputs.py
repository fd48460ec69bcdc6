"""What each stage's result depends on. Needs no torch, so that a look costs little."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from higfa_cli.artifacts.fingerprint import hash_file, hash_json, hash_tree
from higfa_cli.artifacts.stage_state import StageInputs
from higfa_cli.data.dataset import class_words, photo_boxes
from higfa_cli.data.layouts.common import SPLITS, Listing, Row, check_rows, plain_name
from higfa_cli.data.prompts import templates_for
from higfa_cli.data.rejected import (
    check_share,
    file_state,
    fingerprint,
    leave_out,
    read_rejected,
    still_rejected,
)
from higfa_cli.errors import UserError
from higfa_cli.recipe.classifiers import Filter
from higfa_cli.recipe.contours import Edges
from higfa_cli.recipe.refs import resolve_ref, weights_path
from higfa_cli.recipe.schema import Recipe
from higfa_cli.stages.arms import choose_arms
from higfa_cli.stages.context import ArmContext, Context, check_splits, load_photos
from higfa_cli.training.room import check_memory
from higfa_cli.training.synthetic import list_synthetic

if TYPE_CHECKING:
    from higfa_cli.data.layouts.boxes import Box

#: Keys of section `model` that name a model.
MODELS = ("base", "controlnet", "gradient_autoencoder")
# Raised whenever the same inputs would give other contours.
_CONTOURS = 2
_GUIDE_READS = {"seed", "size", "guide", "model", "sampling"}
_PICTURES_READ = {"seed", "size", "model", "guidance", "sampling", "prompts"}


def contour_inputs(ctx: Context, anew: bool = False) -> StageInputs:
    """Of `contours`: its keys, the seed, and the content of all photos.

    `anew`: photos that an earlier run has found to be bad will be looked at again.
    Raises UserError when the data is missing or broken, has no images in a wanted split, or when
    more photos are known to be bad than the recipe allows.
    """
    recipe, listing = ctx.recipe, checked_listing(ctx)
    if not (anew or ctx.force):
        _check_rejected(ctx, listing)
    by_split: dict[str, list[Row]] = defaultdict(list)
    for row in listing.rows:
        by_split[row.split].append(row)
    parameters = {
        "version": _CONTOURS,
        "seed": recipe.seed,
        "size": recipe.size,
        "contours": recipe.contours.model_dump(mode="json"),
        # Of the data keys only these: where the folder lies does not change a contour, and
        # everything else about it is in the content hashes.
        "data": recipe.data.choices(),
    }
    files = {f"data/{split}": fingerprint(listing.root, rows) for split, rows in by_split.items()}
    if boxes := photo_boxes(recipe.data, listing):
        files["data/boxes"] = hash_json(boxes)
    return StageInputs(parameters, files)


def checked_listing(ctx: Context) -> Listing:
    """The listing, with all that can be wrong with it apart from the photos themselves."""
    recipe, splits = ctx.recipe, ctx.recipe.contours.splits
    if not splits or len(set(splits)) < len(splits):
        raise UserError("contours.splits must name each wanted split once, for example [train]")
    listing = ctx.listing
    plain = [row for row in listing.rows if plain_name(row.key)]
    check_rows(plain, str(listing.root))
    class_words(recipe.data, ctx.base, sorted({row.cls for row in plain}))
    present = {row.split for row in listing.rows}
    check_splits(recipe, [split for split in SPLITS if split in present])
    return listing


def edge_state(ctx: Context, path: Path, box: Box | None) -> str:
    """Whether a photo has edges depends on file and box, and on how they are made and moved."""
    recipe = ctx.recipe
    settings = [_CONTOURS, recipe.seed, recipe.size, recipe.contours.model_dump(mode="json")]
    state = file_state(path, recipe.data.crop_bottom, box)
    return f"{state}, contours {hash_json(settings)[:16]}"


def _check_rejected(ctx: Context, listing: Listing) -> None:
    """What an earlier run has listed holds too, as long as files and boxes are the same."""
    data, rejected = ctx.recipe.data, read_rejected(ctx.ws.contours.rejected)
    boxes = photo_boxes(data, listing)
    leave_out(listing, rejected, data.crop_bottom, boxes, data.max_bad)
    unusable = still_rejected(listing, rejected.rows, data.crop_bottom, boxes)
    listed = {row.key for row in listing.rows}
    edgeless = [
        row
        for row in rejected.rows
        if not row.unusable
        and row.key in listed
        and row.state == edge_state(ctx, listing.root / row.key, boxes.get(row.key))
    ]
    check_share([*unusable.values(), *edgeless], len(listing.rows), data.max_bad, rejected.path)


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
    more: dict[str, object] = {"words": dict(photos.words)}
    if ctx.recipe.pictures.total_per_class is not None:
        more["train"] = dict(Counter(photo.cls for photo in photos.of("train")))
    return StageInputs({"version": 2, **drawing_parameters(ctx), **more}, files)


def drawing_parameters(ctx: ArmContext) -> dict[str, object]:
    """The keys that the pictures of an arm depend on."""
    recipe = ctx.recipe
    pictures = recipe.pictures.model_dump(exclude={"gallery"}, exclude_none=True)
    pictures["sample"] = ctx.sample
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


def guide_keys(rules: Filter) -> tuple[str, ...]:
    """The keys of the recipe's `filter` section that cannot be answered without the guide."""
    needs = {
        "confidence": rules.confidence > 0,
        "top_k": rules.top_k is not None,
        "best_of": rules.best_of > 1,
    }
    return tuple(f"filter.{name}" for name, needed in needs.items() if needed)


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
        if arm.folder is not None and arm.drawn is None:
            pictures = list_synthetic(arm.folder, photos.classes).paths
            what, remedy = (
                f"pictures of arm {arm.name}",
                "lower downstream.image_size, or give fewer",
            )
            check_memory(len(pictures), recipe.downstream.image_size, what, remedy)
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
    for key in MODELS:
        ref = getattr(model, key)
        place = None if ref is None else resolve_ref(ref, ctx.base)
        if isinstance(place, Path):
            files[f"model.{key}"] = hash_tree(place)
    if prompts.bank is not None:
        templates = templates_for(prompts, classes, ctx.base)
        files["prompts.bank"] = hash_json({name: list(texts) for name, texts in templates.items()})
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
