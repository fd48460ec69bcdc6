"""Kill runs at random and run them again, many times: `python -m tools.soak --rounds 200 --seed 0`.

Each round starts `higfa run` on tiny real models in an empty folder, kills it once to three times
(at a random durable step, or at a random moment), runs it to its end, and compares every file with
an undisturbed run's. Rounds are appended to a file, so a soak that is stopped goes on; `--minutes`
stops it. At the end it prints the summary that docs/soak.md records.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from higfa_cli.artifacts.atomic import append_line, read_jsonl
from tests.support.forks import Forks
from tests.support.kill_rounds import STAGES, Killer


def one_round(killer: Killer, seed: int, number: int) -> dict[str, Any]:
    """Round `number` of the soak with this seed; its row."""
    rng = np.random.default_rng((seed, number))
    kills = int(rng.integers(1, 4))
    step = int(rng.integers(1, killer.steps + 1))
    delay = float(rng.uniform(0, killer.quick_seconds))
    at_step = bool(rng.integers(2))
    chosen = {"stop_at": step} if at_step else {"delay": delay}
    found = killer.round(kills=kills, **chosen)
    return {
        "round": number,
        "kind": "step" if at_step else "moment",
        "kills": kills,
        "stage": found.stage,
        "seconds": round(found.after, 2),
        "differences": list(found.differences),
    }


def summary(rows: list[dict[str, Any]], seed: int) -> str:
    """What the soak found, as Markdown."""
    killed = [row for row in rows if row["stage"] is not None]
    whole = sum(not row["differences"] for row in rows)
    hit = Counter(row["stage"] for row in killed)
    kinds = Counter(row["kind"] for row in rows)
    mean = sum(row["seconds"] for row in rows) / len(rows)
    lines = [
        f"- rounds: {len(rows)} (seed {seed}), with {sum(r['kills'] for r in rows)} kills tried: "
        f"{kinds['step']} rounds at durable steps, {kinds['moment']} at moments of the clock",
        f"- ended byte-identical to the undisturbed run: {whole} of {len(rows)}",
        f"- mean time until the last kill: {mean:.1f} s",
        f"- runs that had ended before their last kill: {len(rows) - len(killed)}",
        "- stages hit by the last kill: " + ", ".join(f"{s} {hit[s]}" for s in STAGES),
    ]
    return "\n".join(lines)


def main() -> None:
    """Run the rounds that are still to run, then print the summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--log", type=Path, default=Path("soak.jsonl"))
    given = parser.parse_args()
    done = read_jsonl(given.log) if given.log.is_file() else []
    ends = time.monotonic() + 60 * given.minutes
    if len(done) < given.rounds:
        with tempfile.TemporaryDirectory() as name:
            (Path(name) / "output").mkdir()
            with Forks(Path(name) / "output") as forks:
                killer = Killer(forks, Path(name))
                for number in range(len(done), given.rounds):
                    if time.monotonic() > ends:
                        break
                    done.append(one_round(killer, given.seed, number))
                    append_line(given.log, json.dumps(done[-1]))
    print(summary(done, given.seed))
    raise SystemExit(any(row["differences"] for row in done))


if __name__ == "__main__":
    main()
