"""The pocket's data, frozen by hash: what is measured later is measured on the same world.

    python -m tools.pocket.lab.freeze --rendered DIR

Writes tools/pocket/frozen.json: hashes of the class table, airline pools, dropped liveries and
caption rates; of the web pool's records (views, labels, captions, the airlines they tell); and of
the shipped data set.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

from tools.pocket.pocket_render.captions import CAPTION_RATES

POCKET_TOOLS = Path(__file__).resolve().parents[1]
TABLES = ("classes.json", "dropped_variants.json", "airline_pools.json", "dropped_liveries.json")
FROZEN = POCKET_TOOLS / "frozen.json"
DATASET = POCKET_TOOLS.parents[1] / "pocket" / "higfa_pocket" / "data" / "aircraft"


def data_hash() -> str:
    """sha256 of class table, dropped variants and liveries, airline pools, and caption rates."""
    digest = hashlib.sha256()
    for name in TABLES:
        digest.update(json.dumps(json.loads((POCKET_TOOLS / name).read_text("utf-8"))).encode())
    digest.update(json.dumps(CAPTION_RATES).encode())
    return digest.hexdigest()


def folder_hash(folder: Path) -> str:
    """sha256 of every file's relative path and bytes, in the order of the paths."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def state_of_data(rendered: Path) -> dict[str, object]:
    """What frozen.json holds for these rendered pools."""
    web = rendered / "web"
    meta = json.loads((web / "meta.json").read_text(encoding="utf-8"))
    return {
        "definition": data_hash(),
        "caption_rates": meta["caption_rates"],
        "caption_counts": meta["caption_counts"],
        "web_records": hashlib.sha256((web / "records.jsonl").read_bytes()).hexdigest(),
        "web_pictures": meta["pictures"],
        "airlines_told": meta["airlines_told"],
        "dataset": folder_hash(DATASET),
    }


def main() -> None:
    """Read the command line and write frozen.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rendered", type=Path, required=True)
    state = state_of_data(parser.parse_args().rendered)
    FROZEN.write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(state, indent=1))


if __name__ == "__main__":
    main()
