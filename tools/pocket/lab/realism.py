"""How much the generator's pictures look like photos: one command, one table.

    python -m tools.pocket.lab.realism --rendered WORLD --workspace DIR --out OUT

WORLD holds the pools web, train and test as render.py wrote them, and `perfect` as perfect.py did
where that is there. Measures the recipe's arm text + contour on the contours of the instruments,
whose drawings in DIR are found again. Writes data/realism.json, the page realism.md, which is
printed too, and pictures/realism.png (64 pictures with their contours) to OUT.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from torch import Tensor

from higfa_cli.errors import UserError
from higfa_cli.recipe.arms import TEXT_CONTOUR
from tools.pocket.lab import figures, measure, strips
from tools.pocket.lab.features import NAME as FEATURES
from tools.pocket.lab.features import FeatureSpace, looks_like_aircraft
from tools.pocket.lab.generator import load_generator, through_autoencoder
from tools.pocket.lab.instruments import PER_CLASS, SPLIT, Part, measure_parts, pools_of
from tools.pocket.lab.laboratory import Instruments, known_names, open_instruments
from tools.pocket.lab.likeness import (
    BANDS,
    SUBSET,
    Lesson,
    as_shipped,
    band_powers,
    kid,
    told_apart,
)
from tools.pocket.lab.measure import Pools, Row, row
from tools.pocket.lab.options import Options, command
from tools.pocket.lab.train_judges import Labelled, web_halves
from tools.pocket.sheet import compose

HELD_OUT = 640
SHEET, COLUMNS = 64, 16


@dataclass(frozen=True)
class Photos:
    """What pictures are compared with, as shipped: uint8 [N, 3, 64, 64].

    `train`: the user's. `held`: web photos of airlines that nothing learnt from, in random order.
    `web`: of the other airlines, in random order, at the judges' size.
    """

    train: Tensor
    held: Tensor
    web: Tensor


@cache
def photos_of(pools: Pools) -> Photos:
    """The photos of the pools."""
    web, held = (_shuffled(half.pictures) for half in web_halves(pools.folder, pools.size))
    train = as_shipped(pools.pictures("train").pictures)
    return Photos(train, as_shipped(held[:HELD_OUT]), web)


def _shuffled(pictures: Tensor) -> Tensor:
    return pictures[np.random.default_rng(0).permutation(len(pictures))]


def band_rows(pictures: Tensor, photos: Tensor) -> list[Row]:
    """Power of pictures relative to photos, both as shipped."""
    ratios = band_powers(pictures) / band_powers(photos)
    return [
        Row(f"power at {low} to {high} cycles a frame / photos'", float(ratio))
        for (low, high), ratio in zip(BANDS, ratios, strict=True)
    ]


def picture_rows(pools: Pools, pictures: Labelled) -> list[Row]:
    """Bands, KID, coverage and recognised aircraft of pictures as shipped.

    Labels are indices into the pocket's classes.
    """
    photos, features = photos_of(pools), pools.space(pictures.pictures)
    mean, spread = kid(features, pools.space(photos.held))
    covered = figures.coverage(*pools.features("test"), features, pictures.labels).mean
    aircraft = looks_like_aircraft(pools.space.network, pictures.pictures)
    about = f"{len(photos.held)} photos of held-out web airlines; spread of subsets {spread:.4f}"
    return [
        *band_rows(pictures.pictures, photos.train),
        Row("KID", mean, about=about),
        Row("coverage of test photos", covered, unit="percent"),
        row("seen as aircraft", figures.share(aircraft)),
    ]


def drawn_part(instruments: Instruments, pools: Pools) -> list[Row]:
    """All figures of the arm text + contour."""
    score, classes = instruments.score(TEXT_CONTOUR), instruments.samples.classes
    labels = measure.pool_labels(score.pictures, classes)[score.drawn]
    pictures = Labelled(as_shipped(score.pictures.pictures[score.drawn]), labels)
    right = told_apart(pictures.pictures, as_shipped(photos_of(pools).web[: len(labels)]), Lesson())
    return [
        *picture_rows(pools, pictures),
        row("told from rendered ones", figures.share(right), about=f"{len(right)} held out"),
        measure.agreement_rows(score, instruments.judges)[0],
        measure.overlap_row(score),
        Row("seconds per picture", score.seconds, about="one thread"),
    ]


def photos_part(instruments: Instruments, pools: Pools) -> list[Row]:
    """The same figures of the training photos, and of perfect pictures where they are rendered."""
    rows = []
    for name in ("train", "perfect"):
        if not (pools.folder / name / "records.jsonl").is_file():
            continue
        pool = pools.pictures(name)
        shipped = Labelled(as_shipped(pool.pictures), pool.labels)
        measured = picture_rows(pools, shipped)
        rows += [replace(row, figure=f"{name}: {row.figure}") for row in measured]
    return rows


def autoencoder_part(instruments: Instruments, pools: Pools) -> list[Row]:
    """Held-out web photos sent through the autoencoder."""
    model, held = load_generator(instruments.samples.ctx), photos_of(pools).held
    after = as_shipped(through_autoencoder(model, held))
    apart = 1 - (pools.space(after) * pools.space(held)).sum(dim=1).mean()
    return [
        *band_rows(after, held),
        Row("mean cosine distance to the photo", float(apart), about=FEATURES),
    ]


PARTS: dict[str, Part] = {
    "contour": drawn_part,
    "photos": photos_part,
    "autoencoder": autoencoder_part,
}


def save_sheet(instruments: Instruments) -> None:
    """pictures/realism.png: 64 pictures under their contours."""
    drawings = instruments.pictures(TEXT_CONTOUR)
    pictures = list(drawings.pictures[:SHEET].permute(0, 2, 3, 1).numpy())
    contours = list(drawings.contours[:SHEET].numpy())
    names = [item.cls for item in instruments.samples.items[:SHEET]]
    sheet = compose([contours, pictures], names, COLUMNS)
    strips.save(sheet, instruments.options.out / "pictures" / "realism.png")


def measure_all(options: Options, only: Sequence[str], space: FeatureSpace) -> None:
    """Measure and print the page. Raises UserError as the stages, or for an unknown part."""
    known_names(only, PARTS, "--only", "part")
    with open_instruments(options, SPLIT, space, guide=None) as instruments:
        count = len(instruments.samples.items)
        if count < SUBSET:
            raise UserError(
                f"--per-class {options.per_class}: {count} pictures; KID needs {SUBSET}"
            )
        save_sheet(instruments)
        print(measure_parts("realism", PARTS, instruments, pools_of(instruments, space), only))


def main() -> None:
    """Read the command line, measure, and print the page."""
    meaning = f"of {', '.join(PARTS)}; without: all"
    command(__doc__.splitlines()[0], PER_CLASS, "--only", meaning, measure_all, rendered=True)


if __name__ == "__main__":
    main()
