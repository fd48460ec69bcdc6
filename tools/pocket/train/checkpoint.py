"""Atomic files and training logs shared by the trainers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn


def save_atomic(state: dict[str, Any], path: Path) -> None:
    """`torch.save` beside `path`, then rename: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(path.suffix + ".partial")
    torch.save(state, partial)
    partial.replace(path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of tensors and plain values."""
    return torch.load(path, map_location="cpu", weights_only=True)


def append_log(path: Path, row: dict[str, Any]) -> None:
    """Add one JSON line to `path`."""
    with path.open("a", encoding="utf-8") as log:
        log.write(json.dumps(row) + "\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines log."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class Average:
    """Exponential moving average of a module's parameters.

    The decay after step k is min(ceiling, (1 + k) / (10 + k)), so early weights are soon forgotten.
    """

    def __init__(self, module: nn.Module, ceiling: float = 0.999) -> None:
        self.ceiling = ceiling
        self.names = [name for name, p in module.named_parameters() if p.requires_grad]
        self.values = [p.detach().clone() for p in module.parameters() if p.requires_grad]

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move towards `module` after its step number `step` (from 0)."""
        decay = min(self.ceiling, (1 + step) / (10 + step))
        current = [p.detach() for p in module.parameters() if p.requires_grad]
        torch._foreach_lerp_(self.values, current, 1 - decay)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The averaged parameters by name."""
        return dict(zip(self.names, self.values, strict=True))

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Take over averages saved by `state_dict`."""
        self.values = [
            state[name].to(own.device, copy=True)
            for name, own in zip(self.names, self.values, strict=True)
        ]
