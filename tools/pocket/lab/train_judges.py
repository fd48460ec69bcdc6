"""Train the judges on true labels of the web pool, and say how good they are on other airlines.

    python -m tools.pocket.lab.train_judges --rendered DIR --out JUDGES [--epochs 12]

DIR holds `web` and `test` as render.py wrote them. Every batch holds pictures of 64, 96 and 128 px,
so that one judge says what a classifier can tell at each. Writes a file per judge and judges.json.
Each judge is trained in a process of its own; run again to resume.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from higfa_cli.training.calibration import assess, fit_temperature
from tools.pocket.lab.augment import augment
from tools.pocket.lab.freeze import data_hash
from tools.pocket.lab.judges import (
    ARCHITECTURES,
    BATCH,
    JudgeSpec,
    build,
    judge_input,
    keep_rows,
    load_judge,
    save_judge,
)
from tools.pocket.pocket_render.catalogue import load_classes
from tools.pocket.pocket_render.records import read_records
from tools.pocket.train.course import Course, Pace
from tools.pocket.train.webdata import held_out, load_stack, read_web

# Side of the pictures -> how many of them a batch holds. The pocket's own size comes first.
BATCH_OF_SIZE = {64: 40, 96: 12, 128: 12}
SIZES = tuple(BATCH_OF_SIZE)
TRAIN_BATCH = sum(BATCH_OF_SIZE.values())
PEAK_RATE = 3e-3


@dataclass(frozen=True)
class Labelled:
    """uint8 pictures [N, 3, S, S] and class ids [N]."""

    pictures: Tensor
    labels: Tensor


def load_pool(folder: Path, size: int) -> Labelled:
    """A rendered pool, shrunk with an antialiased filter, with true labels."""
    classes = list(load_classes())
    rows = read_records(folder / "records.jsonl")
    pictures = load_stack((folder / row["file"] for row in rows), size)
    labels = torch.tensor([classes.index(row["variant"]) for row in rows])
    return Labelled(pictures, labels)


def web_halves(rendered: Path, size: int) -> tuple[Labelled, Labelled]:
    """The web pool: airlines to learn from, and airlines to calibrate on."""
    web = load_pool(rendered / "web", size)
    out = torch.from_numpy(held_out(read_web(rendered / "web"), seed=0))
    learn, calibrate = (Labelled(web.pictures[part], web.labels[part]) for part in (~out, out))
    return learn, calibrate


def mixed_input(rows: dict[int, Tensor], chosen: Tensor) -> Tensor:
    """A judge's input of the chosen pictures, each at one of the sizes, under random changes.

    rows: size -> middle rows of all pictures. Sizes share a batch, and so the statistics of batch
    norm, as they do when training is over.
    """
    parts = zip(BATCH_OF_SIZE, chosen.split(list(BATCH_OF_SIZE.values())), strict=True)
    return torch.cat([judge_input(augment(rows[size][part])) for size, part in parts])


@torch.no_grad()
def logits_of(network: nn.Module, pictures: Tensor) -> Tensor:
    """Logits [N, K] in evaluation mode."""
    network.eval()
    return torch.cat([network(judge_input(part)) for part in keep_rows(pictures).split(BATCH)])


def train_judge(architecture: str, rendered: Path, out: Path, epochs: int) -> dict[str, Any]:
    """Train, calibrate, save and test one judge."""
    torch.set_num_threads(1)
    halves = {size: web_halves(rendered, size) for size in SIZES}
    rows = {size: keep_rows(learn.pictures) for size, (learn, _) in halves.items()}
    learn, calibrate = halves[SIZES[0]]
    tests = {size: load_pool(rendered / "test", size) for size in SIZES}
    torch.manual_seed(0)
    network = build(architecture, len(load_classes()))
    pace = Pace(epochs, TRAIN_BATCH, PEAK_RATE, rising=0.2, fall="cos")
    path = out / f"{architecture}.pt"
    course = Course(network, partial(mixed_input, rows), learn.labels, pace, path)

    def accuracy() -> float:
        right = logits_of(network, tests[SIZES[0]].pictures).argmax(1) == tests[SIZES[0]].labels
        return right.float().mean().item()

    course.run(accuracy, out / "judges.jsonl", architecture)
    held = logits_of(network, calibrate.pictures)
    temperature = fit_temperature(held, calibrate.labels)
    spec = JudgeSpec(architecture, tuple(load_classes()), SIZES, temperature, data_hash())
    save_judge(out / f"{architecture}.safetensors", network, spec)
    judge = load_judge(out / f"{architecture}.safetensors")
    found = {
        size: assess(judge.log_probabilities(test.pictures), test.labels, 1.0).plain()
        for size, test in tests.items()
    }
    about = {"judge": architecture, "epochs": epochs, "learnt_from": len(learn.labels)}
    return about | {"temperature": temperature, "test": found}


def main() -> None:
    """Read the command line and train both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rendered", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    work = partial(train_judge, rendered=asked.rendered, out=asked.out, epochs=asked.epochs)
    with ProcessPoolExecutor(asked.workers) as pool:
        rows = list(pool.map(work, ARCHITECTURES))
    (asked.out / "judges.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        for size, found in row["test"].items():
            print(row["judge"], size, "px:", f"{100 * found['accuracy']:.1f} % on test")


if __name__ == "__main__":
    main()
