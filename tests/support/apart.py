"""Code in a process of its own, and the most memory that it held."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.fault_project import obey_permissions

# What getrusage counts begins with the peak of the process that started this one.
_TELL_PEAK = """
import atexit, pathlib, re, sys
def tell():
    status = pathlib.Path("/proc/self/status").read_text()
    pathlib.Path(sys.argv[1]).write_text(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1])
atexit.register(tell)
"""


def apart(tmp_path: Path, code: str, *arguments: str) -> tuple[str, int]:
    """What a process of its own prints, and its peak memory in kB."""
    peak = tmp_path / "peak"
    start = _TELL_PEAK.replace("sys.argv[1]", repr(str(peak))) + code
    command = [sys.executable, "-c", start, str(peak), *arguments]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=env,
        timeout=1500,
        preexec_fn=obey_permissions,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, int(peak.read_text())
