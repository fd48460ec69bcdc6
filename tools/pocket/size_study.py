"""How well a small classifier tells the variants apart at several picture sizes.

    python tools/pocket/size_study.py --rendered DIR --out study.json

Trains the same net with the same pictures, steps and schedule at each size, on true labels of a
part of the web pool, and tests on the test pool: other airlines throughout.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.pocket.pocket_render.catalogue import load_classes
from tools.pocket.pocket_render.records import read_records

# Rows kept from the square picture: the aircraft is in the middle, the rest is sky, and leaving
# it out saves a third of the time.
KEPT_ROWS = (0.1875, 0.8125)
# A quarter of resnet10t's work, so that three sizes are compared in minutes.
HALF_WIDTH: dict[str, Any] = {"channels": (32, 64, 128, 256), "stem_width": 16}


def load_pixels(folder: Path, rows: list[dict[str, Any]], size: int) -> Tensor:
    """Pictures as uint8 [N, 3, rows kept, size]."""
    top, bottom = (round(share * size) for share in KEPT_ROWS)
    pictures = []
    for row in rows:
        with Image.open(folder / row["file"]) as image:
            small = image.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)
        pictures.append(np.asarray(small)[top:bottom])
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def normalise(pixels: Tensor) -> Tensor:
    """uint8 to about unit range, channels last in memory."""
    return ((pixels.float() - 127.5) / 64.0).contiguous(memory_format=torch.channels_last)


def train(pixels: Tensor, labels: Tensor, classes: int, epochs: int, seed: int) -> nn.Module:
    """resnet10t of half width from scratch, AdamW, one cycle, random flips."""
    torch.manual_seed(seed)
    net: nn.Module = timm.create_model("resnet10t", num_classes=classes, **HALF_WIDTH)
    net = net.to(memory_format=torch.channels_last)
    batch = 48
    steps = epochs * (len(labels) // batch)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps, pct_start=0.2)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    net.train()
    for _ in range(epochs):
        order = torch.randperm(len(labels))
        for start in range(0, len(order) - batch + 1, batch):
            chosen = order[start : start + batch]
            x = pixels[chosen]
            flips = torch.rand(batch) < 0.5
            x = torch.where(flips[:, None, None, None], x.flip(-1), x)
            loss = loss_of(net(normalise(x)), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net


@torch.no_grad()
def predict(net: nn.Module, pixels: Tensor) -> Tensor:
    """Predicted class index of every picture."""
    net.eval()
    return torch.cat([net(normalise(part)).argmax(1) for part in pixels.split(128)])


def confused_pairs(
    truth: Tensor, guess: Tensor, names: list[str], top: int
) -> list[dict[str, Any]]:
    """The most frequent confusions, as shares of the true class."""
    wrong: Counter[tuple[int, int]] = Counter()
    for t, g in zip(truth.tolist(), guess.tolist(), strict=True):
        if t != g:
            wrong[(t, g)] += 1
    counts = Counter(truth.tolist())
    return [
        {"true": names[t], "taken_for": names[g], "share": round(n / counts[t], 3)}
        for (t, g), n in wrong.most_common(top)
    ]


def study_size(
    rendered: Path, web: list[dict[str, Any]], test: list[dict[str, Any]], size: int,
    epochs: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Train and test at one size."""
    names = list(load_classes())
    labels = torch.tensor([names.index(row["variant"]) for row in web])
    truth = torch.tensor([names.index(row["variant"]) for row in test])
    pixels = load_pixels(rendered / "web", web, size)
    started = time.time()
    net = train(pixels, labels, len(names), epochs, seed)
    seconds = time.time() - started
    guess = predict(net, load_pixels(rendered / "test", test, size))
    families = [load_classes()[name].family for name in names]
    same_family = [families[t] == families[g] for t, g in zip(truth, guess, strict=True)]
    per_class = {
        name: round(float((guess[truth == k] == k).float().mean()), 3)
        for k, name in enumerate(names)
    }
    return {
        "size": size,
        "accuracy": round(float((guess == truth).float().mean()), 4),
        "family_accuracy": round(float(np.mean(same_family)), 4),
        "train_seconds": round(seconds, 1),
        "per_class": per_class,
        "worst_pairs": confused_pairs(truth, guess, names, 12),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rendered", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 96, 128])
    parser.add_argument("--per-class", type=int, default=260)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    by_variant: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in read_records(asked.rendered / "web" / "records.jsonl"):
        by_variant[row["variant"]].append(row)
    web = [row for rows in by_variant.values() for row in rows[: asked.per_class]]
    test = read_records(asked.rendered / "test" / "records.jsonl")
    results = []
    for size in asked.sizes:
        results.append(study_size(asked.rendered, web, test, size, asked.epochs, asked.seed))
        shown = ("size", "accuracy", "family_accuracy", "train_seconds")
        print({key: results[-1][key] for key in shown}, flush=True)
        setup = {"net": "resnet10t, half width", "train_pictures": len(web), "epochs": asked.epochs}
        setup |= {"test_pictures": len(test), "seed": asked.seed, "kept_rows": KEPT_ROWS}
        asked.out.write_text(json.dumps({"setup": setup, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
