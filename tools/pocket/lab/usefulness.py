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

from higfa_cli.artifacts.atomic import read_jsonl
from higfa_cli.artifacts.seeds import seed_for
from higfa_cli.data.dataset import Dataset, Split
from higfa_cli.data.images import read_image
from higfa_cli.errors import UserError
from higfa_cli.models.backbones import create_backbone
from higfa_cli.models.device import resolve_device
from higfa_cli.recipe.load import load_recipe
from higfa_cli.stages.context import Context, Silent, load_photos, make_context
from higfa_cli.training.pictures import Pictures, TrainSet, load_pictures
from higfa_cli.training.synthetic import list_synthetic
from higfa_cli.training.trainer import fit, predict_logits
from tools.pocket.lab.generator import load_generator, through_autoencoder
from tools.pocket.lab.likeness import as_shipped
from tools.pocket.lab.options import check_pocket, silence
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
        """What is put in the place of photos; None for `real`.

        Raises UserError as `list_synthetic`, and for `drawn` without a folder.
        """
        if arm == "real":
            return None
        if arm == "drawn":
            return self._drawn()
        pool = load_pool(self.rendered / ("web" if arm == "web" else "perfect"), SIDE)
        if arm == "web":
            pool = _few(pool, len(load_pool(self.rendered / "perfect", SIDE).labels))
        pictures = as_shipped(pool.pictures)
        if arm == "encoded":
            pictures = through_autoencoder(load_generator(self.ctx), pictures)
        images = iter(pictures.permute(0, 2, 3, 1).numpy())
        return load_pictures(images, pool.labels.tolist(), self.image_size)

    def _drawn(self) -> Pictures:
        if self.pictures is None:
            raise UserError("the arm `drawn` needs --pictures")
        listing = list_synthetic(self.pictures, self.photos.classes)
        images = (read_image(path) for path in listing.paths)
        return load_pictures(images, listing.labels, self.image_size)


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
    began = time.monotonic()
    recipe, classes = question.ctx.recipe, len(question.photos.classes)
    train, val, test = question.split("train"), question.split("val"), question.split("test")
    per_epoch = -(-len(train.labels) // recipe.downstream.batch_size)
    epochs = max(1, round(question.steps / per_epoch))
    changes = {"epochs": epochs, "image_size": question.image_size}
    config = recipe.downstream.model_copy(update=changes)
    second = question.second(arm)
    material = TrainSet(train) if second is None else TrainSet(train, second, question.replacement)
    # As the stage: arms of one seed start from the same weights.
    head, order = (
        seed_for(recipe.seed, "train-downstream", seed, what) for what in ("head", "order")
    )
    backbone = create_backbone(config, classes, question.ctx.base, head, "downstream")
    device = resolve_device("cpu")
    fitted = fit(backbone, material, val, config, classes, order, device, Silent())
    backbone.network.load_state_dict(fitted.best_state)
    hits = predict_logits(backbone, test, device).argmax(1) == test.labels
    return {
        "arm": arm,
        "seed": seed,
        "steps": fitted.steps,
        "replacement": question.replacement,
        "test": float(hits.float().mean()),
        "val": fitted.val_accuracy or 0.0,
        "best_epoch": fitted.best_epoch,
        "seconds": round(time.monotonic() - began),
    }


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


def train_all(
    question: Question, arms: Sequence[str], seeds: Sequence[int], path: Path
) -> list[Line]:
    """Every training that `path` does not hold yet, added to it line by line; all its lines.

    Raises UserError as the stages.
    """
    rows: list[Line] = read_jsonl(path) if path.is_file() else []
    for seed in seeds:
        for arm in arms:
            if any((row["arm"], row["seed"]) == (arm, seed) for row in rows):
                continue
            rows.append(train_once(question, arm, seed))
            print(rows[-1], flush=True)
            with path.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps(rows[-1]) + "\n")
    return rows


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
    try:
        check_pocket(asked.recipe)
        rows = train_all(question, asked.arms, asked.seeds, asked.out / "usefulness.jsonl")
    except UserError as error:
        parser.exit(error.exit_code, f"error: {error}\n")
    for arm, (mean, count) in gains(rows).items():
        print(f"{arm}: {mean:+.1f} points over real, {count} seeds")


if __name__ == "__main__":
    main()
