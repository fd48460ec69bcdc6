"""What the guide will see while it steers: photos noised, denoised and decoded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from higfa_cli.artifacts.seeds import seed_for
from higfa_cli.contour.extract import extract
from higfa_cli.data.dataset import Dataset, Sample
from higfa_cli.data.images import fit_square
from higfa_cli.data.prompts import prompts_for
from higfa_cli.errors import UserError
from higfa_cli.method.protocols import Level
from higfa_cli.models.classifier import from_bytes, resize, to_bytes
from higfa_cli.models.device import in_parts_that_fit
from higfa_cli.models.diffusion import DiffusionModel, noise_and_denoise, reconstruct
from higfa_cli.recipe.schema import Recipe
from higfa_cli.stages.context import Progress
from higfa_cli.training.pictures import Pictures
from higfa_cli.training.room import check_memory

# A photo (its row) and the level to take it to; without a level it is only decoded.
Job = tuple[int, Level | None]


@dataclass(frozen=True)
class Photos:
    """One split: `clean` at the classifier's size, and all that the diffusion model needs.

    `images`: uint8 [N, 3, S, S] at the model's size; `contours`: uint8 [N, 1, S, S], each photo's
    own, not transformed; `prompts`: the class's words in one of the recipe's templates.
    """

    samples: tuple[Sample, ...]
    clean: Pictures
    images: Tensor
    contours: Tensor
    prompts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.samples)


def photo_prompts(
    samples: Sequence[Sample], dataset: Dataset, recipe: Recipe, base: Path
) -> tuple[str, ...]:
    """A prompt per photo: one of those that the recipe has for its class."""
    prompts = prompts_for(recipe.prompts, dataset.words, base)
    return tuple(
        own[seed_for(recipe.seed, "guide-prompt", sample.key) % len(own)]
        for sample in samples
        for own in (prompts[sample.cls],)
    )


def read_photos(
    samples: Sequence[Sample], dataset: Dataset, recipe: Recipe, base: Path, progress: Progress
) -> Photos:
    """Read each photo once, for the classifier, the diffusion model and the contour extractor.

    Raises UserError for an unreadable photo, or more pictures than fit in memory.
    """
    small, large = recipe.guide.image_size, recipe.size
    check_memory(len(samples), small)
    check_memory(len(samples), large)
    clean = np.empty((len(samples), 3, small, small), dtype=np.uint8)
    images = np.empty((len(samples), 3, large, large), dtype=np.uint8)
    contours = np.empty((len(samples), 1, large, large), dtype=np.uint8)
    for row, sample in enumerate(progress.track(samples, "reading photos")):
        picture = sample.read()
        clean[row] = fit_square(picture, small).transpose(2, 0, 1)
        images[row] = fit_square(picture, large).transpose(2, 0, 1)
        contours[row, 0] = extract(picture, recipe.contours, large)
    labels = torch.tensor([sample.class_id for sample in samples], dtype=torch.int64)
    return Photos(
        samples=tuple(samples),
        clean=Pictures(torch.from_numpy(clean), labels),
        images=torch.from_numpy(images),
        contours=torch.from_numpy(contours),
        prompts=photo_prompts(samples, dataset, recipe, base),
    )


def pool_jobs(
    photos: Photos, levels: Sequence[Level], per_image: int, seed: int
) -> tuple[Job, ...]:
    """Every photo once without noise, and `per_image` times at levels spread over the guided ones.

    Where a photo starts in the cycle of levels is a hash of its key, so all levels are visited.
    """
    jobs: list[Job] = []
    stride = max(1, len(levels) // per_image)
    for row, sample in enumerate(photos.samples):
        jobs.append((row, None))
        if levels:
            first = seed_for(seed, "guide-level", sample.key)
            jobs += [(row, levels[(first + k * stride) % len(levels)]) for k in range(per_image)]
    return tuple(jobs)


def render(
    model: DiffusionModel,
    photos: Photos,
    jobs: Sequence[Job],
    seed: int,
    batch: int,
    progress: Progress,
    description: str,
) -> Pictures:
    """One picture per job, in the order of the jobs, at the classifier's size.

    Jobs of one level are drawn `batch` together; each has its own noise seed, from the photo, the
    level and how often the two have met, so no picture depends on its neighbours in the batch.
    Raises UserError when the pictures do not fit in memory.
    """
    size = photos.clean.images.shape[-1]
    check_memory(len(jobs), size)
    by_level: dict[Level | None, list[int]] = defaultdict(list)
    for number, (_, level) in enumerate(jobs):
        by_level[level].append(number)
    seeds = _noise_seeds(photos, jobs, seed)
    out = torch.empty((len(jobs), 3, size, size), dtype=torch.uint8)
    chunks = [
        (level, numbers[start : start + batch])
        for level, numbers in by_level.items()
        for start in range(0, len(numbers), batch)
    ]
    for level, numbers in progress.track(chunks, description):

        def together(part: Sequence[int], level: Level | None = level) -> Sequence[Tensor]:
            rows = [jobs[number][0] for number in part]
            drawn = _noised(model, photos, rows, level, [seeds[number] for number in part])
            return to_bytes(resize(drawn.to(torch.float32), size)).cpu().unbind()

        out[numbers] = torch.stack(in_parts_that_fit(numbers, together, _no_room))
    labels = photos.clean.labels[torch.tensor([row for row, _ in jobs], dtype=torch.int64)]
    return Pictures(out, labels)


def trial(model: DiffusionModel, photos: Photos, level: Level | None) -> Callable[[int], None]:
    """Take so many copies of the first photo to `level` and back: does that many fit?"""

    def attempt(size: int) -> None:
        _noised(model, photos, [0] * size, level, [0] * size)

    return attempt


def _noised(
    model: DiffusionModel,
    photos: Photos,
    rows: Sequence[int],
    level: Level | None,
    seeds: Sequence[int],
) -> Tensor:
    """The photos `rows` at `level` as the guide will see them, [B, 3, S, S] in about [-1, 1]."""
    rows = list(rows)
    images = from_bytes(photos.images[rows]).to(model.device)
    if level is None:
        return reconstruct(model, images)
    contours = photos.contours[rows].to(torch.float32) / 255.0
    prompts = [photos.prompts[row] for row in rows]
    return noise_and_denoise(model, images, prompts, contours, level, seeds)


def _no_room(number: int) -> Tensor:
    raise UserError(
        "not even one photo can be noised and decoded in this device's memory; set "
        "run.memory.slicing or cpu_offload, model.tiling, or a smaller size"
    )


def _noise_seeds(photos: Photos, jobs: Sequence[Job], seed: int) -> list[int]:
    met: dict[tuple[int, int], int] = defaultdict(int)
    seeds = []
    for row, level in jobs:
        index = -1 if level is None else level.index
        seeds.append(seed_for(seed, "guide-noise", photos.samples[row].key, index, met[row, index]))
        met[row, index] += 1
    return seeds
