"""Drawing for the laboratory: arms that share photos, contours and seeds, drawn as higfa does.

An arm is the recipe with some keys changed that say how a picture is drawn. Its pictures are cached
in parts under a hash of everything they depend on, so a run that was stopped loses a part per
worker at most, and asking for more pictures draws only the new ones.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from higfa_cli.artifacts.atomic import write_bytes
from higfa_cli.artifacts.fingerprint import hash_file, hash_json
from higfa_cli.artifacts.rows import PlanItem
from higfa_cli.errors import UserError
from higfa_cli.models.classifier import Classifier, check_classes, load_classifier
from higfa_cli.models.device import resolve_device
from higfa_cli.models.draw import Drawn
from higfa_cli.recipe.load import override_recipe
from higfa_cli.stages.context import Context, load_photos
from higfa_cli.stages.drawing import draw_items, load_model, read_contour, torch_threads
from higfa_cli.stages.inputs import model_inputs
from higfa_cli.stages.plan import plan
from tools.pocket.lab.arms import DRAWN, Arm
from tools.pocket.lab.samples import Samples

# Batches per file of the cache.
PART = 2


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Pictures of known classes.

    Attributes:
        pictures: uint8 [N, 3, S, S].
        labels: target classes, int64 [N].
        failed: bool [N]: never finished. They agree with no label, and no other figure knows them.
    """

    pictures: Tensor
    labels: Tensor
    failed: Tensor


@dataclass(frozen=True, kw_only=True)
class Drawings(Pictures):
    """An arm's pictures, in the order of the items; grey where drawing failed.

    Attributes:
        contours: asked contours, uint8 [N, S, S].
        traces: per picture, as `higfa synthesize` writes them.
        guide_p: the guide's probability of the target class on the finished picture, [N]; NaN
            where the workspace has no guide or drawing failed.
        seconds: of drawing, added up over processes of one thread each.
    """

    contours: Tensor
    traces: tuple[dict[str, Any], ...]
    guide_p: Tensor
    seconds: float


@dataclass(frozen=True)
class Job:
    """A part of an arm, as a worker is told of it."""

    ctx: Context
    items: tuple[PlanItem, ...]
    guide: Path | None
    path: Path


class Workers:
    """Processes of one thread each, which draw parts of many arms; none: this process draws."""

    def __init__(self, pool: Executor | None) -> None:
        self._pool = pool
        self._asked: dict[Path, Future[None]] = {}

    def ask(self, jobs: Sequence[Job]) -> None:
        """Have the missing parts drawn in the background; without processes this does nothing."""
        if self._pool is None:
            return
        for job in jobs:
            if job.path not in self._asked and not job.path.is_file():
                self._asked[job.path] = self._pool.submit(_draw_part, job)

    def draw(self, jobs: Sequence[Job]) -> None:
        """Return when every part is there. Raises what drawing raised."""
        self.ask(jobs)
        for job in jobs:
            if (asked := self._asked.pop(job.path, None)) is not None:
                asked.result()
            elif not job.path.is_file():
                with torch_threads(1):
                    _draw_part(job)


@contextmanager
def worker_pool(workers: int) -> Iterator[Workers]:
    """Workers that can serve many arms; one alone is this process."""
    if workers == 1:
        yield Workers(None)
        return
    # A forked child of a process whose torch has threads may hang.
    with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        try:
            yield Workers(pool)
        finally:
            # Whoever was stopped does not wait for all that was asked for ahead.
            pool.shutdown(wait=False, cancel_futures=True)


def draw_arm(samples: Samples, arm: Arm, cache: Path, workers: Workers | None = None) -> Drawings:
    """Draw what the cache does not hold, and read it all; without workers in this process.

    Arms of equal settings share their pictures in the folder `cache`.

    Raises UserError: the arm changes more than how pictures are drawn, or the guide is missing.
    """
    jobs = jobs_of(samples, arm, cache)
    (workers or Workers(None)).draw(jobs)
    return _read(samples, jobs, guide_file(samples, arm))


def arm_context(samples: Samples, arm: Arm) -> Context:
    """The workspace under the arm's recipe. Raises UserError for a key outside DRAWN."""
    for key in arm.settings:
        if key.partition(".")[0] not in DRAWN:
            raise UserError(f"arm {arm.name}: `{key}` is no key of drawing; prepare with it")
    return replace(samples.ctx, recipe=override_recipe(samples.ctx.recipe, arm.settings))


