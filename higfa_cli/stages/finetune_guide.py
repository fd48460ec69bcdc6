"""Stage `finetune-guide`: a classifier that reads what the sampler shows it, calibrated there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from higfa_cli.artifacts.artifact import write_model, write_rows
from higfa_cli.artifacts.atomic import read_json, write_json
from higfa_cli.artifacts.records import GuideCounts
from higfa_cli.artifacts.results import Calibration, EpochRow
from higfa_cli.artifacts.run_record import StageRun, stage_run
from higfa_cli.artifacts.seeds import seed_for
from higfa_cli.data.dataset import Dataset
from higfa_cli.errors import UserError
from higfa_cli.method.protocols import Level
from higfa_cli.models.backbones import Backbone, create_backbone
from higfa_cli.models.classifier import ClassifierSpec, save_classifier
from higfa_cli.models.device import resolve_device
from higfa_cli.models.diffusion import DiffusionModel
from higfa_cli.models.loading import load_pipeline
from higfa_cli.stages.batching import batch_size
from higfa_cli.stages.context import Context
from higfa_cli.stages.guide_pool import (
    Job,
    Photos,
    photo_prompts,
    pool_jobs,
    read_photos,
    render,
    trial,
)
from higfa_cli.stages.inputs import guide_inputs
from higfa_cli.stages.photos import load_photos
from higfa_cli.stages.summaries import GuideSummary
from higfa_cli.training.calibration import HeldOut, calibrate
from higfa_cli.training.pictures import Pictures, TrainSet, join, stratified_folds
from higfa_cli.training.trainer import FitResult, fit, predict_logits

NAME = "finetune-guide"


@dataclass(frozen=True)
class Pool:
    """Noised and reconstructed versions of `photos`: picture n comes from jobs[n]."""

    photos: Photos
    jobs: tuple[Job, ...]
    pictures: Pictures

    def part(self, rows: Sequence[int]) -> Pictures:
        """The pictures that come from the photos `rows`."""
        wanted = set(rows)
        numbers = [number for number, (row, _) in enumerate(self.jobs) if row in wanted]
        return self.pictures.select(torch.tensor(numbers, dtype=torch.int64))


def run(ctx: Context) -> GuideSummary:
    """Train and calibrate; writes guide.safetensors, calibration.json and history.jsonl.

    Raises UserError for bad data, an unknown backbone, or weights that cannot be had.
    """
    dataset = load_photos(ctx)
    recipe, files = ctx.recipe, ctx.ws.guide
    device = resolve_device(recipe.run.device)
    # Before the long work, so that a misspelt name or an absent file fails at once.
    _backbone(ctx, dataset, "guide")
    with stage_run(files.directory, guide_inputs(ctx), recipe, resume=not ctx.force) as record:
        record.device = str(device)
        # The plain conditional branch is all that is asked of the model: no negative prompt.
        photos = [sample for sample in dataset.samples if sample.split != "test"]
        prompts = {"", *photo_prompts(photos, dataset, recipe, ctx.base)}
        model = load_pipeline(recipe, ctx.base, device, prompts)
        levels = guided_levels(ctx, model)
        train = _pool(ctx, record, dataset, model, levels)
        if dataset.of("val"):
            backbone, fitted, held = _with_validation(ctx, record, dataset, model, levels, train)
            calibration = calibrate(held, levels, "val")
            history = _named("guide", fitted)
        else:
            held, history = _cross_validated(ctx, record, dataset, train)
            everything = list(range(len(train.photos)))
            backbone, fitted = _fit(ctx, record, dataset, train, everything, None, "guide")
            calibration = calibrate(held, levels, "cross-validation")
            history += _named("guide", fitted)
        spec = _spec(recipe.guide.image_size, backbone, dataset, calibration.temperature)
        save_classifier(files.checkpoint, backbone.network, spec, {"stage": NAME})
        write_model(files.calibration, calibration)
        write_rows(files.history, history)
        for path in (files.checkpoint, files.calibration, files.history):
            record.output(path)
        counts = GuideCounts(
            photos=len(train.photos),
            noised=len(train.jobs),
            steps=fitted.steps,
            best_epoch=fitted.best_epoch,
            seconds=round(fitted.seconds, 2),
        )
        record.counts = counts
    return _summary(ctx, dataset, fitted, calibration, counts)


def guided_levels(ctx: Context, model: DiffusionModel) -> tuple[Level, ...]:
    """The solver's levels at which the recipe consults the guide; may be none."""
    levels = model.solver(ctx.recipe.sampling.steps).levels
    return tuple(level for level in levels if ctx.recipe.guidance.guided(level))


