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
from higfa_cli.errors import UserError
from higfa_cli.recipe.load import load_recipe
from higfa_cli.stages.inputs import model_inputs
from tools.pocket.lab import pages
from tools.pocket.lab.arms import DRAWN, HIGFA, Arm
from tools.pocket.lab.draw import (
    Drawings,
    Workers,
    arm_context,
    draw_arm,
    guide_file,
    jobs_of,
    worker_pool,
)
from tools.pocket.lab.features import NAME as FEATURES
from tools.pocket.lab.judges import Judge, check_jury, jury, load_judges
from tools.pocket.lab.options import Options, constants, device_name, made
from tools.pocket.lab.samples import Samples, photos_of, prepare
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
        return draw_arm(self.samples, arm, self.cache, self.pool)

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


def known_names(asked: Sequence[str], known: Iterable[str], flag: str, kind: str) -> list[str]:
    """The asked names, or all. Raises UserError for one that is not known."""
    every = list(known)
    if unknown := [name for name in asked if name not in every]:
        raise UserError(f"{flag} {unknown[0]}: no such {kind}; choose from {', '.join(every)}")
    return list(asked) or every


class Results:
    """The numbers of a page, as its JSON file holds them; `known`: its parts, in their order.

    Parts of an earlier run stay when recipe, weights, judges, contours, rendered pools and (where
    it is `guided`) the guide are the same.
    """

    def __init__(
        self,
        page: str,
        known: Iterable[str],
        options: Options,
        instruments: Instruments,
        split: str,
        flags: str = "",
        guided: bool = True,
    ) -> None:
        self.page, self.known, self.options = page, list(known), options
        samples = instruments.samples
        recipe = samples.ctx.recipe
        pools = sorted(options.rendered.glob("*/records.jsonl")) if options.rendered else []
        guide = guide_file(samples, HIGFA) if guided else None
        base = {
            "recipe": recipe.model_dump(mode="json", include=DRAWN),
            "models": model_inputs(samples.ctx, samples.classes),
            "guide": guide and hash_file(guide),
            "judges": [hash_file(file) for file in sorted(options.judges.glob("*.safetensors"))],
            "items": [[item.id, item.contour_sha256] for item in samples.items],
            "pools": [[file.parent.name, hash_file(file)] for file in pools],
        }
        self.numbers: dict[str, Any] = {
            "made": made(samples.ctx, page, flags),
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
        path = options.data(page)
        before = read_json(path) if path.is_file() else {}
        held = before.get("base") == self.numbers["base"]
        self.parts: dict[str, Any] = before["parts"] if held else {}

    def add(self, name: str, part: Any) -> None:
        """Put a part that was measured now in the place of an earlier one, and write the page."""
        self.parts[name] = part
        self.publish()

    def publish(self) -> str:
        """Write numbers and page; returns the latter."""
        parts = {name: self.parts[name] for name in self.known if name in self.parts}
        self.numbers["parts"] = parts
        return pages.publish(self.options.out, self.page, self.numbers)
