"""The laboratory's one bench: samples, judges, feature space and the cache of drawn pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from higfa_cli.artifacts.atomic import read_json
from higfa_cli.artifacts.fingerprint import hash_file, hash_json
from higfa_cli.artifacts.lock import folder_lock
from higfa_cli.data.dataset import load_dataset
from higfa_cli.recipe.load import load_recipe
from higfa_cli.stages.inputs import model_inputs
from tools.pocket.lab.arms import DRAWN, HIGFA, Arm
from tools.pocket.lab.draw import (
    Drawings,
    Samples,
    Workers,
    arm_context,
    draw_arm,
    guide_file,
    jobs_of,
    photos_of,
    prepare,
    worker_pool,
)
from tools.pocket.lab.features import NAME as FEATURES
from tools.pocket.lab.judges import Judge, check_jury, jury, load_judges
from tools.pocket.lab.options import Options, constants, device_name, made
from tools.pocket.lab.scores import Score, hits
from tools.pocket.lab.strips import strip
from tools.pocket.lab.text import percent

COLUMNS = 8

Features = Callable[[Tensor], Tensor]


class Instruments:
    """Samples, and what measures them: draws and scores arms, each once.

    Args:
        samples: what is drawn.
        judges: the jury, for pictures of the samples' size.
        features: uint8 [N, 3, S, S] -> unit vectors [N, D].
        cache: folder of drawn pictures.
        out: folder of numbers, pages and their pictures.
        pool: who draws.
    """

    def __init__(
        self,
        samples: Samples,
        judges: Sequence[Judge],
        features: Features,
        cache: Path,
        out: Path,
        pool: Workers,
    ) -> None:
        self.samples, self.judges, self.features = samples, tuple(judges), features
        self.cache, self.out, self.pool = cache, out, pool
        self._scores: dict[str, Score] = {}

    def ahead(self, arms: Iterable[Arm]) -> None:
        """Have the arms drawn in the background, so that no worker waits while one is measured.

        Raises UserError as `draw_arm`.
        """
        for arm in arms:
            self.pool.ask(jobs_of(self.samples, arm, self.cache))

    def drawings(self, arm: Arm) -> Drawings:
        """The arm's pictures, drawn where the cache lacks them. Raises UserError as `draw_arm`."""
        return draw_arm(self.samples, arm, self.cache, pool=self.pool)

    def score(self, arm: Arm) -> Score:
        """Draw (or read) and score, and print a line. Raises UserError as `draw_arm`, `jury`."""
        guide = guide_file(self.samples, arm)
        recipe = arm_context(self.samples, arm).recipe.model_dump(mode="json")
        key = hash_json([recipe, None if guide is None else hash_file(guide)])
        if key not in self._scores:
            began = time.monotonic()
            drawings = self.drawings(arm)
            log_p = jury(self.judges, drawings.pictures, self.samples.classes)
            features = self.features(drawings.pictures)
            score = Score(drawings, log_p, hits(log_p, drawings), features)
            took = time.monotonic() - began
            print(f"{arm.name}: agreement {percent(score.agreement)} %, {took:.0f} s", flush=True)
            self._scores[key] = score
        return self._scores[key]

    def strip(self, rows: Sequence[tuple[str, Score]]) -> Image.Image:
        """The first items: contours, photos, and a line of pictures per score."""
        few = slice(None, COLUMNS)
        first = rows[0][1].drawings
        lines = [("contour", first.contours[few]), ("photo", photos_of(self.samples)[few])]
        lines += [(name, score.drawings.pictures[few]) for name, score in rows]
        return strip(lines, [item.cls for item in self.samples.items[few]])


@contextmanager
def open_instruments(
    options: Options, split: str, features: Features, guide: bool = True
) -> Iterator[Instruments]:
    """Contours of the split and, where asked, the guide made ready, and workers started.

    Judges are checked before any long work. One command at a time has the workspace. Raises
    UserError as `load_judges`, `check_jury`, `prepare` and `folder_lock`.
    """
    with folder_lock(options.workspace):
        judges = load_judges(options.judges)
        loaded = load_recipe(options.recipe)
        recipe = loaded.recipe
        check_jury(judges, load_dataset(recipe.data, loaded.base, recipe.seed).classes, recipe.size)
        samples = prepare(options.recipe, options.workspace, split, options.per_class, guide=guide)
        with worker_pool(options.workers) as pool:
            cache = options.workspace / "drawn"
            yield Instruments(samples, judges, features, cache, options.out, pool)


def start_results(
    path: Path, options: Options, instruments: Instruments, split: str
) -> dict[str, Any]:
    """What a command's JSON file begins with: what was drawn, and the `parts` that still hold.

    Parts of an earlier run stay when recipe, guide, judges and contours are the same.
    """
    samples = instruments.samples
    recipe = samples.ctx.recipe
    guide = guide_file(samples, HIGFA)
    base = {
        "recipe": recipe.model_dump(mode="json", include=DRAWN),
        "models": model_inputs(samples.ctx, samples.classes),
        "guide": guide and hash_file(guide),
        "judges": [hash_file(file) for file in sorted(options.judges.glob("*.safetensors"))],
        "items": [[item.id, item.contour_sha256] for item in samples.items],
    }
    new = {
        "made": made(samples.ctx, path.stem),
        "base": hash_json(base),
        "recipe": recipe.name,
        "seed": recipe.seed,
        "steps": recipe.sampling.steps,
        "device": device_name(recipe.run.device),
        "constants": constants(recipe.guidance),
        "features": FEATURES,
        "split": split,
        "classes": len(samples.classes),
        "per_class": options.per_class,
        "pictures": len(samples.items),
    }
    before = read_json(path) if path.is_file() else {}
    return {**new, "parts": before["parts"] if before.get("base") == new["base"] else {}}
