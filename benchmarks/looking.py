"""How long a look takes, in times of `higfa --help`: python benchmarks/looking.py WORKSPACE

WORKSPACE is what `higfa run pocket` left. Each command runs once unseen, then five times; the
median is printed with its bar.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

ROUNDS = 5


def main(workspace: str) -> None:
    """Print one line per command."""
    looks = {
        "status pocket": (["status", "pocket", "--workspace", workspace], 6),
        "run pocket --dry-run": (["run", "pocket", "--workspace", workspace, "--dry-run"], 6),
        "doctor aircraft-sd15": (["doctor", "aircraft-sd15"], 20),
        "synthesize aircraft --dry-run": (["synthesize", "aircraft", "--dry-run"], 20),
    }
    base = seconds(["--help"])
    print(f"{'--help':<32}{base:6.2f} s")
    for name, (words, bar) in looks.items():
        taken = seconds(words)
        print(f"{name:<32}{taken:6.2f} s  {taken / base:5.1f} of at most {bar}")


def seconds(words: list[str]) -> float:
    """Median wall time of a command that has run before."""
    times = []
    for _ in range(ROUNDS + 1):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "higfa_cli", *words], capture_output=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


if __name__ == "__main__":
    main(sys.argv[1])
