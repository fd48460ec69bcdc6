"""Pictures and a guide as `synthesize` and `finetune-guide` leave them, made without either."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from higfa_cli.artifacts.artifact import write_rows
from higfa_cli.artifacts.atomic import read_jsonl, write_bytes
from higfa_cli.artifacts.class_folders import class_dir
from higfa_cli.artifacts.records import SynthesisCounts
from higfa_cli.artifacts.run_record import stage_run
from higfa_cli.data.images import encode_png, fit_square, read_image
from higfa_cli.models.backbones import create_backbone
from higfa_cli.models.classifier import ClassifierSpec, save_classifier
from higfa_cli.recipe.classifiers import Guide
from higfa_cli.recipe.load import load_recipe, override_recipe
from higfa_cli.recipe.strict_yaml import dump_yaml
from higfa_cli.stages import pipeline
from higfa_cli.stages.context import Context, make_context
from higfa_cli.stages.inputs import synthesize_inputs
from tests.support.shapes import CLASSES, SIZE, picture_row, shape, write_class_folders

REPLICAS = 4
# The pictures of each first photo, replica by replica: an exact copy of it, its mirror image, one
# colour, another picture of the class. Second photos have other pictures only.
COPY, MIRRORED, ONE_COLOUR, OTHER = range(4)


def drawn(photo: np.ndarray, replica: int, label: int, rng: np.random.Generator) -> np.ndarray:
    made = {
        COPY: photo,
        MIRRORED: photo[:, ::-1],
        ONE_COLOUR: np.full_like(photo, (200, 30, 60)),
        OTHER: shape(label, rng),
    }
    return np.ascontiguousarray(made[replica])


def write_drawn(ctx: Context) -> None:
    """A finished `synthesize` with real contours before it: its pictures are made here."""
    inputs = synthesize_inputs(ctx.arm("higfa"))
    rng = np.random.default_rng(5)
    rows = []
    with stage_run(ctx.ws.arm("higfa").synthesize.directory, inputs, ctx.recipe) as run:
        images = run.directory / "images"
        for label, cls in enumerate(CLASSES):
            for number in range(2):
                source = f"train/{class_dir(cls)}/{number}.png"
                photo = fit_square(read_image(ctx.base / "photos" / source), SIZE)
                for replica in range(REPLICAS):
                    kind = OTHER if number else replica
                    name = f"{class_dir(cls)}/{number}-{replica}.png"
                    write_bytes(images / name, encode_png(drawn(photo, kind, label, rng)))
                    run.output(images / name)
                    rows.append(
                        picture_row(
                            file_name=name,
                            id=f"{label}-{number}-{replica}",
                            cls=cls,
                            class_id=label,
                            source=source,
                            replica=replica,
                        )
                    )
        write_rows(images / "metadata.jsonl", rows)
        run.output(images / "metadata.jsonl")
        run.counts = SynthesisCounts(
            images=len(rows),
            failed=0,
            failures={},
            smallest_batch=1,
            drawn_now=len(rows),
            seconds=1.0,
            seconds_per_image=1.0,
            denoiser_evaluations_per_image=1,
            guide_evaluations_per_image=1,
            batch_size=1,
            dtype="float32",
            peak_device_memory=None,
        )


def write_guide(ctx: Context, classes: tuple[str, ...] = CLASSES) -> None:
    """An untrained guide: what it says is arbitrary, but always the same."""
    settings = Guide(backbone="test_resnet", pretrained=False, image_size=SIZE)
    backbone = create_backbone(settings, len(classes), ctx.base, 0, "guide")
    # Spread out: an untrained head is too undecided to tell pictures apart.
    spec = ClassifierSpec(backbone.name, classes, SIZE, backbone.mean, backbone.std, 0.02)
    folder = ctx.stage_dir("finetune-guide")
    save_classifier(folder / "guide.safetensors", backbone.network, spec, {})


def changed(ctx: Context, **values: Any) -> Context:
    keys = {f"filter.{key}": value for key, value in values.items()}
    return replace(ctx, recipe=override_recipe(ctx.recipe, keys))


def rows_of(ctx: Context) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in read_jsonl(ctx.workspace / "filter/higfa/selection.jsonl")}


def write_project(base: Path) -> Path:
    """Real contours, and pictures that are made in code; the guide is off. Returns `base`."""
    write_class_folders(base / "photos/train", 2, 0)
    for split, seed in (("val", 1), ("test", 2)):
        write_class_folders(base / "photos" / split, 1, seed)
    classifier = {"backbone": "test_resnet", "pretrained": False, "image_size": SIZE}
    tree = {
        "name": "tiny",
        "data": {"root": "photos"},
        "contours": {"per_image": REPLICAS, "extractor": "soft"},
        "size": SIZE,
        "model": {"base": "some/model", "controlnet": "some/controlnet"},
        "guidance": {"classifier": {"switch": 1.0}},
        "pictures": {"gallery": 0},
        "arms": {"higfa": {}},
        "run": {"device": "cpu"},
        "downstream": {**classifier, "epochs": 1, "batch_size": 8, "seeds": [0]},
    }
    (base / "tiny.yaml").write_text(dump_yaml(tree), encoding="utf-8")
    ctx = make_context(load_recipe(str(base / "tiny.yaml")), base / "run")
    pipeline.step(ctx, "contours")
    write_drawn(ctx)
    return base
