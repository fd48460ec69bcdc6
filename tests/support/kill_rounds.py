"""Rounds of killing and running again, on all six stages with tiny real models."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from tests.support import shapes, tiny
from tests.support.fault_project import tree
from tests.support.forks import Forks
from tests.support.recipes import EDGES, write_recipe

STAGES = ("contours", "finetune-guide", "synthesize", "filter", "train-downstream", "report")
# Stages that have a folder, and so a record, for each of the recipe's arms and the gallery.
OF_ARMS = {"synthesize": ("higfa", "gallery"), "filter": ("higfa",)}
CLASSES = (shapes.CLASSES[0], shapes.CLASSES[3])


def write_project(folder: Path) -> Path:
    """Photos, tiny models and a recipe with guided steps and every stage; returns the recipe."""
    for split, count, seed in (("train", 3, 1), ("val", 2, 2), ("test", 2, 3)):
        shapes.write_class_folders(folder / "photos" / split, count, seed, CLASSES)
    training = {"epochs": 2, "batch_size": 4}
    return write_recipe(
        folder / "recipe.yaml",
        tiny.make_model(folder / "model"),
        name="killed",
        contours=EDGES,
        guide=training | {"noised_per_image": 1},
        guidance={"classifier": {"switch": 0.5}},
        sampling={"steps": 2},
        pictures={"gallery": 1},
        run={"batch_size": 2},
        downstream=training | {"seeds": [0]},
    )


@dataclass(frozen=True)
class Round:
    """One kill: the stage it hit (None: the run had ended before), and what differs in the end."""

    stage: str | None
    after: float
    differences: tuple[str, ...]


class Killer:
    """A project, an undisturbed run of it, and rounds that must end as that did."""

    def __init__(self, forks: Forks, folder: Path) -> None:
        self.forks, self.folder = forks, folder
        self.recipe = write_project(folder)
        # One name for all runs: the report quotes the command.
        self.command = ("run", str(self.recipe), "--workspace", "out", "--quiet")
        (folder / "whole").mkdir()
        child = forks.start(*self.command, cwd=folder / "whole", stop_at=0, still=True)
        code, _, err = child.end()
        assert code == 0, err
        self.steps = child.steps
        child.teach()
        self.old: dict[str, str] = {}
        self.whole = tree(folder / "whole" / "out")
        self.quick_seconds = self.round(stop_at=0).after

    def outdated(self) -> Path:
        """A workspace whose every stage was finished with another recipe seed."""
        folder = self.folder / "outdated"
        if not folder.exists():
            folder.mkdir()
            command = (*self.command, "--set", "seed=1")
            code, _, err = self.forks.start(*command, cwd=folder, still=True).end()
            assert code == 0, err
            self.old = tree(folder / "out")
        return folder / "out"

    def round(
        self,
        stop_at: int | None = None,
        delay: float | None = None,
        kills: int = 1,
        begin_with: Path | None = None,
    ) -> Round:
        """Kill at a durable step or after `delay` seconds, `kills` times, then run to the end.

        `begin_with`: a workspace that is already there.
        """
        work = self.folder / "round"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        if begin_with is not None:
            shutil.copytree(begin_with, work / "out")
        started = time.perf_counter()
        hit: str | None = None
        for _ in range(kills):
            child = self.forks.start(*self.command, cwd=work, stop_at=stop_at, still=True)
            if delay is not None:
                time.sleep(delay)
                child.send(9)
            code, _, err = child.end()
            assert code in (0, -9), err
            hit = None if code == 0 else at_work(work / "out")
        after = time.perf_counter() - started
        code, _, err = self.forks.start(*self.command, cwd=work, still=True).end()
        problems = [] if code == 0 else [f"exit {code}: {err.strip()}"]
        return Round(hit, after, (*problems, *self.differences(work / "out")))

    def differences(self, workspace: Path) -> list[str]:
        """What is not as the undisturbed run left it: contents, missing and additional files.

        What was set aside must be what lay there before, and is no difference.
        """
        found, aside = tree(workspace), {}
        for name in [name for name in found if "/.earlier/" in f"/{name}"]:
            before, _, rest = name.partition(".earlier/")
            folder, _, file = rest.partition("/")
            aside[f"{before}{folder.rpartition('-')[0]}/{file}"] = found.pop(name)
        if aside:
            found |= {f"{name} (earlier)": "" for name in aside.items() ^ self.old.items()}
        names = found.keys() | self.whole.keys()
        return sorted(name for name in names if found.get(name) != self.whole.get(name))


def at_work(workspace: Path) -> str:
    """The stage that the killed run was at."""
    for stage in STAGES:
        for arm in OF_ARMS.get(stage, ("",)):
            try:
                record = json.loads((workspace / stage / arm / "run.json").read_text("utf-8"))
            except (FileNotFoundError, ValueError):
                return stage
            if record["status"] != "done":
                return stage
    return STAGES[-1]