def guide_file(samples: Samples, arm: Arm) -> Path | None:
    """The guide that steers the arm, or reads its pictures at least. Raises UserError: missing."""
    own = samples.ctx.stage_dir("finetune-guide") / "guide.safetensors"
    path = arm.guide or own
    if path.is_file():
        return path
    if arm.guide is not None or arm_context(samples, arm).recipe.guidance.consulted:
        raise UserError(f"arm {arm.name}: {path} is missing; prepare with guide=True")
    return None


def jobs_of(samples: Samples, arm: Arm, cache: Path) -> list[Job]:
    """Parts of the arm. Their files are named by everything that their pictures depend on.

    Raises UserError as `draw_arm`.
    """
    ctx = arm_context(samples, arm)
    guide = guide_file(samples, arm) if ctx.recipe.guidance.consulted else None
    # Where no step is guided, the classifier's keys change nothing.
    idle = None if guide else {"guidance": {"classifier"}}
    inputs = {
        "recipe": ctx.recipe.model_dump(mode="json", include=DRAWN, exclude=idle),
        "batch_size": _batch_size(ctx),
        "models": model_inputs(ctx, samples.classes),
        "guide": None if guide is None else hash_file(guide),
    }
    folder = cache / hash_json(inputs)[:20]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "arm.json").write_text(json.dumps(inputs, indent=1) + "\n", encoding="utf-8")
    by_id = {item.id: item for item in plan(ctx)}
    items = [by_id[item.id] for item in samples.items]
    size = PART * _batch_size(ctx)
    parts = [tuple(items[i : i + size]) for i in range(0, len(items), size)]
    return [Job(ctx, part, guide, folder / f"{_items_hash(part)}.npz") for part in parts]


def _batch_size(ctx: Context) -> int:
    size = ctx.recipe.run.batch_size
    if size == "auto":
        raise UserError(
            f"{ctx.recipe.name}: run.batch_size: auto: the laboratory draws in batches of a "
            "known size; write a number"
        )
    return size


def _items_hash(items: Sequence[PlanItem]) -> str:
    return hash_json(
        [[i.id, i.class_id, i.seed, i.prompt, i.negative, i.contour_sha256] for i in items]
    )[:20]


def _draw_part(job: Job) -> None:
    """Draw and write one part; the file appears complete or not at all."""
    ctx, items = job.ctx, job.items
    guide = None if job.guide is None else _load_guide(ctx, job.guide)
    model = load_model(ctx, items)
    began = time.perf_counter()
    drawn: list[Drawn] = []
    size = _batch_size(ctx)
    for start in range(0, len(items), size):
        drawn += draw_items(ctx, model, guide, ctx.recipe.guidance, items[start : start + size])
    seconds = time.perf_counter() - began
    grey = np.full((model.size, model.size, 3), 128, np.uint8)
    failed = np.array([picture.pixels is None for picture in drawn])
    pictures = np.stack([grey if p.pixels is None else p.pixels for p in drawn])
    contours = np.stack([(read_contour(ctx, item)[0] * 255).round().numpy() for item in items])
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        pictures=pictures.transpose(0, 3, 1, 2),
        contours=contours.astype(np.uint8),
        traces=np.array(json.dumps([picture.trace for picture in drawn])),
        failed=failed,
        seconds=np.array(seconds),
    )
    write_bytes(job.path, buffer.getvalue())


def _load_guide(ctx: Context, path: Path) -> Classifier:
    guide = load_classifier(path, resolve_device(ctx.recipe.run.device))
    check_classes(guide, load_photos(ctx).classes)
    return guide


def _read(samples: Samples, jobs: Sequence[Job], guide: Path | None) -> Drawings:
    parts = [dict(np.load(job.path, allow_pickle=False)) for job in jobs]

    def joined(name: str) -> Tensor:
        return torch.from_numpy(np.concatenate([part[name] for part in parts]))

    pictures, labels, failed = joined("pictures"), samples.labels, joined("failed")
    p = torch.full((len(labels),), torch.nan)
    if guide is not None:
        everything = _load_guide(samples.ctx, guide).probabilities(pictures)
        p = everything[torch.arange(len(labels)), labels].masked_fill(failed, torch.nan)
    return Drawings(
        pictures=pictures,
        labels=labels,
        contours=joined("contours"),
        traces=tuple(trace for part in parts for trace in json.loads(str(part["traces"]))),
        guide_p=p,
        failed=failed,
        seconds=float(sum(part["seconds"] for part in parts)),
    )
