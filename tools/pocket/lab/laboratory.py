"""The laboratory's one bench: workspaces, judges and feature space; and the numbers of a page."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from PIL import Image
from torch import Tensor

from higfa_cli.artifacts.atomic import read_json
from higfa_cli.artifacts.fingerprint import hash_file, hash_json
from higfa_cli.artifacts.lock import folder_lock
from higfa_cli.data.dataset import load_dataset
from higfa_cli.errors import UserError
from higfa_cli.recipe.arms import HIGFA, TEXT_CONTOUR, Changes
from higfa_cli.recipe.load import load_recipe
from higfa_cli.stages.inputs import synthesize_inputs
from tools.pocket.lab import pages
from tools.pocket.lab.arms import ARMS
from tools.pocket.lab.draw import Pictures, draw, read_arm
from tools.pocket.lab.features import NAME as FEATURES
from tools.pocket.lab.judges import Judge, check_jury, load_judges, votes
from tools.pocket.lab.options import Options, constants, device_name, made
from tools.pocket.lab.samples import NOTHING, Samples, prepare
from tools.pocket.lab.scores import Score
from tools.pocket.lab.strips import strip
from tools.pocket.lab.text import percent

COLUMNS = 8

Features = Callable[[Tensor], Tensor]


class Instruments:
    """Samples, and what measures them: draws and scores arms, each once.

    Args:
        options: as given.
        split: whose contours are drawn.
        judges: the jury, for pictures of the recipe's size.
        features: uint8 [N, 3, S, S] -> unit vectors [N, D].
        arms: what the recipe's arms are.
        guide: as `prepare`.
    """

    def __init__(
        self,
        options: Options,
        split: str,
        judges: Sequence[Judge],
        features: Features,
        arms: Mapping[str, Changes],
        guide: Changes | None,
    ) -> None:
        self.options, self.split, self.judges = options, split, tuple(judges)
        self.features, self.arms = features, arms
        self.samples = self.beside("", guide=guide)
        self._scores: dict[tuple[Path, str], Score] = {}

    def beside(
        self, folder: str, changes: Mapping[str, Any] = NOTHING, guide: Changes | None = NOTHING
    ) -> Samples:
        """The same pictures in a workspace below this one; arguments and errors as `prepare`."""
        options = self.options
        place, wanted = options.workspace / folder, (self.split, options.per_class)
        return prepare(options.recipe, place, *wanted, changes, self.arms, guide)

    def draw(self, arms: Iterable[str], samples: Samples | None = None) -> None:
        """Have the arms drawn together. Raises UserError as stage `synthesize`."""
        draw(samples or self.samples, list(arms), self.options.workers)

    def pictures(self, arm: str, samples: Samples | None = None) -> Pictures:
        """The arm's pictures, drawn where they are missing. Raises UserError as `draw`."""
        self.draw([arm], samples)
        return read_arm(samples or self.samples, arm)

    def measured(self, pictures: Pictures, classes: Sequence[str]) -> Score:
        """Pictures with labels that are indices into `classes`. Raises UserError as `votes`."""
        seen = votes(self.judges, pictures.pictures, classes)
        return Score(pictures, seen, self.features(pictures.pictures))

    def score(self, arm: str, samples: Samples | None = None) -> Score:
        """Draw (or read) and score, and print a line. Raises UserError as `draw`, `votes`."""
        samples = samples or self.samples
        key = samples.ctx.workspace, arm
        if key not in self._scores:
            began = time.monotonic()
            self._scores[key] = self.measured(self.pictures(arm, samples), samples.classes)
            agreement, took = percent(self._scores[key].agreement), time.monotonic() - began
            print(f"{arm}: agreement {agreement} %, {took:.0f} s", flush=True)
        return self._scores[key]

    def strip(self, rows: Sequence[tuple[str, Score]]) -> Image.Image:
        """The first items: contours, photos, and a line of pictures per score."""
        few = slice(None, COLUMNS)
        first = rows[0][1].pictures
        lines = [("contour", first.contours[few]), ("photo", self.samples.photos()[few])]
        lines += [(name, score.pictures.pictures[few]) for name, score in rows]
        return strip(lines, [item.cls for item in self.samples.items[few]])


@contextmanager
def open_instruments(
    options: Options,
    split: str,
    features: Features,
    arms: Mapping[str, Changes] = MappingProxyType({}),
    guide: Changes | None = NOTHING,
) -> Iterator[Instruments]:
    """Contours of the split and, where asked, the guide made ready; `arms` beside `ARMS`.

    Judges are checked before any long work. One command at a time has the workspace. Raises
    UserError as `load_judges`, `check_jury`, `prepare` and `folder_lock`.
    """
    with folder_lock(options.workspace):
        judges = load_judges(options.judges)
        loaded = load_recipe(options.recipe)
        recipe = loaded.recipe
        check_jury(judges, load_dataset(recipe.data, loaded.base, recipe.seed).classes, recipe.size)
        yield Instruments(options, split, judges, features, {**ARMS, **arms}, guide)


def known_names(asked: Sequence[str], known: Iterable[str], flag: str, kind: str) -> list[str]:
    """The asked names, or all. Raises UserError for one that is not known."""
    every = list(known)
    if unknown := [name for name in asked if name not in every]:
        raise UserError(f"{flag} {unknown[0]}: no such {kind}; choose from {', '.join(every)}")
    return list(asked) or every


class Results:
    """The numbers of a page, as its JSON file holds them; `known`: its parts, in their order.

    Parts of an earlier run stay when the judges, the rendered pools and all that pictures depend
    on are the same (where it is `guided`, the guide too).
    """

    def __init__(
        self,
        page: str,
        known: Iterable[str],
        instruments: Instruments,
        flags: str = "",
        guided: bool = True,
    ) -> None:
        options, samples = instruments.options, instruments.samples
        self.page, self.known, self.options = page, list(known), options
        recipe = samples.ctx.recipe
        pools = sorted(options.rendered.glob("*/records.jsonl")) if options.rendered else []
        base = {
            "pictures": synthesize_inputs(samples.ctx.arm(HIGFA if guided else TEXT_CONTOUR)).key,
            "judges": [hash_file(file) for file in sorted(options.judges.glob("*.safetensors"))],
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
            "split": instruments.split,
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
