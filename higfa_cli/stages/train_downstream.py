"""Stage `train-downstream`: the classifier the user came for, without and with new pictures."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torchmetrics.functional.classification import multiclass_f1_score

from higfa_cli.artifacts.artifact import read_model, write_model, write_rows
from higfa_cli.artifacts.atomic import write_text
from higfa_cli.artifacts.class_folders import class_dir
from higfa_cli.artifacts.records import DownstreamCounts
from higfa_cli.artifacts.results import ArmResult, ArmRun, Results, SplitCounts, TrainingRow
from higfa_cli.artifacts.run_record import StageRun, stage_run
from higfa_cli.artifacts.seeds import seed_for
from higfa_cli.data.dataset import Dataset, Sample
from higfa_cli.data.images import read_image
from higfa_cli.models.backbones import create_backbone
from higfa_cli.models.classifier import ClassifierSpec, load_classifier, save_classifier
from higfa_cli.models.device import resolve_device
from higfa_cli.report.tables import csv_cell
from higfa_cli.stages.arms import STAGE, Arm, Folder, choose_arms, left_out
from higfa_cli.stages.context import Context
from higfa_cli.stages.inputs import downstream_inputs
from higfa_cli.stages.photos import load_photos
from higfa_cli.stages.summaries import DownstreamSummary
from higfa_cli.training.calibration import fit_temperature
from higfa_cli.training.pictures import Pictures, TrainSet, load_pictures, stratified_folds
from higfa_cli.training.synthetic import SyntheticFolder, list_synthetic
from higfa_cli.training.trainer import fit, predict_logits

NAME = STAGE
_HELD_OUT_PARTS = 5
HELD_OUT = "a stratified fifth of the training photos, held out because there is no val split"
LAST = "last"


@dataclass(frozen=True)
class RealPhotos:
    """Photos that train, and those that choose the checkpoint; `chosen_by` names the latter."""

    train: tuple[Sample, ...]
    chooses: tuple[Sample, ...]
    chosen_by: str


@dataclass(frozen=True)
class Material:
    """Everything of one arm that is the same for all its seeds."""

    arm: Arm
    listing: SyntheticFolder | None
    train: TrainSet
    val: Pictures | None


def run(
    ctx: Context, synthetic: Sequence[str] = (), arms: Sequence[str] | None = None
) -> DownstreamSummary:
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
        if arm.source is None
        else list_synthetic(arm.source.folder, dataset.classes, held, arm.source.kept())
        for arm in chosen
    }
    create_backbone(recipe.downstream, len(dataset.classes), ctx.base, 0, "downstream")
    inputs = downstream_inputs(ctx, synthetic, arms)
    foreign = [listings[arm.name] for arm in chosen if isinstance(arm.source, Folder)]
    _check_readable(ctx, dataset.of("test"), [one for one in foreign if one is not None])
    with stage_run(files.directory, inputs, recipe, resume=not ctx.force) as record:
        record.device = str(device)
        real, val = _real(ctx, photos)
        trained = {}
        for arm in chosen:
            material = _material(ctx, arm, listings[arm.name], real, val)
            trained[arm.name] = [
                _train(ctx, dataset, material, seed, record) for seed in _seeds(ctx)
            ]
        tested = _tested(ctx, dataset, trained, record)
        results = Results(
            arms=tuple(
                _arm_result(ctx, arm, listings[arm.name], tested[arm.name]) for arm in chosen
            ),
            classes=dataset.classes,
            chosen_by=photos.chosen_by,
            test="read once per checkpoint, after all training"
            if dataset.of("test")
            else "no test split: test accuracy is null",
            counts=SplitCounts(
                train=len(photos.train),
                val=len(photos.chooses),
                test=len(dataset.of("test")),
            ),
        )
        write_model(files.results, results)
        record.output(files.results)
        trainings = sum(len(rows) for rows in tested.values())
        record.counts = DownstreamCounts(arms=len(chosen), trainings=trainings)
    return _summary(ctx, results)


def hold_out(dataset: Dataset, seed: int) -> RealPhotos:
    """The val split chooses the checkpoint; without one, a stratified fifth of train does.

    A class of a single photo keeps it for training. Where nothing can be held out, the last
    epoch is used.
    """
    train, val = dataset.of("train"), dataset.of("val")
    if val:
        return RealPhotos(train, val, "val")
    keys = [sample.key for sample in train]
    labels = [sample.class_id for sample in train]
    parts = stratified_folds(keys, labels, _HELD_OUT_PARTS, seed)
    held = [
        sample
        for sample, part in zip(train, parts, strict=True)
        if part == 0 and labels.count(sample.class_id) > 1
    ]
    if not held:
        return RealPhotos(train, (), LAST)
    aside = set(held)
    rest = tuple(sample for sample in train if sample not in aside)
    return RealPhotos(rest, tuple(held), HELD_OUT)


def _seeds(ctx: Context) -> tuple[int, ...]:
    return tuple(dict.fromkeys(ctx.recipe.downstream.seeds))


def _real(ctx: Context, photos: RealPhotos) -> tuple[Pictures, Pictures | None]:
    real = _load(ctx, photos.train)
    return real, _load(ctx, photos.chooses) if photos.chooses else None


def _load(ctx: Context, samples: Sequence[Sample]) -> Pictures:
    return load_pictures(
        (sample.read() for sample in samples),
        [sample.class_id for sample in samples],
        ctx.recipe.downstream.image_size,
    )


def _check_readable(
    ctx: Context, samples: Sequence[Sample], listings: Sequence[SyntheticFolder]
) -> None:
    """What is only read after some training must not be found to be bad hours later."""
    for sample in ctx.progress.track(samples, "checking test photos"):
        sample.read()
    for listing in listings:
        for path in ctx.progress.track(listing.paths, "checking pictures"):
            read_image(path)


def _material(
    ctx: Context,
    arm: Arm,
    listing: SyntheticFolder | None,
    real: Pictures,
    val: Pictures | None,
) -> Material:
    config = ctx.recipe.downstream
    if listing is None:
        return Material(arm, None, TrainSet(real), val)
    if listing.missing:
        ctx.progress.note(
            f"{arm.name}: no pictures of {len(listing.missing)} classes "
            f"({', '.join(listing.missing[:4])}); their real photos stay as they are"
        )
    photos = (read_image(path) for path in listing.paths)
    second = load_pictures(photos, listing.labels, config.image_size)
    return Material(arm, listing, TrainSet(real, second, config.replacement, "each"), val)


def _train(
    ctx: Context, dataset: Dataset, material: Material, seed: int, record: StageRun
) -> TrainingRow:
    """One training, or what an interrupted run left of it; returns its row of the results."""
    files = ctx.ws.downstream.training(material.arm.name, seed)
    paths = (files.model, files.history, files.result)
    names = [ctx.ws.downstream.name(path) for path in paths]
    if all(map(record.is_kept, names)):
        for name in names:
            record.keep(name)
        return read_model(files.result, TrainingRow)
    config, classes = ctx.recipe.downstream, len(dataset.classes)
    device = resolve_device(ctx.recipe.run.device)
    # Seeds do not depend on the arm: arms of one seed start from the same weights.
    head, order = (seed_for(ctx.recipe.seed, NAME, seed, what) for what in ("head", "order"))
    backbone = create_backbone(config, classes, ctx.base, head, "downstream")
    fitted = fit(
        backbone,
        material.train,
        material.val,
        config,
        classes,
        order,
        device,
        ctx.progress,
        f"{material.arm.name}, seed {seed}",
        record.scratch(f"{class_dir(material.arm.name)}-{seed}.pt"),
    )
    backbone.network.load_state_dict(fitted.best_state)
    temperature = 1.0
    if material.val is not None:
        logits = predict_logits(backbone, material.val, device)
        temperature = fit_temperature(logits, material.val.labels)
    spec = ClassifierSpec(
        backbone.name,
        dataset.classes,
        config.image_size,
        backbone.mean,
        backbone.std,
        temperature,
    )
    row = TrainingRow(
        seed=seed,
        best_epoch=fitted.best_epoch,
        val_accuracy=fitted.val_accuracy,
        temperature=temperature,
        replaced=sum(epoch.replaced for epoch in fitted.history) / len(fitted.history),
        steps=fitted.steps,
        images_seen=fitted.images_seen,
        seconds=round(fitted.seconds, 3),
    )
    about = {"stage": NAME, "arm": material.arm.name, "seed": str(seed)}
    save_classifier(files.model, backbone.network, spec, about)
    write_rows(files.history, fitted.history)
    write_model(files.result, row)
    for path in paths:
        record.output(path)
    record.scratch(f"{class_dir(material.arm.name)}-{seed}.pt").unlink()
    return row


def _arm_result(
    ctx: Context, arm: Arm, listing: SyntheticFolder | None, runs: tuple[ArmRun, ...]
) -> ArmResult:
    return ArmResult(
        name=arm.name,
        synthetic=arm.recorded,
        synthetic_images=0 if listing is None else len(listing.paths),
        missing_classes=() if listing is None else listing.missing,
        runs=runs,
    )


def _tested(
    ctx: Context,
    dataset: Dataset,
    trained: Mapping[str, Sequence[TrainingRow]],
    record: StageRun,
) -> dict[str, tuple[ArmRun, ...]]:
    """Arm -> its trainings with test accuracy and macro F1; writes each one's predictions.csv."""
    samples = dataset.of("test")
    pictures = _load(ctx, samples) if samples else None
    return {
        arm: tuple(_test(ctx, dataset, pictures, arm, row, record) for row in rows)
        for arm, rows in trained.items()
    }


