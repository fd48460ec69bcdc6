"""glibc keeps freed memory once work on a CPU starts, and not before."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from higfa_cli.models.device import keep_memory

COUNT_FAULTS = """
import resource, sys, torch
from higfa_cli.models.device import resolve_device
torch.set_num_threads(1)
if sys.argv[1] == "work":
    resolve_device("cpu")
def work():
    for _ in range(20):
        torch.zeros(4_000_000)
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone can be told")
def test_work_on_a_cpu_faults_no_page_in_twice() -> None:
    faults = [
        int(subprocess.check_output([sys.executable, "-c", COUNT_FAULTS, how], text=True))
        for how in ("plain", "work")
    ]
    # 20 tensors of 16 MB are 78,000 pages of 4 KiB, or 160 of 2 MiB
    assert faults[1] < 20
    assert faults[0] >= faults[1]


def test_asking_twice_is_asking_once() -> None:
    assert keep_memory() == keep_memory()
    assert keep_memory.cache_info().misses == 1


def test_the_command_line_starts_without_torch() -> None:
    code = "import sys, higfa_cli.cli.app; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
