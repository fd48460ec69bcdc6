"""The device that a recipe would use; torch is asked only where it could find more than a CPU."""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Device:
    """A device.

    Attributes:
        name: as torch takes it, "cuda:0".
        kind: its type.
        title: for people.
        free, total: bytes of its own memory; 0 where it shares the machine's.
        bfloat16: whether it computes in bfloat16 without emulating it.
    """

    name: str
    kind: Literal["cpu", "cuda", "mps"]
    title: str
    free: int = 0
    total: int = 0
    bfloat16: bool = True


def device_of(name: str) -> Device:
    """The device that `run.device` names.

    Raises UserError where it is no device, or none of this machine.
    """
    if name == "cpu" or (name == "auto" and not _may_have_more()):
        title = f"cpu ({os.cpu_count()} processors)"
        return Device("cpu", "cpu", title, bfloat16=_cpu_has_bfloat16())
    import torch

    from higfa_cli.models.device import resolve_device

    device = resolve_device(name)
    if device.type == "cpu":
        return device_of("cpu")
    if device.type == "mps":
        return Device(str(device), "mps", str(device))
    free, total = torch.cuda.mem_get_info(device)
    with torch.cuda.device(device):
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    title = torch.cuda.get_device_name(device)
    return Device(str(device), "cuda", title, free, total, native)


def _cpu_has_bfloat16() -> bool:
    """Whether the processors multiply in bfloat16; the others take tens of times as long."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags


def _may_have_more() -> bool:
    """Whether a GPU's driver is here; without one torch sees the CPU alone."""
    if sys.platform != "linux" or Path("/dev/kfd").exists():
        return True
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True
