"""One JSON row per picture, and the numbers that identify it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tools.pocket.pocket_render.captions import Caption
from tools.pocket.pocket_render.catalogue import AircraftClass, Livery
from tools.pocket.pocket_render.pools import POOLS
from tools.pocket.pocket_render.views import View

_PER_CLASS_LIMIT = 10_000
_CLASS_LIMIT = 100
# The largest prime that keeps ids at seven digits; multiplying modulo a prime scatters them, so
# that an id tells neither the class nor the pool.
_PRIME, _FACTOR, _SHIFT = 8_999_993, 3_454_999, 1_234_577


def picture_id(pool: str, class_index: int, index: int) -> str:
    """A unique seven-digit id. Raises ValueError when an index is out of its range."""
    if not (0 <= class_index < _CLASS_LIMIT and 0 <= index < _PER_CLASS_LIMIT):
        raise ValueError(f"class {class_index} or picture {index} is out of range for an id")
    number = (POOLS.index(pool) * _CLASS_LIMIT + class_index) * _PER_CLASS_LIMIT + index
    return str(1_000_000 + (number * _FACTOR + _SHIFT) % _PRIME)


def make_record(
    identity: str, pool: str, aircraft: AircraftClass, livery: Livery, view: View,
    caption: Caption | None,
) -> dict[str, Any]:  # fmt: skip
    """The row of one picture; only web pictures have a caption."""
    row: dict[str, Any] = {
        "id": identity,
        "file": f"images/{identity}.jpg",
        "pool": pool,
        "variant": aircraft.variant,
        "family": aircraft.family,
        "manufacturer": aircraft.manufacturer,
        "airline": livery.airline,
        "model": livery.model,
        "livery": livery.texture,
        "facing": view.facing,
        "yaw": round(view.yaw, 2),
        "pitch": round(view.pitch, 2),
        "roll": round(view.roll, 2),
        "elevation": round(view.elevation, 2),
        "fill": round(view.fill, 3),
        "gear_down": view.gear_down,
        "sky": view.sky,
        "ground": view.ground,
        "scene": view.scene,
    }
    if caption is not None:
        row |= {
            "caption": caption.text,
            "caption_kind": caption.kind,
            "caption_words": caption.words,
            "caption_airline": caption.airline,
        }
    return row


def read_records(path: Path) -> list[dict[str, Any]]:
    """Rows of a records.jsonl."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_records(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows sorted by id, all or nothing."""
    ordered = sorted(rows, key=lambda row: str(row["id"]))
    fresh = path.with_suffix(".tmp")
    fresh.write_text("".join(json.dumps(row) + "\n" for row in ordered), encoding="utf-8")
    fresh.replace(path)
