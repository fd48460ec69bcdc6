"""Drawing for the laboratory: arms that share photos, contours and seeds, drawn as higfa does.

An arm is the recipe with some keys changed that say how a picture is drawn. Its pictures are cached
in parts under a hash of everything they depend on, so a run that was stopped loses a part per
worker at most, and asking for more pictures draws only the new ones.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from higfa_cli.artifacts.fingerprint import hash_file, hash_json
from higfa_cli.artifacts.plan import sample
from higfa_cli.artifacts.rows import PlanItem
from higfa_cli.data.dataset import list_photos
from higfa_cli.data.images import fit_square
from higfa_cli.errors import UserError
from higfa_cli.models.classifier import Classifier, check_classes, load_classifier
from higfa_cli.models.device import resolve_device
from higfa_cli.models.draw import Drawn
from higfa_cli.recipe.load import LoadedRecipe, load_recipe, override_recipe
from higfa_cli.stages.context import Context, load_photos, make_context
from higfa_cli.stages.drawing import draw_items, load_model, read_contour, torch_threads
from higfa_cli.stages.inputs import model_inputs
from higfa_cli.stages.pipeline import step
from higfa_cli.stages.plan import plan
from tools.pocket.lab.arms import DRAWN, Arm

# Batches per file of the cache.
PART = 2


@dataclass(frozen=True)
class Samples:
    """What arms share: a prepared workspace, and the pictures to draw (all classes alike)."""

    ctx: Context
    items: tuple[PlanItem, ...]

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label is an index into them. Read once: listing data takes a while."""
        return load_photos(self.ctx).classes

    @property
    def labels(self) -> Tensor:
        """Target class of every item, int64 [N]."""
        return torch.tensor([item.class_id for item in self.items])


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


def prepare(
    recipe_ref: str,
    workspace: Path,
    split: str,
    per_class: int,
    overrides: Mapping[str, Any] | None = None,
    guide: bool = True,
) -> Samples:
    """Extract contours of a split, train the guide where asked, and choose the pictures.

    Stages that are fresh in the workspace are not run again. The first pictures are of different
    classes, and a smaller `per_class` chooses a beginning of a larger one's (as long as the split
    has so many photos per class).

    Raises:
        UserError: as the stages, or when a class has fewer usable contours than `per_class`.
    """
    loaded = load_recipe(recipe_ref)
    recipe = override_recipe(loaded.recipe, {**(overrides or {}), "contours.splits": [split]})
    rows = [row for row in list_photos(recipe.data, loaded.base).rows if row.split == split]
    if not rows:
        raise UserError(f"{recipe.data.root} has no photos in `{split}`; choose another split")
    fewest = min(Counter(row.cls for row in rows).values())
    recipe = override_recipe(recipe, {"contours.per_image": -(-per_class // fewest)})
    ctx = make_context(LoadedRecipe(recipe, loaded.base, loaded.origin), workspace)
    for stage in ("contours", "finetune-guide") if guide else ("contours",):
        step(ctx, stage)
    everything = plan(ctx)
    classes = load_photos(ctx).classes
    items = tuple(sample(everything, per_class * len(classes), recipe.seed))
    for cls in classes:
        if (have := sum(item.cls == cls for item in items)) != per_class:
            raise UserError(
                f"class {cls} has {have} usable contours in `{split}`; ask for no more per class"
            )
    return Samples(ctx, items)


class Workers:
    """Processes of one thread each, which draw parts of many arms; none: this process draws.

    A part is asked for once, however often it is named while it is being drawn.
    """

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


def draw_arm(
    samples: Samples, arm: Arm, cache: Path, workers: int = 2, pool: Workers | None = None
) -> Drawings:
    """Draw what the cache does not hold, and read it all.

    Args:
        samples: what is drawn.
        arm: how.
        cache: folder; arms of equal settings share their pictures in it.
        workers: processes, when `pool` is not given.
        pool: workers that are there already.

    Raises:
        UserError: the arm changes more than how pictures are drawn, or the guide is missing.
    """
    jobs = jobs_of(samples, arm, cache)
    if pool is not None:
        pool.draw(jobs)
    elif missing := sum(not job.path.is_file() for job in jobs):
        with worker_pool(min(workers, missing)) as own:
            own.draw(jobs)
    return _read(samples, jobs, guide_file(samples, arm))


def photos_of(samples: Samples) -> Tensor:
    """The photo behind every item, uint8 [N, 3, S, S], as the contours saw it before their warp."""
    by_key = {photo.key: photo for photo in load_photos(samples.ctx).samples}
    side = samples.ctx.recipe.size
    photos = [fit_square(by_key[item.source].read(), side) for item in samples.items]
    return torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2).contiguous()


def arm_context(samples: Samples, arm: Arm) -> Context:
    """The workspace under the arm's recipe. Raises UserError for a key outside DRAWN."""
    for key in arm.settings:
        section, _, leaf = key.partition(".")
        if not leaf or section not in DRAWN:
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
    about = {
        "recipe": ctx.recipe.model_dump(mode="json", include=DRAWN, exclude=idle),
        "batch_size": _batch_size(ctx),
        "models": model_inputs(ctx, samples.classes),
        "guide": None if guide is None else hash_file(guide),
    }
    folder = cache / hash_json(about)[:20]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "arm.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    by_id = {item.id: item for item in plan(ctx)}
    own = [by_id[item.id] for item in samples.items]
    size = PART * _batch_size(ctx)
    parts = [tuple(own[i : i + size]) for i in range(0, len(own), size)]
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
    failed = np.array([one.pixels is None for one in drawn])
    pictures = np.stack([grey if one.pixels is None else one.pixels for one in drawn])
    contours = np.stack([(read_contour(ctx, item)[0] * 255).round().numpy() for item in items])
    partial_file = job.path.with_suffix(".partial")
    with partial_file.open("wb") as handle:
        np.savez_compressed(
            handle,
            pictures=pictures.transpose(0, 3, 1, 2),
            contours=contours.astype(np.uint8),
            traces=np.array(json.dumps([one.trace for one in drawn])),
            failed=failed,
            seconds=np.array(seconds),
        )
    partial_file.replace(job.path)


def _load_guide(ctx: Context, path: Path) -> Classifier:
    guide = load_classifier(path, resolve_device(ctx.recipe.run.device))
    check_classes(guide, load_photos(ctx).classes)
    return guide


def _read(samples: Samples, jobs: Sequence[Job], guide: Path | None) -> Drawings:
    parts = []
    for job in jobs:
        with np.load(job.path, allow_pickle=False) as stored:
            parts.append({name: stored[name] for name in stored.files})
    joined = partial(_joined, parts)
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


def _joined(parts: Sequence[Mapping[str, np.ndarray]], name: str) -> Tensor:
    return torch.from_numpy(np.concatenate([part[name] for part in parts]))
