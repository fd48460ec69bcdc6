"""The one trainer: the guide and the downstream classifier both come from `fit`."""

from __future__ import annotations

import copy
import io
import math
import pickle
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn
from torch.nn import functional

from higfa_cli.artifacts.atomic import write_bytes
from higfa_cli.artifacts.results import EpochRow
from higfa_cli.errors import UserError
from higfa_cli.models.backbones import Backbone
from higfa_cli.models.classifier import from_bytes, network_input
from higfa_cli.recipe.classifiers import Training
from higfa_cli.training.pictures import Augment, Pictures, TrainSet, make_augment

_WARM_UP = 0.05
_EVAL_BATCH = 128
_PROGRESS = ("best_epoch", "best_accuracy", "best_state", "seconds")


class Tracker(Protocol):
    """Shows how far a loop is."""

    def track(
        self, items: Iterable[int], description: str, total: int | None = None
    ) -> Iterator[int]:
        """Yield `items`."""
        ...


@dataclass(frozen=True)
class FitResult:
    """What a training gave.

    `best_state`: the network's at the end of `best_epoch` (1-based). `selected`: what chose it.
    `history`: one row per epoch, with validation accuracy and loss where there was validation.
    """

    best_state: dict[str, Tensor]
    best_epoch: int
    selected: Literal["val", "last"]
    history: tuple[EpochRow, ...]
    steps: int
    images_seen: int
    seconds: float

    @property
    def val_accuracy(self) -> float | None:
        """Validation accuracy at the best epoch, in [0, 1]."""
        return self.history[self.best_epoch - 1].val_accuracy


