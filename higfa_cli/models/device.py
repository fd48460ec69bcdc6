"""From the recipe's `device` to a torch device, and what to do about its memory."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import TypeVar

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from higfa_cli.errors import RecipeError, UserError

T = TypeVar("T")
R = TypeVar("R")
# mallopt(3)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# Blocks above this come from the kernel and go back to it at once. No tensor of ours is larger.
_LARGEST = 2**30


def resolve_device(name: str) -> torch.device:
    """`auto` is CUDA, else MPS, else the CPU; anything else is that device.

    Raises:
        RecipeError: not the name of a device.
        UserError: this machine or this torch build does not have it.
    """
    mps = torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps"):
            raise ValueError(name)
    except (RuntimeError, ValueError, TypeError, OverflowError) as error:
        raise RecipeError(
            f"device: `{name}` is not a device of higfa's; use auto, cpu, cuda, cuda:1 or mps"
        ) from error
    absent = {"cuda": (device.index or 0) >= torch.cuda.device_count(), "mps": not mps}
    if absent.get(device.type):
        raise UserError(f"device: `{name}` is not available here; use `--device auto` or cpu")
    if device.type == "cpu":
        # Work on a CPU starts here, whatever the stage.
        keep_memory()
    return device


def gpus() -> int:
    """How many CUDA devices torch sees."""
    return torch.cuda.device_count()


@cache
def keep_memory() -> bool:
    """Have glibc keep freed memory for the next tensor; True where the C library has agreed.

    Without it every larger tensor is mapped anew and its pages faulted in one by one: a tenth of a
    classifier's training step, and more where the machine is slow to give pages.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    return all(mallopt(option, _LARGEST) == 1 for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD))


def in_parts_that_fit(
    items: Sequence[T],
    work: Callable[[Sequence[T]], Sequence[R]],
    give_up: Callable[[T], R],
) -> list[R]:
    """`work(items)`, halved wherever the device runs out of memory.

    Where the cuts fall depends on `items` and the device alone, never on earlier batches, so a
    resumed run cuts alike.

    Args:
        items: what belongs together.
        work: one result per item.
        give_up: the result of an item that does not fit even alone; may raise.
    """
    try:
        return list(work(items))
    except Exception as error:
        if not should_reduce_batch_size(error):
            raise
    # Only here have the frames of the failed attempt let go of their tensors.
    clear_device_cache(garbage_collection=True)
    if len(items) == 1:
        return [give_up(items[0])]
    half = (len(items) + 1) // 2
    return in_parts_that_fit(items[:half], work, give_up) + in_parts_that_fit(
        items[half:], work, give_up
    )