def _test(
    ctx: Context,
    dataset: Dataset,
    pictures: Pictures | None,
    arm: str,
    row: TrainingRow,
    record: StageRun,
) -> ArmRun:
    if pictures is None:
        return ArmRun(**row.plain(), test_accuracy=None, test_macro_f1=None)
    files = ctx.ws.downstream.training(arm, row.seed)
    classifier = load_classifier(files.model, resolve_device(ctx.recipe.run.device))
    confidence, predicted = classifier.probabilities(pictures.images).max(1)
    names = [dataset.classes[index] for index in predicted.tolist()]
    write_text(files.predictions, _csv(dataset.of("test"), names, confidence.tolist()))
    record.output(files.predictions)
    hits = predicted == pictures.labels
    macro_f1 = multiclass_f1_score(
        predicted, pictures.labels, num_classes=len(dataset.classes), average="macro"
    )
    return ArmRun(
        **row.plain(),
        test_accuracy=float(hits.to(torch.float64).mean()),
        test_macro_f1=float(macro_f1),
    )


def _csv(samples: Sequence[Sample], predicted: Sequence[str], confidence: Sequence[float]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["key", "true", "predicted", "confidence"])
    for sample, name, value in zip(samples, predicted, confidence, strict=True):
        # People open this file in spreadsheets too.
        texts = (csv_cell(text) for text in (sample.key, sample.cls, name))
        writer.writerow([*texts, f"{value:.6f}"])
    return buffer.getvalue()


def _summary(ctx: Context, results: Results) -> DownstreamSummary:
    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if len(known) == len(values) else None

    return {
        "stage": NAME,
        "results": str(ctx.ws.downstream.results),
        "chosen_by": results.chosen_by,
        "test": results.test,
        "counts": results.counts.plain(),
        "arms": [
            {
                "arm": arm.name,
                "synthetic_images": arm.synthetic_images,
                "seeds": len(arm.runs),
                "val_accuracy": mean([run.val_accuracy for run in arm.runs]),
                "test_accuracy": mean([run.test_accuracy for run in arm.runs]),
                "test_macro_f1": mean([run.test_macro_f1 for run in arm.runs]),
            }
            for arm in results.arms
        ],
    }
