"""Write rendered train, val and test pools in FGVC-Aircraft's on-disk layout.

    python tools/pocket/export_dataset.py --rendered DIR --export-size 64

``--rendered`` holds one folder per pool as render.py wrote it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.pocket.pocket_render.catalogue import load_classes
from tools.pocket.pocket_render.records import read_records, write_records

SPLITS = ("train", "val", "test")
LABELS = {"variant": "variants.txt", "family": "families.txt", "manufacturer": "manufacturers.txt"}
DEFAULT_TARGET = Path(__file__).parents[2] / "pocket" / "higfa_pocket" / "data" / "aircraft"


def export_images(rendered: Path, target: Path, rows: list[dict[str, Any]], size: int) -> None:
    """Shrink every picture with an antialiased filter into ``target/images``."""
    (target / "images").mkdir(parents=True)
    for row in rows:
        with Image.open(rendered / row["pool"] / row["file"]) as image:
            small = image.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)
        small.save(target / row["file"], quality=92, subsampling=0, optimize=True)


def write_lists(target: Path, rows: list[dict[str, Any]]) -> None:
    """FGVC-Aircraft's label lists and split lists, sorted by id."""
    rows = sorted(rows, key=lambda row: str(row["id"]))
    for label, name in LABELS.items():
        names = sorted({row[label] for row in rows})
        (target / name).write_text("\n".join(names) + "\n", encoding="utf-8")
    for split in SPLITS:
        chosen = [row for row in rows if row["pool"] == split]
        ids = "".join(f"{row['id']}\n" for row in chosen)
        (target / f"images_{split}.txt").write_text(ids, encoding="utf-8")
        for label in LABELS:
            lines = "".join(f"{row['id']} {row[label]}\n" for row in chosen)
            (target / f"images_{label}_{split}.txt").write_text(lines, encoding="utf-8")


def export(rendered: Path, target: Path, size: int) -> int:
    """Replace ``target`` by a fresh export; return its size in bytes."""
    rows = [row for split in SPLITS for row in read_records(rendered / split / "records.jsonl")]
    shutil.rmtree(target, ignore_errors=True)
    export_images(rendered, target, rows, size)
    write_lists(target, rows)
    write_records(target / "records.jsonl", rows)
    words = {variant: aircraft.words for variant, aircraft in load_classes().items()}
    (target / "class_words.json").write_text(json.dumps(words, indent=1) + "\n", encoding="utf-8")
    return sum(path.stat().st_size for path in target.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rendered", type=Path, required=True)
    parser.add_argument("--target", type=Path, default=DEFAULT_TARGET)
    parser.add_argument("--export-size", type=int, default=64)
    asked = parser.parse_args()
    total = export(asked.rendered, asked.target, asked.export_size)
    print(f"{total / 1e6:.2f} MB in {asked.target}")


if __name__ == "__main__":
    main()
