"""Stage `train-downstream`: the classifier the user came for, without and with new pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torchmetrics.functional.classification import multiclass_f1_score

from higfa_cli.artifacts.artifact import read_model, write_model, write_rows
from higfa_cli.artifacts.atomic import write_text
from higfa_cli.artifacts.class_folders import class_dir
from higfa_cli.artifacts.records import DownstreamCounts
from higfa_cli.artifacts.results import (
    ArmResult,
    ArmRun,
    Results,
    SplitCounts,
    TrainingRow,
    few_photos,
)
from higfa_cli.artifacts.run_record import StageRun, stage_run
from higfa_cli.artifacts.seeds import seed_for
from higfa_cli.data.dataset import Dataset, Sample
from higfa_cli.data.images import read_image
from higfa_cli.data.layouts.common import Split
from higfa_cli.models.backbones import create_backbone
from higfa_cli.models.classifier import ClassifierSpec, load_classifier, save_classifier
from higfa_cli.models.device import resolve_device
from higfa_cli.report.tables import as_csv
from higfa_cli.stages.arms import choose_arms, left_out
from higfa_cli.stages.context import Context, load_photos, photo_notes
from higfa_cli.stages.inputs import downstream_inputs
from higfa_cli.text import plural
from higfa_cli.training.calibration import ece_interval, fit_temperature, supported
from higfa_cli.training.held_out import hold_out
from higfa_cli.training.pictures import Pictures, TrainSet, load_pictures
from higfa_cli.training.room import check_downstream
from higfa_cli.training.synthetic import SyntheticFolder, list_synthetic
from higfa_cli.training.trainer import fit, predict_logits

NAME = "train-downstream"
_TOLD = 1.1  # A temperature that is so many times what the photos say is worth a word.
PREDICTIONS = ("key", "true", "predicted", "confidence")
_MEASURES = ("val_accuracy", "test_accuracy", "test_macro_f1")


def run(
    ctx: Context, synthetic: Sequence[str] = (), arms: Sequence[str] | None = None
) -> Mapping[str, object]:
    """Train each arm once per seed with the same number of steps, then read the test photos.

    `synthetic`: `[NAME=]DIR` each, a folder of class folders. `arms`: only the arms of these
    names ("real" alone needs no pictures). The test split is read after all training, and each
    checkpoint is evaluated on it once. Finished trainings of an interrupted run are kept.

    Raises UserError: bad data, unknown class folders, an unknown backbone, weights not to be had.
    """
    recipe, files = ctx.recipe, ctx.ws.downstream
    dataset = load_photos(ctx)
    chosen = choose_arms(ctx, synthetic, arms)
    if arms is None and (undrawn := left_out(ctx, chosen)):
        ctx.progress.note(
            f"not compared, as `higfa synthesize` has not drawn them: {', '.join(undrawn)}"
        )
    device = resolve_device(recipe.run.device)
    photos = hold_out(dataset, recipe.seed)
    held = {sample.key for sample in photos.chooses}
    listings = {
        arm.name: None
        if arm.folder is None
        else list_synthetic(arm.folder, dataset.classes, held, arm.kept())
        for arm in chosen
    }
    parts: dict[Split, Sequence[Sample]] = {
        "train": photos.train,
        "val": photos.chooses,
        "test": dataset.of("test"),
    }
    check_downstream(
        recipe,
        {split: len(samples) for split, samples in parts.items()},
        {name: len(listing.paths) for name, listing in listings.items() if listing is not None},
    )
    create_backbone(recipe.downstream, len(dataset.classes), ctx.base, 0, "downstream")
    inputs = downstream_inputs(ctx, synthetic, arms)
    given = [listings[arm.name] for arm in chosen if arm.drawn is None]
    _check_readable(ctx, dataset.of("test"), [listing for listing in given if listing is not None])
    with stage_run(files.directory, inputs, recipe, resume=True, anew=ctx.force) as record:
        record.device = str(device)
        training = _Training(ctx, dataset, record, device)
        real = training.load(photos.train)
        val = training.load(photos.chooses) if photos.chooses else None
        trained = {}
        for arm in chosen:
            train = training.mixed(arm.name, listings[arm.name], real)
            seeds = dict.fromkeys(recipe.downstream.seeds)
            trained[arm.name] = [training.train(arm.name, train, val, seed) for seed in seeds]
        tests = dataset.of("test")
        pictures = training.load(tests) if tests else None
        results = Results(
            arms=tuple(
                ArmResult(
                    name=arm.name,
                    synthetic=arm.recorded,
                    synthetic_images=0 if listing is None else len(listing.paths),
                    missing_classes=() if listing is None else listing.missing,
                    runs=tuple(training.test(arm.name, row, pictures) for row in trained[arm.name]),
                )
                for arm in chosen
                for listing in (listings[arm.name],)
            ),
            classes=dataset.classes,
            chosen_by=photos.chosen_by,
            test="read once per checkpoint, after all training"
            if tests
            else "no test split: test accuracy is null",
            counts=SplitCounts(train=len(photos.train), val=len(photos.chooses), test=len(tests)),
            notes=tuple(photo_notes(ctx)),
        )
        write_model(files.results, results)
        record.output(files.results)
        trainings = sum(map(len, trained.values()))
        record.counts = DownstreamCounts(arms=len(chosen), trainings=trainings)
    return _summary(ctx, results)


def _check_readable(
    ctx: Context, samples: Sequence[Sample], listings: Sequence[SyntheticFolder]
) -> None:
    """What is only read after some training must not be found to be bad hours later."""
    for sample in ctx.progress.track(samples, "checking test photos"):
        sample.read()
    for listing in listings:
        for path in ctx.progress.track(listing.paths, "checking pictures"):
            read_image(path)


@dataclass(frozen=True)
class _Training:
    """What all trainings have in common."""

    ctx: Context
    dataset: Dataset
    record: StageRun
    device: torch.device

    def load(self, samples: Sequence[Sample]) -> Pictures:
        return load_pictures(
            (sample.read() for sample in samples),
            [sample.class_id for sample in samples],
            self.ctx.recipe.downstream.image_size,
        )

    def mixed(self, arm: str, listing: SyntheticFolder | None, real: Pictures) -> TrainSet:
        """What an arm trains on, whatever the seed."""
        config = self.ctx.recipe.downstream
        if listing is None:
            return TrainSet(real)
        if listing.missing:
            self.ctx.progress.note(
                f"{arm}: no pictures of {plural(len(listing.missing), 'class', 'classes')} "
                f"({', '.join(listing.missing[:4])}); their real photos stay as they are"
            )
        drawn = (read_image(path) for path in listing.paths)
        second = load_pictures(drawn, listing.labels, config.image_size)
        return TrainSet(real, second, config.replacement, "each")

    def train(self, arm: str, train: TrainSet, val: Pictures | None, seed: int) -> TrainingRow:
        """One training, or what an interrupted run left of it; its row of the results."""
        ctx, record, classes = self.ctx, self.record, self.dataset.classes
        files = ctx.ws.downstream.training(arm, seed)
        paths = (files.model, files.history, files.result)
        names = [ctx.ws.downstream.name(path) for path in paths]
        if all(map(record.is_kept, names)):
            for name in names:
                record.keep(name)
            return read_model(files.result, TrainingRow)
        config = ctx.recipe.downstream
        # Seeds do not depend on the arm: arms of one seed start from the same weights.
        head, order = (seed_for(ctx.recipe.seed, NAME, seed, what) for what in ("head", "order"))
        backbone = create_backbone(config, len(classes), ctx.base, head, "downstream")
        begun = record.scratch(f"{class_dir(arm)}-{seed}.pt")
        fitted = fit(
            backbone,
            train,
            val,
            config,
            len(classes),
            order,
            self.device,
            ctx.progress,
            f"{arm}, seed {seed}",
            begun,
        )
        backbone.network.load_state_dict(fitted.best_state)
        temperature = 1.0
        if val is not None:
            fitted_to = fit_temperature(predict_logits(backbone, val, self.device), val.labels)
            temperature = supported(fitted_to, len(val))
            if max(fitted_to / temperature, temperature / fitted_to) > _TOLD:
                few = few_photos(fitted_to, temperature, len(val))
                ctx.progress.note(f"{arm}, seed {seed}: {few}")
        spec = ClassifierSpec(
            backbone.name,
            classes,
            config.image_size,
            backbone.mean,
            backbone.std,
            temperature,
            ctx.recipe.data.crop_bottom,
            ctx.recipe.data.boxes,
        )
        row = TrainingRow(
            seed=seed,
            best_epoch=fitted.best_epoch,
            val_accuracy=fitted.val_accuracy,
            temperature=temperature,
            temperature_photos=0 if val is None else len(val),
            replaced=sum(epoch.replaced for epoch in fitted.history) / len(fitted.history),
            steps=fitted.steps,
            images_seen=fitted.images_seen,
            seconds=round(fitted.seconds, 3),
        )
        origin = {"stage": NAME, "arm": arm, "seed": str(seed)}
        save_classifier(files.model, backbone.network, spec, origin)
        write_rows(files.history, fitted.history)
        write_model(files.result, row)
        for path in paths:
            record.output(path)
        begun.unlink()
        return row

    def test(self, arm: str, row: TrainingRow, pictures: Pictures | None) -> ArmRun:
        """The row with test accuracy and macro F1; writes predictions.csv."""
        if pictures is None:
            return ArmRun(**row.plain(), test_accuracy=None, test_macro_f1=None)
        files, classes = self.ctx.ws.downstream.training(arm, row.seed), self.dataset.classes
        classifier = load_classifier(files.model, self.device)
        confidence, predicted = classifier.probabilities(pictures.images).max(1)
        names = [classes[index] for index in predicted.tolist()]
        photos = zip(self.dataset.of("test"), names, confidence.tolist(), strict=True)
        rows = [(photo.key, photo.cls, name, f"{value:.6f}") for photo, name, value in photos]
        write_text(files.predictions, as_csv([PREDICTIONS, *rows]))
        self.record.output(files.predictions)
        hits = predicted == pictures.labels
        macro_f1 = multiclass_f1_score(
            predicted, pictures.labels, num_classes=len(classes), average="macro"
        )
        return ArmRun(
            **row.plain(),
            test_accuracy=float(hits.to(torch.float64).mean()),
            test_macro_f1=float(macro_f1),
            test_ece=ece_interval(confidence.tolist(), hits.tolist(), self.ctx.recipe.seed),
        )


def _summary(ctx: Context, results: Results) -> Mapping[str, object]:
    return {
        "results": str(ctx.ws.downstream.results),
        "chosen_by": results.chosen_by,
        "test": results.test,
        "counts": results.counts.plain(),
        "arms": [
            {"arm": arm.name, "synthetic_images": arm.synthetic_images, "seeds": len(arm.runs)}
            | {key: _mean([getattr(run, key) for run in arm.runs]) for key in _MEASURES}
            for arm in results.arms
        ],
    }


def _mean(values: Sequence[float | None]) -> float | None:
    """None where a value is missing."""
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if len(numbers) == len(values) else None
