"""Stage `finetune-guide`: a classifier that reads what the sampler shows it, calibrated there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from higfa_cli.artifacts.artifact import write_model, write_rows
from higfa_cli.artifacts.atomic import read_json, write_json
from higfa_cli.artifacts.records import GuideCounts
from higfa_cli.artifacts.results import EpochRow, few_photos
from higfa_cli.artifacts.run_record import StageRun, stage_run
from higfa_cli.artifacts.seeds import seed_for
from higfa_cli.data.dataset import Dataset, Sample
from higfa_cli.errors import UserError
from higfa_cli.method.protocols import Level
from higfa_cli.models.backbones import Backbone, create_backbone
from higfa_cli.models.classifier import ClassifierSpec, save_classifier
from higfa_cli.models.device import resolve_device
from higfa_cli.models.diffusion import DiffusionModel
from higfa_cli.models.loading import load_pipeline
from higfa_cli.recipe.schema import Recipe
from higfa_cli.stages.context import Context, load_photos
from higfa_cli.stages.drawing import batch_size
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
from higfa_cli.training import room
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
        if len(wanted) == len(self.photos):
            return self.pictures
        return self.pictures.select(
            _rows([n for n, (row, _) in enumerate(self.jobs) if row in wanted])
        )

    def held_out(self, backbone: Backbone, rows: Sequence[int], device: torch.device) -> HeldOut:
        """What a network that did not see the photos `rows` says of all their versions."""
        wanted = set(rows)
        noised, clean = self.part(rows), self.photos.clean.select(_rows(rows))
        return HeldOut(
            logits=predict_logits(backbone, noised, device),
            labels=noised.labels,
            levels=tuple(level for row, level in self.jobs if row in wanted),
            clean_logits=predict_logits(backbone, clean, device),
            clean_labels=clean.labels,
        )


def run(ctx: Context) -> Mapping[str, object]:
    """Train and calibrate; writes guide.safetensors, calibration.json and history.jsonl.

    Raises UserError for bad data, an unknown backbone, or weights that cannot be had.
    """
    dataset = load_photos(ctx)
    recipe, files = ctx.recipe, ctx.ws.guide
    device = resolve_device(recipe.run.device)
    room.check_guide(recipe, {split: len(dataset.of(split)) for split in dataset.splits})
    if not dataset.of("val") and len(set(_folds(dataset.of("train"), recipe))) < 2:
        raise UserError(
            "there are too few training photos for cross-validation; add photos or a val split"
        )
    # Before the long work, so that a misspelt name or an absent file fails at once.
    _backbone(ctx, dataset, "guide")
    inputs = guide_inputs(ctx)
    with stage_run(files.directory, inputs, recipe, resume=True, anew=ctx.force) as record:
        record.device = str(device)
        # The plain conditional branch is all that is asked of the model: no negative prompt.
        samples = [sample for sample in dataset.samples if sample.split != "test"]
        prompts = {"", *photo_prompts(samples, dataset, recipe, ctx.base)}
        model = load_pipeline(recipe, ctx.base, device, prompts)
        levels = guided_levels(ctx, model)
        training = _Training(ctx, record, dataset, device)
        photos = read_photos(dataset.of("train"), dataset, recipe, ctx.base, ctx.progress)
        jobs = pool_jobs(photos, levels, recipe.guide.noised_per_image, recipe.seed)
        train = training.pool(model, photos, jobs, "training")
        history: list[EpochRow] = []
        if dataset.of("val"):
            backbone, fitted, held = training.with_validation(model, levels, train)
            calibration = calibrate(held, levels, "val")
        else:
            held, history = training.cross_validated(train)
            backbone, fitted = training.fit(train, range(len(train.photos)), None, "guide")
            calibration = calibrate(held, levels, "cross-validation")
        if (said := calibration.fitted) is not None:
            ctx.progress.note(few_photos(said, calibration.temperature, calibration.clean.count))
        history += _named("guide", fitted)
        spec = ClassifierSpec(
            backbone=backbone.name,
            classes=dataset.classes,
            image_size=recipe.guide.image_size,
            mean=backbone.mean,
            std=backbone.std,
            temperature=calibration.temperature,
            crop_bottom=recipe.data.crop_bottom,
            boxes=recipe.data.boxes,
        )
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
    shown = {"guide": str(files.checkpoint), "epoch_selected_by": fitted.selected}
    return {**shown, **counts.plain(), **calibration.plain()}


def guided_levels(ctx: Context, model: DiffusionModel) -> tuple[Level, ...]:
    """The solver's levels at which the recipe consults the guide; may be none."""
    levels = model.solver(ctx.recipe.sampling.steps).levels
    return tuple(level for level in levels if ctx.recipe.guidance.guided(level))


def _folds(samples: Sequence[Sample], recipe: Recipe) -> list[int]:
    keys, labels = [s.key for s in samples], [s.class_id for s in samples]
    return stratified_folds(keys, labels, recipe.guide.folds, recipe.seed)


