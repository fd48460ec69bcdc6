"""How much the generator's pictures look like photos: one command, one table.

    python -m tools.pocket.lab.realism --rendered DIR --out OUT [--recipe FILE] [--count 480]

DIR holds the pools web, train and test as render.py wrote them, and `perfect` as perfect.py did
where that is there. Measures the text + contour arm of a recipe, writes realism.json, realism.md
and sheet.png (64 pictures with their contours) to OUT. Drawings are kept in OUT/drawings.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from higfa_cli.errors import UserError
from tools.pocket.lab import figures, measure
from tools.pocket.lab.bench import JUDGES, silence
from tools.pocket.lab.draw import TEXT_CONTOUR
from tools.pocket.lab.features import NAME as FEATURE_SPACE
from tools.pocket.lab.features import features_of, looks_like_aircraft
from tools.pocket.lab.instruments import judged
from tools.pocket.lab.likeness import BANDS, Lesson, as_shipped, band_powers, kid, told_apart
from tools.pocket.lab.table import Row, markdown, row
from tools.pocket.lab.train_judges import Labelled, load_pool
from tools.pocket.lab.world import World
from tools.pocket.sheet import compose
from tools.pocket.train.webdata import held_out, read_web

SHEET, COLUMNS = 64, 16


def web_part(world: World, held: bool, limit: int) -> Tensor:
    """Up to `limit` web photos at 64 px, of held-out airlines or of the others, in random order."""
    folder = world.rendered / "web"
    out = held_out(read_web(folder), seed=0)
    pool = load_pool(folder, world.judges[0].spec.size)
    rows = np.random.default_rng(0).permutation(np.flatnonzero(out == held))[:limit]
    return as_shipped(pool.pictures[torch.from_numpy(rows)])


def band_rows(found: Tensor, photos: Tensor) -> list[Row]:
    """Power of pictures relative to photos, both as shipped."""
    ratios = band_powers(found) / band_powers(photos)
    return [
        Row(f"power at {low} to {high} cycles a frame / photos'", float(ratio))
        for (low, high), ratio in zip(BANDS, ratios, strict=True)
    ]


def picture_rows(world: World, own: Labelled, photos: Tensor, held: Tensor) -> list[Row]:
    """Bands, KID, coverage and recognised aircraft of pictures as shipped."""
    features = features_of(world.network, own.pictures)
    mean, spread = kid(features, features_of(world.network, held))
    size, cache = world.judges[0].spec.size, world.out / "features"
    real = measure.pool_features(world.network, world.rendered, "test", size, cache, False)
    covered = figures.coverage(*real, features, own.labels).mean
    about = f"{len(held)} photos of held-out web airlines; spread of subsets {spread:.4f}"
    return [
        *band_rows(own.pictures, photos),
        Row("KID", mean, about=about),
        Row("coverage of test photos", covered, unit="percent"),
        row("seen as aircraft", figures.share(looks_like_aircraft(world.network, own.pictures))),
    ]


def drawn_part(world: World, photos: Tensor, held: Tensor) -> list[Row]:
    """All figures of the text + contour arm."""
    drawings = world.drawings(TEXT_CONTOUR)
    found = judged(world, drawings)
    kept = ~found.failed
    own = Labelled(as_shipped(found.pictures[kept]), found.labels[kept])
    right = told_apart(own.pictures, web_part(world, False, len(own.labels)), Lesson())
    each = drawings.seconds / len(drawings.labels)
    return [
        *picture_rows(world, own, photos, held),
        row("told from rendered ones", figures.share(right), about=f"{len(right)} held out"),
        measure.agreement_rows(world.judges, found)[0],
        measure.overlap_row(found, drawings.contours),
        Row("seconds per picture", each, about="one thread"),
    ]


def photos_part(world: World, photos: Tensor, held: Tensor) -> list[Row]:
    """The same figures of the training photos, and of perfect pictures where they are rendered."""
    rows = []
    for name in ("train", "perfect"):
        folder = world.rendered / name
        if not (folder / "records.jsonl").is_file():
            continue
        pool = load_pool(folder, world.judges[0].spec.size)
        own = Labelled(as_shipped(pool.pictures), pool.labels)
        found = picture_rows(world, own, photos, held)
        rows += [Row(**{**one.__dict__, "figure": f"{name}: {one.figure}"}) for one in found]
    return rows


@torch.no_grad()
def autoencoder_part(world: World, photos: Tensor, held: Tensor) -> list[Row]:
    """Held-out web photos sent through the autoencoder."""
    model = world.model()
    images = [model.decode(model.encode(part.float() / 127.5 - 1)) for part in held.split(64)]
    pixels = ((torch.cat(images).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    after = as_shipped(pixels)
    features = [features_of(world.network, pictures) for pictures in (after, held)]
    apart = 1 - (features[0] * features[1]).sum(dim=1).mean()
    return [
        *band_rows(after, held),
        Row("mean cosine distance to the photo", float(apart), about=FEATURE_SPACE),
    ]


def sheet(world: World) -> None:
    """sheet.png: 64 pictures under their contours."""
    drawings = world.drawings(TEXT_CONTOUR)
    pictures = list(drawings.pictures[:SHEET].permute(0, 2, 3, 1).numpy())
    contours = list(drawings.contours[:SHEET].numpy())
    names = [world.setting.classes[label] for label in drawings.labels[:SHEET].tolist()]
    compose([contours, pictures], names, COLUMNS).save(world.out / "sheet.png")


def measure_all(world: World) -> str:
    """Measure, write, and return the page."""
    world.out.mkdir(parents=True, exist_ok=True)
    photos = as_shipped(load_pool(world.rendered / "train", world.judges[0].spec.size).pictures)
    held = web_part(world, True, 640)
    parts = {
        "Text + contour": drawn_part(world, photos, held),
        "Photos": photos_part(world, photos, held),
        "Held-out web photos through the autoencoder": autoencoder_part(world, photos, held),
    }
    sheet(world)
    plain = {name: [one.plain() for one in rows] for name, rows in parts.items()}
    about = {"count": world.count, "features": FEATURE_SPACE, "parts": plain}
    text = json.dumps(about, indent=1) + "\n"
    (world.out / "realism.json").write_text(text, encoding="utf-8")
    page = f"KID and coverage in the features of {FEATURE_SPACE}.\n\n{markdown(parts)}"
    (world.out / "realism.md").write_text(page, encoding="utf-8")
    return page


def main() -> None:
    """Read the command line, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rendered", type=Path, required=True)
    parser.add_argument("--judges", type=Path, default=JUDGES)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=480, help="pictures")
    parser.add_argument("--recipe", default="pocket-aircraft", help="a recipe's name or file")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw")
    asked = parser.parse_args()
    silence()
    own = (asked.rendered, asked.judges, asked.out, asked.out)
    world = World(*own, asked.count, asked.recipe, asked.workers)
    try:
        print(measure_all(world))
    except UserError as error:
        parser.exit(error.exit_code, f"error: {error}\n")


if __name__ == "__main__":
    main()
