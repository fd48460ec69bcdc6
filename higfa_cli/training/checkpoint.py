"""Where an interrupted training goes on: everything that the next epoch depends on, in one file."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from higfa_cli.artifacts.atomic import write_bytes
from higfa_cli.errors import UserError


def save_checkpoint(path: Path, state: Mapping[str, object]) -> None:
    """Replace the file in one step. `state` holds tensors, numbers, strings and containers."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes(path, buffer.getvalue())


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """What was saved, on the CPU; None where there is nothing. No code in the file is run.

    Raises UserError when the file is broken.
    """
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise UserError(
            f"{path} is broken ({' '.join(str(error).split())[:80]}); delete it, and the training "
            "starts from its first epoch"
        ) from None
    return state