@dataclass(frozen=True)
class _Training:
    """What every network of the stage is trained with."""

    ctx: Context
    record: StageRun
    dataset: Dataset
    device: torch.device

    def pool(self, model: DiffusionModel, photos: Photos, jobs: tuple[Job, ...], kind: str) -> Pool:
        ctx = self.ctx
        # A resumed run must not probe again: pictures depend a little on how many are drawn
        # together.
        settled = self.record.scratch(f"{kind}.json")
        if not settled.is_file():
            some_level = next((level for _, level in jobs if level is not None), None)
            size = batch_size(ctx, model, trial(model, photos, some_level))
            write_json(settled, {"batch_size": size})
        batch, title = int(read_json(settled)["batch_size"]), f"noising {kind} photos"
        pictures = render(model, photos, jobs, ctx.recipe.seed, batch, ctx.progress, title)
        return Pool(photos, jobs, pictures)

    def with_validation(
        self, model: DiffusionModel, levels: Sequence[Level], train: Pool
    ) -> tuple[Backbone, FitResult, HeldOut]:
        """Train on all training photos; choose the epoch and calibrate on validation photos."""
        ctx, samples = self.ctx, self.dataset.of("val")
        photos = read_photos(samples, self.dataset, ctx.recipe, ctx.base, ctx.progress)
        jobs = tuple((row, level) for row in range(len(photos)) for level in (None, *levels))
        val = self.pool(model, photos, jobs, "validation")
        # The epoch is chosen on photos and on one noised version of each: all levels at every
        # epoch would cost more than the training.
        per_photo = 1 + len(levels)
        once = [
            row * per_photo
            + (
                1 + seed_for(ctx.recipe.seed, "guide-val", sample.key) % len(levels)
                if levels
                else 0
            )
            for row, sample in enumerate(samples)
        ]
        chosen_on = join([photos.clean, val.pictures.select(_rows(once))])
        backbone, fitted = self.fit(train, range(len(train.photos)), chosen_on, "guide")
        return backbone, fitted, val.held_out(backbone, range(len(photos)), self.device)

    def cross_validated(self, train: Pool) -> tuple[HeldOut, list[EpochRow]]:
        """Logits of each photo's versions from a network trained on the other folds."""
        recipe, photos = self.ctx.recipe, train.photos
        folds = recipe.guide.folds
        fold_of = _folds(photos.samples, recipe)
        self.ctx.progress.note(
            f"no validation split: the guide is calibrated by {folds}-fold validation"
        )
        history: list[EpochRow] = []
        parts: list[HeldOut] = []
        for fold in range(folds):
            rows = [row for row, its_fold in enumerate(fold_of) if its_fold != fold]
            held = [row for row, its_fold in enumerate(fold_of) if its_fold == fold]
            if rows and held:
                backbone, fitted = self.fit(train, rows, None, f"fold-{fold}")
                history += _named(f"fold-{fold}", fitted)
                parts.append(train.held_out(backbone, held, self.device))
        pooled = HeldOut(
            logits=torch.cat([part.logits for part in parts]),
            labels=torch.cat([part.labels for part in parts]),
            levels=tuple(level for part in parts for level in part.levels),
            clean_logits=torch.cat([part.clean_logits for part in parts]),
            clean_labels=torch.cat([part.clean_labels for part in parts]),
        )
        return pooled, history

    def fit(
        self, train: Pool, rows: Sequence[int], val: Pictures | None, name: str
    ) -> tuple[Backbone, FitResult]:
        """One network trained on the photos `rows` and their noised versions, at its best epoch."""
        ctx, config = self.ctx, self.ctx.recipe.guide
        backbone = _backbone(ctx, self.dataset, name)
        mixed = TrainSet(
            real=train.photos.clean.select(_rows(rows)),
            second=train.part(rows),
            probability=config.noised_fraction,
            rule="share",
        )
        fitted = fit(
            backbone,
            mixed,
            val,
            config,
            len(self.dataset.classes),
            seed_for(ctx.recipe.seed, NAME, name),
            self.device,
            ctx.progress,
            name,
            self.record.scratch(f"{name}.pt"),
        )
        backbone.network.load_state_dict(fitted.best_state)
        return backbone, fitted


def _backbone(ctx: Context, dataset: Dataset, name: str) -> Backbone:
    seed = seed_for(ctx.recipe.seed, NAME, name, "head")
    return create_backbone(ctx.recipe.guide, len(dataset.classes), ctx.base, seed, "guide")


def _rows(numbers: Sequence[int]) -> Tensor:
    return torch.tensor(list(numbers), dtype=torch.int64)


def _named(name: str, fitted: FitResult) -> list[EpochRow]:
    return [row.model_copy(update={"run": name}) for row in fitted.history]
