"""One classifier's training: epochs over rows, a one-cycle rate, a checkpoint after every epoch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from tools.pocket.train.checkpoint import append_log, load_checkpoint, save_atomic


@dataclass(frozen=True)
class Pace:
    """How a course is run.

    Attributes:
        epochs: passes over the rows; batches that are not full are left out.
        batch: rows per step.
        peak: the largest learning rate, reached after `rising` (a share of all steps).
        fall: how it goes to nothing from there.
    """

    epochs: int
    batch: int
    peak: float
    rising: float
    fall: Literal["cos", "linear"]


class Course:
    """Cross entropy with label smoothing 0.1 under AdamW.

    Args:
        network: what is trained, in its first state.
        ready: row numbers [B] -> the network's input, with random changes.
        labels: of all rows, [N].
        pace: how.
        path: of the checkpoint, from which it goes on when there is one.
    """

    def __init__(
        self,
        network: nn.Module,
        ready: Callable[[Tensor], Tensor],
        labels: Tensor,
        pace: Pace,
        path: Path,
    ) -> None:
        self.network, self.ready, self.labels = network, ready, labels
        self.pace, self.path, self.done = pace, path, 0
        self.steps = len(labels) // pace.batch
        self.optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
        if path.exists():
            state = load_checkpoint(path)
            network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.done = state["epochs"]
        self.rate = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer,
            pace.peak,
            pace.epochs * self.steps,
            pct_start=pace.rising,
            anneal_strategy=pace.fall,
            # -1, as from the start, when nothing is done
            last_epoch=self.done * self.steps - 1,
        )

    def run(self, accuracy: Callable[[], float], log: Path, name: str) -> None:
        """Train to the end; each epoch's loss and `accuracy` go to `log` under `name`."""
        began = time.monotonic()
        while self.done < self.pace.epochs:
            loss = self.epoch()
            row = {"name": name, "epoch": self.done, "loss": round(loss, 4)}
            row |= {"accuracy": round(accuracy(), 4), "seconds": round(time.monotonic() - began)}
            append_log(log, row)

    def epoch(self) -> float:
        """One pass over the rows; returns the mean loss."""
        torch.manual_seed(self.done + 1)
        self.network.train()
        total, order = 0.0, torch.randperm(len(self.labels))
        for chosen in order[: self.steps * self.pace.batch].split(self.pace.batch):
            logits = self.network(self.ready(chosen))
            loss = nn.functional.cross_entropy(logits, self.labels[chosen], label_smoothing=0.1)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.rate.step()
            total += loss.item()
        self.done += 1
        state = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
        save_atomic(state | {"epochs": self.done}, self.path)
        return total / self.steps
