"""From the recipe's `device` to a torch device."""

from __future__ import annotations

import torch

from higfa_cli.errors import RecipeError, UserError
from higfa_cli.models.memory_kept import keep_memory


def resolve_device(name: str) -> torch.device:
    """`auto` is CUDA, else MPS, else the CPU; anything else is that device.

    Work on a CPU starts here, whatever the stage: so here the C library is told to keep memory.

    Raises:
        RecipeError: not the name of a device.
        UserError: this machine or this torch build does not have it.
    """
    device = _named(name)
    if device.type == "cpu":
        keep_memory()
    return device


def _named(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, ValueError, TypeError, OverflowError) as error:
        raise RecipeError(
            f"device: `{name}` is not a device; use auto, cpu, cuda, cuda:1 or mps"
        ) from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise RecipeError(
            f"device: `{name}` is not a device of higfa's; use auto, cpu, cuda, cuda:1 or mps"
        )
    missing = (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()) or (
        device.type == "mps" and not torch.backends.mps.is_available()
    )
    if missing:
        raise UserError(f"device: `{name}` is not available here; use `--device auto` or cpu")
    return device


def gpus() -> int:
    """How many CUDA devices torch sees."""
    return torch.cuda.device_count()
