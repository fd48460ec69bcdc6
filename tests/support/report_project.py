"""A fabricated workspace whose right answers in the report are known."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from higfa_cli.artifacts.artifact import Artifact, write_model, write_rows
from higfa_cli.artifacts.records import DownstreamCounts, RecordedInputs, RunRecord, SynthesisCounts
from higfa_cli.artifacts.rows import PictureRow
from higfa_cli.recipe.schema import Recipe
from higfa_cli.stages.context import Context
from tests.support.recipes import drawing_keys
from tests.support.shapes import contour_row, picture_row

HOSTILE = "<img src=x onerror=alert(1)>"
CLASSES = ("A320", "A321", "BAE 146-200", HOSTILE)


SEEDS = (0, 1, 2)
WAYS = ("source", "contour", "gallery", "text+contour", "higfa")


def dump(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def dump_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def draw_aircraft(path: Path, way: str, number: int, side: int = 64) -> None:
    """A little aeroplane; each way of drawing it has its own colours."""
    sky, body = {
        "source": ("#7fa6cc", "#f2f2ee"),
        "contour": ("#000000", None),
        "gallery": ("#a8b9c4", "#d9d2c6"),
        "text+contour": ("#86a9c9", "#e8e4da"),
        "higfa": ("#7ba3cb", "#f0efe9"),
    }[way]
    image = Image.new("RGB", (side, side), sky)
    draw = ImageDraw.Draw(image)
    k, shift = side / 64, number % 5
    shapes = [
        [(6, 30), (50, 28 + shift / 2), (58, 33), (50, 37), (8, 36)],
        [(24, 34), (38, 34), (20, 50), (15, 50)],
        [(6, 31), (4, 16 + shift), (10, 16 + shift), (18, 30)],
    ]
    for shape in shapes:
        points = [(x * k, y * k) for x, y in shape]
        if body is None:
            draw.polygon(points, outline="#ffffff")
        else:
            draw.polygon(points, fill=body, outline="#59636d")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def write_predictions(path: Path, wrong: set[int], n: int) -> float:
    """n test photos over the classes in turn; returns the accuracy."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["key", "true", "predicted", "confidence"])
        for i in range(n):
            true = CLASSES[i % len(CLASSES)]
            other = CLASSES[(i + 1) % len(CLASSES)]
            writer.writerow([f"test/{i:04d}.jpg", true, other if i in wrong else true, 0.75])
    return 1 - len(wrong) / n


def write_downstream(root: Path, arms: dict[str, list[set[int]]], n: int, test: bool) -> None:
    """`arms`: name -> for each seed, the test photos that it gets wrong."""
    rows = []
    for number, (name, per_seed) in enumerate(arms.items()):
        runs = []
        for seed, wrong in zip(SEEDS, per_seed, strict=False):
            path = root / "train-downstream/arms" / name / f"seed-{seed}" / "predictions.csv"
            accuracy = write_predictions(path, wrong, n) if test else None
            run = {"seed": seed, "best_epoch": 7, "val_accuracy": 0.6 + seed / 100}
            run |= {"test_accuracy": accuracy, "test_macro_f1": accuracy, "images_seen": 4800}
            run |= {"temperature": 1.0, "replaced": 0.0, "steps": 300}
            runs.append(run | {"seconds": 20.5 + seed + number})
        count = 0 if name == "real" else 240
        row = {"name": name, "synthetic": None, "synthetic_images": count, "missing_classes": []}
        rows.append(row | {"runs": runs})
    counts = {"train": 120, "val": 40, "test": n if test else 0}
    results = {"arms": rows, "classes": list(CLASSES), "chosen_by": "val", "counts": counts}
    dump(root / "train-downstream/results.json", results | {"test": "read once"})
    write_record(root / "train-downstream", DownstreamCounts(arms=len(rows), trainings=3))


def write_record(folder: Path, counts: Artifact) -> None:
    record = RunRecord(
        status="done",
        higfa="0.1.0",
        libraries={"torch": "2.13.0"},
        python="3.11.7",
        platform="here",
        device="cpu",
        argv=("/somewhere/bin/higfa", "run", "my recipe.yaml"),
        pid=1,
        seed=0,
        started="2001-02-03",
        inputs=RecordedInputs(key="", parameters={}, files={}),
        outputs={},
        counts=counts.plain(),
    )
    write_model(folder / "run.json", record)