def _pool(
    ctx: Context,
    record: StageRun,
    dataset: Dataset,
    model: DiffusionModel,
    levels: Sequence[Level],
) -> Pool:
    recipe = ctx.recipe
    photos = read_photos(dataset.of("train"), dataset, recipe, ctx.base, ctx.progress)
    jobs = pool_jobs(photos, levels, recipe.guide.noised_per_image, recipe.seed)
    pictures = _render(ctx, record, model, photos, jobs, "training")
    return Pool(photos, jobs, pictures)


def _render(
    ctx: Context,
    record: StageRun,
    model: DiffusionModel,
    photos: Photos,
    jobs: Sequence[Job],
    kind: str,
) -> Pictures:
    # A resumed run must not probe again: pictures depend a little on how many are drawn together.
    settled = record.scratch(f"{kind}.json")
    if not settled.is_file():
        some_level = next((level for _, level in jobs if level is not None), None)
        size = batch_size(ctx, model, trial(model, photos, some_level))
        write_json(settled, {"batch_size": size})
    batch = int(read_json(settled)["batch_size"])
    seed, progress = ctx.recipe.seed, ctx.progress
    return render(model, photos, jobs, seed, batch, progress, f"noising {kind} photos")


def _with_validation(
    ctx: Context,
    record: StageRun,
    dataset: Dataset,
    model: DiffusionModel,
    levels: Sequence[Level],
    train: Pool,
) -> tuple[Backbone, FitResult, HeldOut]:
    """Train on all training photos; choose the epoch and calibrate on validation photos."""
    recipe = ctx.recipe
    photos = read_photos(dataset.of("val"), dataset, recipe, ctx.base, ctx.progress)
    jobs = tuple((row, level) for row in range(len(photos)) for level in (None, *levels))
    pictures = _render(ctx, record, model, photos, jobs, "validation")
    # The epoch is chosen on photos and on one noised version of each: all levels at every epoch
    # would cost more than the training.
    per_photo = 1 + len(levels)
    once = [
        row * per_photo
        + (1 + seed_for(recipe.seed, "guide-val", sample.key) % len(levels) if levels else 0)
        for row, sample in enumerate(photos.samples)
    ]
    chosen_on = join([photos.clean, pictures.select(torch.tensor(once, dtype=torch.int64))])
    everything = list(range(len(train.photos)))
    backbone, fitted = _fit(ctx, record, dataset, train, everything, chosen_on, "guide")
    device = resolve_device(recipe.run.device)
    held = HeldOut(
        logits=predict_logits(backbone, pictures, device),
        labels=pictures.labels,
        levels=tuple(level for _, level in jobs),
        clean_logits=predict_logits(backbone, photos.clean, device),
        clean_labels=photos.clean.labels,
    )
    return backbone, fitted, held


