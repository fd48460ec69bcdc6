"""Deliberate breakages of the method and of the artifacts, and whether the tests see them.

    python -m tools.mutants [--only method] [--jobs 2]

Each mutant of `tools/mutants.yaml` changes one expression in a copy of the package; the tests that
guard that room are run against the copy. A mutant that no test sees has survived. Prints a line per
mutant and the share that was killed; exit code 1 below 90 %.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("higfa_cli", "tests", "recipes", "tools", "docs", "pyproject.toml", "README.md")
BAR = 0.9


@dataclass(frozen=True)
class Mutant:
    """`old` becomes `new` in `file`; `tests` should then fail."""

    room: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.file}: {self.old.strip()} -> {self.new.strip() or '(nothing)'}"


def load_mutants(path: Path) -> list[Mutant]:
    """Every mutant of the list; `old` must occur exactly once in its file."""
    rooms = yaml.safe_load(path.read_text(encoding="utf-8"))
    found = []
    for room, about in rooms.items():
        for file, changes in about["mutants"].items():
            text = (ROOT / file).read_text(encoding="utf-8")
            for old, new in changes:
                if text.count(old) != 1:
                    sys.exit(f"{file}: `{old}` occurs {text.count(old)} times; correct the list")
                found.append(Mutant(room, file, old, new, tuple(about["tests"])))
    return found


def survives(mutant: Mutant) -> bool:
    """Whether the tests pass in spite of the mutant."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy / name)
        target = copy / mutant.file
        text = target.read_text(encoding="utf-8")
        target.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        environment = os.environ | {
            "PYTHONPATH": str(copy),
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        done = subprocess.run(
            [*command, *mutant.tests], cwd=copy, env=environment, capture_output=True, check=False
        )
        if done.returncode not in (0, 1, 2):
            sys.exit(f"{mutant.name}: pytest ended with {done.returncode}:\n{done.stdout.decode()}")
        return done.returncode == 0


def main() -> int:
    """Run the mutants and print what became of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", help="one room of the list")
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args()
    mutants = load_mutants(Path(__file__).with_suffix(".yaml"))
    mutants = [one for one in mutants if asked.only in (None, one.room)]
    alive = 0
    with ThreadPoolExecutor(asked.jobs) as pool:
        for mutant, survived in zip(mutants, pool.map(survives, mutants), strict=True):
            print("SURVIVED" if survived else "killed  ", mutant.name, flush=True)
            alive += survived
    killed = len(mutants) - alive
    print(f"{killed} of {len(mutants)} killed ({killed / len(mutants):.0%})")
    return 0 if killed >= BAR * len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main())
