"""What pictures are worth to a classifier: photos alone, and with pictures of different makes.

    python -m tools.pocket.lab.usefulness --rendered DIR --out OUT \\
        --arms real perfect encoded drawn --pictures RUN/synthesize/images --seeds 0 1 2

DIR holds the pools test, web and perfect (perfect.py). Arms: `real` trains on the user's photos
alone; the others put one picture in the place of a photo at a rate of --replacement: `perfect`
pictures, the same `encoded` and decoded by the recipe's autoencoder, `web` photos, as many as the
perfect ones, or what higfa has `drawn`. OUT/usefulness.jsonl gets a line per training, and a
training that it holds is not run again. About eight minutes of one core each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from higfa_cli.artifacts.names import class_dirs
from higfa_cli.artifacts.seeds import seed_for
from higfa_cli.data.dataset import Dataset, Split
from higfa_cli.data.images import read_image
from higfa_cli.models.backbones import create_backbone
from higfa_cli.models.device import resolve_device
from higfa_cli.models.guide import from_bytes, network_input
from higfa_cli.models.loading import load_pipeline
from higfa_cli.recipe.load import load_recipe
from higfa_cli.stages.context import Context, Silent, make_context
from higfa_cli.stages.photos import load_photos
from higfa_cli.training.mixing import TrainSet
from higfa_cli.training.pictures import Pictures, load_pictures
from higfa_cli.training.trainer import fit
from tools.pocket.lab.bench import silence
from tools.pocket.lab.likeness import as_shipped
from tools.pocket.lab.train_judges import Labelled, load_pool

SIDE = 64
Line = dict[str, float | str | int]
ARMS = ("real", "perfect", "encoded", "web", "drawn")


@dataclass(frozen=True)
class Question:
    """What is compared, on which pictures.

    steps: of every training, about; the recipe's own number of epochs is too short to gain from
    anything. image_size: the classifier's input.
    """

    recipe: str
    rendered: Path
    pictures: Path | None
    steps: int
    image_size: int
    replacement: float
    workspace: Path

    @cached_property
    def ctx(self) -> Context:
        """The recipe under a workspace of its own."""
        return make_context(load_recipe(self.recipe), self.workspace.resolve())

    @cached_property
    def photos(self) -> Dataset:
        """The user's photos, listed once."""
        return load_photos(self.ctx)

    def split(self, name: Split) -> Pictures:
        """A split of the photos at the classifier's size."""
        rows = self.photos.of(name)
        labels = [row.class_id for row in rows]
        return load_pictures((row.read() for row in rows), labels, self.image_size)

    def second(self, arm: str) -> Pictures | None:
        """What is put in the place of photos; None for `real`. Raises ValueError without a folder
        for `drawn`."""
        if arm == "real":
            return None
        if arm == "drawn":
            return self._drawn()
        pool = load_pool(self.rendered / ("web" if arm == "web" else "perfect"), SIDE)
        if arm == "web":
            pool = _few(pool, len(load_pool(self.rendered / "perfect", SIDE).labels))
        pictures = as_shipped(pool.pictures)
        if arm == "encoded":
            pictures = self._through_the_autoencoder(pictures)
        images = iter(pictures.permute(0, 2, 3, 1).numpy())
        return load_pictures(images, pool.labels.tolist(), self.image_size)

    @torch.no_grad()
    def _through_the_autoencoder(self, pictures: Tensor) -> Tensor:
        model = load_pipeline(self.ctx.recipe.synthesize, self.ctx.base, torch.device("cpu"), ())
        parts = [model.decode(model.encode(p.float() / 127.5 - 1)) for p in pictures.split(64)]
        return ((torch.cat(parts).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)

    def _drawn(self) -> Pictures:
        if self.pictures is None:
            raise ValueError("the arm `drawn` needs --pictures")
        classes = self.photos.classes
        names = {folder: cls for cls, folder in class_dirs(classes).items()}
        files = sorted(self.pictures.glob("*/*.png"))
        labels = [classes.index(names[file.parent.name]) for file in files]
        return load_pictures((read_image(file) for file in files), labels, self.image_size)


def _few(pool: Labelled, count: int) -> Labelled:
    """So many of a pool's pictures, all classes alike, chosen at random."""
    rng, rows = np.random.default_rng(0), []
    classes = pool.labels.unique().tolist()
    for label in classes:
        own = np.flatnonzero(pool.labels.numpy() == label)
        rows += rng.permutation(own)[: count // len(classes)].tolist()
    return Labelled(pool.pictures[rows], pool.labels[rows])


def train_once(question: Question, arm: str, seed: int) -> Line:
    """One training; its accuracy on test and validation photos."""
    began = time.time()
    recipe, size = question.ctx.recipe, question.image_size
    train, val, test = question.split("train"), question.split("val"), question.split("test")
    per_epoch = -(-len(train.labels) // recipe.downstream.batch_size)
    changes = {"epochs": max(1, round(question.steps / per_epoch)), "image_size": size}
    config = recipe.downstream.model_copy(update=changes)
    count = len(question.photos.classes)
    second = question.second(arm)
    stock = TrainSet(train) if second is None else TrainSet(train, second, question.replacement)
    own = (recipe.seed, "train-downstream", seed)
    head, order = (seed_for(*own, what) for what in ("head", "order"))
    backbone = create_backbone(config, count, question.ctx.base, head, "downstream")
    device = resolve_device("cpu")
    fitted = fit(backbone, stock, val, config, count, order, device, Silent())
    backbone.network.load_state_dict(fitted.best_state)
    network = backbone.network.eval()
    with torch.no_grad():
        guesses = torch.cat(
            [
                network(network_input(from_bytes(p), size, backbone.mean, backbone.std)).argmax(1)
                for p in test.images.split(128)
            ]
        )
    right = float((guesses == test.labels).float().mean())
    about: Line = {
        "arm": arm,
        "seed": seed,
        "steps": fitted.steps,
        "replacement": question.replacement,
    }
    found: Line = {
        "test": right,
        "val": fitted.val_accuracy or 0.0,
        "best_epoch": fitted.best_epoch,
    }
    return about | found | {"seconds": round(time.time() - began)}


def gains(rows: Sequence[Line]) -> dict[str, tuple[float, int]]:
    """Arm -> mean gain on test over `real` in points, over the seeds that both have; how many."""
    test = {(str(r["arm"]), int(r["seed"])): 100 * float(r["test"]) for r in rows}
    found = {}
    for arm in dict.fromkeys(arm for arm, _ in test if arm != "real"):
        seeds = [s for a, s in test if a == arm and ("real", s) in test]
        if seeds:
            mean = statistics.mean(test[arm, s] - test["real", s] for s in seeds)
            found[arm] = (mean, len(seeds))
    return found


def main() -> None:
    """Read the command line, train, and print the gains."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rendered", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", default="pocket-aircraft")
    parser.add_argument("--pictures", type=Path, help="folder of a run's pictures, for `drawn`")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["real", "perfect", "encoded"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1020)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--replacement", type=float, default=0.5)
    asked = parser.parse_args()
    silence()
    torch.set_num_threads(1)
    asked.out.mkdir(parents=True, exist_ok=True)
    where = (asked.recipe, asked.rendered, asked.pictures)
    how = (asked.steps, asked.image_size, asked.replacement)
    question = Question(*where, *how, asked.out / "workspace")
    path = asked.out / "usefulness.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    rows = [json.loads(line) for line in lines]
    for seed in asked.seeds:
        for arm in asked.arms:
            if any((row["arm"], row["seed"]) == (arm, seed) for row in rows):
                continue
            rows.append(train_once(question, arm, seed))
            print(rows[-1], flush=True)
            with path.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps(rows[-1]) + "\n")
    for arm, (mean, count) in gains(rows).items():
        print(f"{arm}: {mean:+.1f} points over real, {count} seeds")


if __name__ == "__main__":
    main()
