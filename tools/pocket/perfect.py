"""Pictures that an ideal text + contour generator would draw: the upper limit of what ours can do.

    python -m tools.pocket.perfect --out DIR [--copies 1] [--size 128]

Camera, pose, size and gear of every training photo; livery from the `web` airlines of its class;
sky and light drawn anew. DIR gets images/ and records.jsonl, as render.py writes them. Needs what
render.py needs.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tools.pocket.pocket_render.catalogue import (
    AIRCRAFT_ROOT,
    Livery,
    load_catalogue,
    load_classes,
)
from tools.pocket.pocket_render.records import write_records
from tools.pocket.pocket_render.views import View, draw_view, picture_rng
from tools.pocket.render import pool_liveries

PHOTOS = 33
SEED = 0
#: What belongs to the scene of a view, and not to the aircraft's place in it.
SCENERY = ("sky", "cover", "sun_azimuth", "sun_elevation", "exposure", "noise_seed")


@dataclass(frozen=True)
class Wanted:
    """One picture: the number of the photo it is posed as, which copy, its view and livery."""

    photo: int
    copy: int
    view: View
    livery: Livery


def wanted_pictures(
    variant: str, class_index: int, liveries: list[Livery], photos: int, copies: int
) -> list[Wanted]:
    """`copies` pictures for each of a class's first `photos` training photos."""
    found = []
    for photo in range(photos):
        pose = draw_view(picture_rng(SEED, "train", variant, photo), sealed=False)
        for copy in range(copies):
            rng = np.random.default_rng([photo, copy, class_index])
            other = draw_view(rng, sealed=False)
            livery = liveries[int(rng.integers(len(liveries)))]
            scenery = {name: getattr(other, name) for name in SCENERY}
            found.append(Wanted(photo, copy, replace(pose, **scenery), livery))
    return found


def render_class(
    variant: str, out: Path, photos: int, copies: int, size: int
) -> list[dict[str, Any]]:
    """Draw a class's pictures, livery by livery, and return their records."""
    from tools.pocket.pocket_render.scene import AircraftScene

    class_index = list(load_catalogue()).index(variant)
    liveries = pool_liveries(variant, "web", SEED)
    wanted = wanted_pictures(variant, class_index, liveries, photos, copies)
    scenes: dict[str, AircraftScene] = {}
    painted: dict[str, str] = {}
    rows = []
    for one in sorted(wanted, key=lambda w: (w.livery.model, w.livery.texture, w.photo, w.copy)):
        model, texture = one.livery.model, one.livery.texture
        if model not in scenes:
            scenes[model] = AircraftScene(AIRCRAFT_ROOT / model, size)
        if painted.get(model) != texture:
            scenes[model].set_livery(AIRCRAFT_ROOT / texture)
            painted[model] = texture
        identity = f"{one.copy}{one.photo:02d}{class_index:02d}"
        file = f"images/{identity}.jpg"
        Image.fromarray(scenes[model].render(one.view)).save(out / file, quality=95, subsampling=0)
        row = {"id": identity, "file": file, "variant": variant, "airline": one.livery.airline}
        rows.append(row | {"photo": one.photo, "copy": one.copy})
    for scene in scenes.values():
        scene.close()
    return rows


def main() -> None:
    """Read the command line, draw and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--photos", type=int, default=PHOTOS, help="of each class")
    parser.add_argument("--copies", type=int, default=1, help="pictures for each photo")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    (asked.out / "images").mkdir(parents=True, exist_ok=True)
    one = partial(
        render_class, out=asked.out, photos=asked.photos, copies=asked.copies, size=asked.size
    )
    with ProcessPoolExecutor(asked.workers) as pool:
        rows = [row for part in pool.map(one, load_classes()) for row in part]
    write_records(asked.out / "records.jsonl", rows)
    print(f"{len(rows)} pictures in {asked.out}")


if __name__ == "__main__":
    main()
