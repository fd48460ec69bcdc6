"""Render the pocket's pictures of one pool, or a contact sheet of every livery.

    python tools/pocket/render.py --assign-pools
    python tools/pocket/render.py --pool web --out DIR --per-class 520
    python tools/pocket/render.py --contact-sheet --out DIR

Needs the Debian packages flightgear-data-ai and libosmesa6 and the Python package vtk.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.pocket.pocket_render.captions import CAPTION_RATES, airline_names, draw_caption
from tools.pocket.pocket_render.catalogue import (
    AIRCRAFT_ROOT,
    UNPAINTED,
    Livery,
    find_liveries,
    load_catalogue,
    load_classes,
)
from tools.pocket.pocket_render.pools import (
    POOLS,
    POOLS_FILE,
    airlines_pool,
    assign_pools,
    load_pools,
)
from tools.pocket.pocket_render.records import make_record, picture_id, write_records
from tools.pocket.pocket_render.views import View, draw_view, picture_rng

POOL_SEED = 4
DROPPED_FILE = Path(__file__).with_name("dropped_liveries.json")


@dataclass(frozen=True)
class Job:
    """Pictures ``start`` to ``stop`` of one class."""

    variant: str
    start: int
    stop: int


def dropped_liveries() -> frozenset[str]:
    """Texture paths that a person looked at and found broken."""
    return frozenset(json.loads(DROPPED_FILE.read_text(encoding="utf-8")))


def airlines_of_classes() -> dict[str, set[str]]:
    """variant -> the airlines with a usable livery."""
    dropped = dropped_liveries()
    return {
        variant: {livery.airline for livery in find_liveries(aircraft, dropped)} - {UNPAINTED}
        for variant, aircraft in load_catalogue().items()
    }


def pool_liveries(variant: str, pool: str, seed: int) -> list[Livery]:
    """The liveries of a class in a pool, shuffled. Raises ValueError when there is none.

    Two classes have too few airlines for a sealed one of their own: they are drawn unpainted,
    as no other pool is.
    """
    pools, own = load_pools(), airlines_pool(pool)
    found = find_liveries(load_catalogue()[variant], dropped_liveries())
    liveries = [x for x in found if x.airline != UNPAINTED and pools[x.airline] == own]
    if not liveries and pool == "sealed":
        liveries = [x for x in found if x.airline == UNPAINTED]
    if not liveries:
        raise ValueError(f"{variant} has no livery in the pool {pool}; see {POOLS_FILE.name}")
    order = picture_rng(seed, pool, f"{variant}/order", 0).permutation(len(liveries))
    return [liveries[k] for k in order]


def render_job(job: Job, pool: str, out: Path, size: int, seed: int) -> list[dict[str, Any]]:
    """Render one job's pictures, livery by livery, and return their records."""
    from tools.pocket.pocket_render.scene import AircraftScene

    classes = load_classes()
    aircraft = classes[job.variant]
    class_index = list(load_catalogue()).index(job.variant)
    liveries = pool_liveries(job.variant, pool, seed)
    turns = sorted(range(job.start, job.stop), key=lambda i: (i % len(liveries), i))
    scenes: dict[str, AircraftScene] = {}
    painted: dict[str, str] = {}
    rows = []
    for i in turns:
        livery = liveries[i % len(liveries)]
        if livery.model not in scenes:
            scenes[livery.model] = AircraftScene(AIRCRAFT_ROOT / livery.model, size)
        if painted.get(livery.model) != livery.texture:
            scenes[livery.model].set_livery(AIRCRAFT_ROOT / livery.texture)
            painted[livery.model] = livery.texture
        rng = picture_rng(seed, pool, job.variant, i)
        view = draw_view(rng, sealed=pool == "sealed")
        picture = scenes[livery.model].render(view)
        caption = None
        if pool == "web":
            name = airline_names()[livery.airline]
            caption = draw_caption(rng, aircraft, view.scene, classes, name)
        identity = picture_id(pool, class_index, i)
        path = out / "images" / f"{identity}.jpg"
        Image.fromarray(picture).save(path, quality=95, subsampling=0)
        rows.append(make_record(identity, pool, aircraft, livery, view, caption))
    for scene in scenes.values():
        scene.close()
    return rows


