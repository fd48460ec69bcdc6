"""glibc told to keep its memory, on a CPU: torch frees and asks for the same blocks again."""

from __future__ import annotations

import ctypes
import platform
import sys
from functools import cache

# mallopt(3)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# Blocks above this come from the kernel and go back to it at once. No tensor of ours is larger.
_LARGEST = 2**30


@cache
def keep_memory() -> bool:
    """Have freed memory kept for the next tensor; True where the C library has agreed.

    Without it every larger tensor is mapped anew and its pages faulted in one by one: a tenth of a
    classifier's training step, and more where the machine is slow to give pages. Linux with glibc
    alone; anywhere else nothing happens.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    return all(mallopt(option, _LARGEST) == 1 for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD))