def trace(number: int, steps: int = 20, switch: int = 14) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    u = [i / steps for i in range(steps)]
    rise = [None if i < switch else (i - switch + 1) / (steps - switch) for i in range(steps)]
    p = [None if r is None else float(min(1, 0.3 + 0.6 * r * rng.uniform(0.6, 1.1))) for r in rise]
    row: dict[str, Any] = {"id": f"id{number}", "u": u, "p": p, "error": None}
    row["effective_batch"] = 16
    row["sigma"] = [math.cos(v * math.pi / 2) for v in u]
    row["s_text"] = [4.0 if v is None else 1 + 3 * v for v in p]
    row["s_contour"] = [1.5 if v is None else 1 + 0.5 * v for v in p]
    row["s_classifier"] = [0.0 if v is None else 1 - v for v in p]
    row["grad_norm"] = [None if v is None else 8 * (1 - v) for v in p]
    return row


def write_synthesis(root: Path, shown: int = 4, images: int = 24, guided: bool = True) -> None:
    drawn = root / "synthesize"
    folder = drawn / "higfa"
    rows: dict[str, list[PictureRow]] = {way: [] for way in WAYS[2:]}
    for i in range(images):
        name = f"no {i}.png"
        row = {"file_name": name, "contour": name, "cls": CLASSES[i % len(CLASSES)], "id": f"id{i}"}
        confidence = 0.62 + i / 100 if guided else None
        rows["higfa"].append(picture_row(**row, confidence=confidence))
        rows["text+contour"].append(picture_row(**row))
        if i < shown:
            rows["gallery"].append(picture_row(**row))
            draw_aircraft(drawn / f"gallery/sources/id{i}.png", "source", i)
            draw_aircraft(root / "contours" / name, "contour", i)
            for way in rows:
                draw_aircraft(drawn / way / "images" / name, way, i)
    for way, of_arm in rows.items():
        write_rows(drawn / way / "images/metadata.jsonl", of_arm)
    traces = [trace(i, switch=14 if guided else 20) for i in range(images)]
    dump_rows(folder / "traces/batch-00000.jsonl", traces[: images // 2])
    dump_rows(folder / "traces/batch-00001.jsonl", traces[images // 2 :])
    counts = SynthesisCounts(
        images=images,
        failed=0,
        failures={},
        smallest_batch=16,
        drawn_now=images,
        seconds=1.5 * images,
        seconds_per_image=1.5,
        denoiser_evaluations_per_image=60,
        guide_evaluations_per_image=6,
        batch_size=16,
        dtype="float32",
        peak_device_memory=None,
    )
    for way in ("text+contour", "higfa"):
        write_record(drawn / way, counts)


def write_upstream(root: Path) -> None:
    levels = [
        {"sigma": s, "progress": u, "count": 40, "ece_before": b, "ece_after": b / 4, "accuracy": a}
        for s, u, b, a in (
            (0.46, 0.7, 0.214, 0.58),
            (0.31, 0.8, 0.176, 0.69),
            (0.16, 0.9, 0.1, 0.7),
        )
    ]
    clean = {"count": 40, "ece_before": 0.08, "ece_after": 0.031, "accuracy": 0.74}
    calibration = {"source": "val", "levels": levels, "clean": clean, "temperature": 1.83}
    calibration |= {"overall": clean, "reconstructed": clean}
    dump(root / "finetune-guide/calibration.json", calibration)
    rows = [contour_row(cls=CLASSES[i % 4], source=f"train/{i // 2}.jpg") for i in range(240)]
    write_rows(root / "contours/manifest.jsonl", rows)


def make_recipe(**classifier: float) -> Recipe:
    drawn = drawing_keys(base="pocket:sd", controlnet="pocket:controlnet", classifier=classifier)
    return Recipe.model_validate({"name": "hangar & co", "data": {"root": "photos"}, **drawn})


def context(root: Path, **classifier: float) -> Context:
    return Context(recipe=make_recipe(**classifier), base=root, workspace=root)


# Of 200 photos, `real` gets 80 wrong in seed 0; `better` 50 of the same ones.
REAL = [set(range(80)), set(range(84)), set(range(76))]
BETTER = [set(range(50)), set(range(54)), set(range(46))]


# As many mistakes as `real` within one photo, but on other photos.
SWAPPED = [set(range(40, 120)), set(range(40, 123)), set(range(40, 116))]


def workspace(root: Path, other: list[set[int]] | None = None, test: bool = True) -> Context:
    arms = {"real": REAL} | ({"real+higfa": other} if other else {})
    write_downstream(root, arms, 200, test)
    write_upstream(root)
    write_synthesis(root)
    return context(root)