def render_pool(
    pool: str, out: Path, size: int, per_class: int, seed: int, workers: int
) -> list[dict[str, Any]]:
    """Render a whole pool; a first fifth of every class is complete before the rest starts."""
    (out / "images").mkdir(parents=True, exist_ok=True)
    variants = list(load_classes())
    first = per_class // 5
    rows: list[dict[str, Any]] = []
    work = partial(render_job, pool=pool, out=out, size=size, seed=seed)
    started = time.time()
    with ProcessPoolExecutor(workers) as executor:
        for start, stop, mark in ((0, first, "READY-PARTIAL"), (first, per_class, "READY")):
            jobs = [Job(v, start, stop) for v in variants]
            for part in executor.map(work, jobs):
                rows += part
            write_records(out / "records.jsonl", rows)
            write_meta(out, pool, rows, size, per_class, seed, time.time() - started)
            (out / mark).touch()
    return rows


def write_meta(
    out: Path, pool: str, rows: list[dict[str, Any]], size: int, per_class: int, seed: int,
    seconds: float,
) -> None:  # fmt: skip
    """What was asked for and what came out, beside the records."""
    meta: dict[str, Any] = {
        "pool": pool,
        "size": size,
        "per_class": per_class,
        "seed": seed,
        "pictures": len(rows),
        "variants": list(load_classes()),
        "airlines": sorted({row["airline"] for row in rows}),
        "seconds": round(seconds, 1),
    }
    if pool == "web":
        kinds = Counter(row["caption_kind"] for row in rows)
        meta["caption_rates"] = CAPTION_RATES
        meta["caption_counts"] = {kind: kinds[kind] for kind in CAPTION_RATES}
        meta["airlines_told"] = sum(row["caption_airline"] != "" for row in rows)
    (out / "meta.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")


def contact_sheet(variant: str, out: Path, size: int, seed: int) -> None:
    """Every livery of a class once, nearly side-on, with its folder's name and pool."""
    from tools.pocket.pocket_render.scene import AircraftScene

    pools = load_pools()
    tiles = []
    scene, model = None, ""
    for k, livery in enumerate(find_liveries(load_catalogue()[variant], dropped_liveries())):
        if livery.model != model:
            scene, model = AircraftScene(AIRCRAFT_ROOT / livery.model, size), livery.model
        assert scene is not None
        scene.set_livery(AIRCRAFT_ROOT / livery.texture)
        tile = Image.fromarray(scene.render(sheet_view(seed, variant, k)))
        label = f"{Path(livery.texture).parent.name} {pools.get(livery.airline, 'sealed')}"
        ImageDraw.Draw(tile).text((2, 2), label, fill=(160, 0, 0))
        tiles.append(np.asarray(tile))
    columns = 10
    tiles += [np.zeros((size, size, 3), np.uint8)] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[k : k + columns]) for k in range(0, len(tiles), columns)]
    Image.fromarray(np.vstack(rows)).save(out / f"{variant.replace(' ', '-')}.png")


def sheet_view(seed: int, variant: str, index: int) -> View:
    """The view of one tile of a contact sheet."""
    return draw_view(picture_rng(seed, "sheet", variant, index), sealed=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder to write to")
    parser.add_argument("--pool", choices=POOLS)
    parser.add_argument("--size", type=int, default=128, help="pixels of the square pictures")
    parser.add_argument("--per-class", type=int, default=520)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--contact-sheet", action="store_true")
    parser.add_argument("--assign-pools", action="store_true", help=f"write {POOLS_FILE.name}")
    asked = parser.parse_args()
    if asked.assign_pools:
        pools = assign_pools(airlines_of_classes(), POOL_SEED)
        POOLS_FILE.write_text(json.dumps(pools, indent=1) + "\n", encoding="utf-8")
        print(Counter(pools.values()))
        return
    if asked.out is None or (asked.pool is None and not asked.contact_sheet):
        parser.error("give --out with --pool or --contact-sheet, or --assign-pools")
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.contact_sheet:
        draw = partial(contact_sheet, out=asked.out, size=asked.size, seed=asked.seed)
        with ProcessPoolExecutor(asked.workers) as executor:
            list(executor.map(draw, load_catalogue()))
        return
    rows = render_pool(
        asked.pool, asked.out, asked.size, asked.per_class, asked.seed, asked.workers
    )
    print(f"{len(rows)} pictures in {asked.out}")


if __name__ == "__main__":
    main()