def _cross_validated(
    ctx: Context, record: StageRun, dataset: Dataset, train: Pool
) -> tuple[HeldOut, list[EpochRow]]:
    """Logits of each photo's versions from a network trained on the other folds."""
    recipe, photos = ctx.recipe, train.photos
    device = resolve_device(recipe.run.device)
    folds = recipe.guide.folds
    keys = [sample.key for sample in photos.samples]
    fold_of = stratified_folds(keys, photos.clean.labels.tolist(), folds, recipe.seed)
    ctx.progress.note(f"no validation split: the guide is calibrated by {folds}-fold validation")
    history: list[EpochRow] = []
    parts: list[tuple[Tensor, Tensor, tuple[Level | None, ...], Tensor, Tensor]] = []
    for fold in range(folds):
        rows = [row for row, one in enumerate(fold_of) if one != fold]
        held = [row for row, one in enumerate(fold_of) if one == fold]
        if not rows or not held:
            continue
        name = f"fold-{fold}"
        backbone, fitted = _fit(ctx, record, dataset, train, rows, None, name)
        history += _named(name, fitted)
        noised = train.part(held)
        clean = photos.clean.select(torch.tensor(held))
        chosen = set(held)
        levels = tuple(level for row, level in train.jobs if row in chosen)
        logits = predict_logits(backbone, noised, device)
        clean_logits = predict_logits(backbone, clean, device)
        parts.append((logits, noised.labels, levels, clean_logits, clean.labels))
    if not parts:
        raise UserError(
            "there are too few training photos for cross-validation; add photos or a val split"
        )
    logits_, labels_, levels_, clean_logits_, clean_labels_ = zip(*parts, strict=True)
    pooled = HeldOut(
        logits=torch.cat(logits_),
        labels=torch.cat(labels_),
        levels=tuple(level for part in levels_ for level in part),
        clean_logits=torch.cat(clean_logits_),
        clean_labels=torch.cat(clean_labels_),
    )
    return pooled, history


def _fit(
    ctx: Context,
    record: StageRun,
    dataset: Dataset,
    train: Pool,
    rows: Sequence[int],
    val: Pictures | None,
    name: str,
) -> tuple[Backbone, FitResult]:
    """One network trained on the photos `rows` and their noised versions, at its best epoch."""
    config = ctx.recipe.guide
    backbone = _backbone(ctx, dataset, name)
    mixed = TrainSet(
        real=train.photos.clean.select(torch.tensor(list(rows), dtype=torch.int64)),
        second=train.part(rows),
        probability=config.noised_fraction,
        rule="share",
    )
    classes, begun = len(dataset.classes), record.scratch(f"{name}.pt")
    seed, device = seed_for(ctx.recipe.seed, NAME, name), resolve_device(ctx.recipe.run.device)
    fitted = fit(backbone, mixed, val, config, classes, seed, device, ctx.progress, name, begun)
    backbone.network.load_state_dict(fitted.best_state)
    return backbone, fitted


def _backbone(ctx: Context, dataset: Dataset, name: str) -> Backbone:
    seed = seed_for(ctx.recipe.seed, NAME, name, "head")
    return create_backbone(ctx.recipe.guide, len(dataset.classes), ctx.base, seed, "guide")


def _named(name: str, fitted: FitResult) -> list[EpochRow]:
    return [row.model_copy(update={"run": name}) for row in fitted.history]


def _spec(size: int, backbone: Backbone, dataset: Dataset, temperature: float) -> ClassifierSpec:
    return ClassifierSpec(
        backbone=backbone.name,
        classes=dataset.classes,
        image_size=size,
        mean=backbone.mean,
        std=backbone.std,
        temperature=temperature,
    )


def _summary(
    ctx: Context,
    dataset: Dataset,
    fitted: FitResult,
    calibration: Calibration,
    counts: GuideCounts,
) -> GuideSummary:
    return {
        "stage": NAME,
        "guide": str(ctx.ws.guide.checkpoint),
        "backbone": ctx.recipe.guide.backbone,
        "classes": len(dataset.classes),
        "photos": counts.photos,
        "noised": counts.noised,
        "steps": counts.steps,
        "best_epoch": counts.best_epoch,
        "seconds": counts.seconds,
        "epoch_selected_by": fitted.selected,
        "calibrated_on": calibration.source,
        "temperature": calibration.temperature,
        "accuracy_clean": calibration.clean.accuracy,
        "accuracy_noised": calibration.overall.accuracy,
        "ece_noised_before": calibration.overall.ece_before,
        "ece_noised_after": calibration.overall.ece_after,
        "levels": [level.plain() for level in calibration.levels],
    }