@dataclass
class _Loop:
    """What changes from epoch to epoch; `best_epoch` is of the highest validation accuracy."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    generator: torch.Generator
    device: torch.device
    history: list[EpochRow] = field(default_factory=list)
    best_epoch: int = 0
    best_accuracy: float = -1.0
    best_state: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0

    def take(self, row: EpochRow) -> None:
        """Add an epoch, and remember its state if it is the best one yet."""
        self.history.append(row)
        if row.val_accuracy is None:
            self.best_epoch = row.epoch
        elif row.val_accuracy > self.best_accuracy:
            self.best_epoch, self.best_accuracy = row.epoch, row.val_accuracy
            self.best_state = _state(self.network)

    def state(self) -> dict[str, object]:
        """Everything that going on from here needs, on whatever device it lies."""
        cuda = self.device.type == "cuda"
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "generator": self.generator.get_state(),
            "random": torch.get_rng_state(),
            "device_random": torch.cuda.get_rng_state(self.device) if cuda else None,
            "progress": {name: getattr(self, name) for name in _PROGRESS}
            | {"history": [row.plain() for row in self.history]},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken, to the same results on a CPU bit for bit."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda" and state["device_random"] is not None:
            torch.cuda.set_rng_state(state["device_random"], self.device)
        vars(self).update(state["progress"])
        self.history = [EpochRow.model_validate(row) for row in state["progress"]["history"]]


def fit(
    backbone: Backbone,
    train: TrainSet,
    val: Pictures | None,
    config: Training,
    classes: int,
    seed: int,
    device: torch.device,
    progress: Tracker,
    description: str = "training",
    checkpoint: Path | None = None,
) -> FitResult:
    """Train `backbone.network` in place for epochs * ceil(n_real / batch_size) AdamW steps.

    Every step sees `batch_size` pictures, whatever the second source of `train`: an epoch's last
    batch is filled up from the start of its order. Cosine schedule with 5 % warm-up, label
    smoothing, no weight decay on biases and norms. Validation chooses the epoch of highest
    accuracy (the earliest of equals); without it the last epoch is used. The same arguments give
    the same result on a CPU; global random state is left as it was.

    `checkpoint`: written after every epoch; where it exists, the training with these arguments
    goes on from it, to the same result on a CPU.

    Raises UserError: no training pictures, a batch of one, a loss that is not finite, or a
    checkpoint that is broken.
    """
    if len(train) == 0:
        raise UserError("there are no training pictures; add some, or raise data.shots")
    if config.batch_size < 2:
        raise UserError("batch_size: 1 is too few for batch normalisation; set it to 2 or more")
    network = backbone.network.to(device)
    per_epoch = math.ceil(len(train) / config.batch_size)
    optimizer, schedule = _optimizer(network, config, config.epochs * per_epoch)
    augment = make_augment(config, classes)
    loop = _Loop(network, optimizer, schedule, torch.Generator().manual_seed(seed), device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        if checkpoint is not None and (saved := load_checkpoint(checkpoint)) is not None:
            loop.restore(saved)
        for epoch in progress.track(range(1, config.epochs + 1), description):
            if epoch <= len(loop.history):
                continue
            started = time.monotonic()
            batches = _batches(train, config.batch_size, augment, loop.generator)
            measured = _train_epoch(backbone, batches, config, loop)
            if val is not None:
                measured |= _validate(backbone, val, device)
            loop.take(EpochRow.model_validate({"epoch": epoch, **measured}))
            loop.seconds += time.monotonic() - started
            if checkpoint is not None:
                save_checkpoint(checkpoint, loop.state())
    return FitResult(
        best_state=loop.best_state if val is not None else _state(network),
        best_epoch=loop.best_epoch,
        selected="last" if val is None else "val",
        history=tuple(loop.history),
        steps=config.epochs * per_epoch,
        images_seen=config.epochs * per_epoch * config.batch_size,
        seconds=loop.seconds,
    )


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


@torch.no_grad()
def predict_logits(backbone: Backbone, pictures: Pictures, device: torch.device) -> Tensor:
    """Logits [N, K] (float32, CPU) of uint8 pictures, in evaluation mode, before temperature."""
    network = backbone.network.to(device).eval()
    parts = [
        network(network_input(from_bytes(part), part.shape[-1], backbone.mean, backbone.std)).cpu()
        for part in (chunk.to(device) for chunk in pictures.images.split(_EVAL_BATCH))
    ]
    return torch.cat(parts).to(torch.float32)


def _optimizer(
    network: nn.Module, config: Training, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    groups = param_groups_weight_decay(network, config.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate)
    warm = max(1, round(_WARM_UP * steps))

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _batches(
    train: TrainSet, batch_size: int, augment: Augment, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """One epoch: (uint8 images, label weights [B, K], number replaced by the second source)."""
    order = torch.randperm(len(train), generator=generator)
    steps = math.ceil(len(train) / batch_size)
    positions = torch.arange(steps * batch_size) % len(train)
    for indices in order[positions].split(batch_size):
        pictures, mask = train.batch(indices, generator)
        images, targets = augment(pictures.images, pictures.labels)
        yield images, targets, int(mask.sum())


def _train_epoch(
    backbone: Backbone,
    batches: Iterable[tuple[Tensor, Tensor, int]],
    config: Training,
    loop: _Loop,
) -> dict[str, float]:
    """Mean loss, the rate it began with, and the share of pictures from the second source."""
    network = backbone.network.train()
    rate = float(loop.schedule.get_last_lr()[0])
    total, steps, replaced = 0.0, 0, 0
    for images, targets, count in batches:
        ready = network_input(
            from_bytes(images.to(loop.device)), config.image_size, backbone.mean, backbone.std
        )
        loss = functional.cross_entropy(
            network(ready), targets.to(loop.device), label_smoothing=config.label_smoothing
        )
        loop.optimizer.zero_grad()
        loss.backward()
        loop.optimizer.step()
        loop.schedule.step()
        total += float(loss.detach())
        steps += 1
        replaced += count
    if not math.isfinite(total):
        section = type(config).__name__.lower()
        raise UserError(f"training diverged: the loss is not finite; lower {section}.learning_rate")
    share = replaced / (steps * config.batch_size)
    return {"loss": total / steps, "learning_rate": rate, "replaced": share}


def _validate(backbone: Backbone, val: Pictures, device: torch.device) -> dict[str, float]:
    logits = predict_logits(backbone, val, device)
    hits = (logits.argmax(1) == val.labels).to(torch.float32)
    return {
        "val_accuracy": float(hits.mean()),
        "val_loss": float(functional.cross_entropy(logits, val.labels)),
    }


def _state(network: nn.Module) -> dict[str, Tensor]:
    return {name: copy.deepcopy(value.cpu()) for name, value in network.state_dict().items()}
