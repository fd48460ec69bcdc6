"""A training that is cut off goes on, to the same weights bit for bit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from higfa_cli.errors import UserError
from higfa_cli.models.backbones import Backbone, create_backbone
from higfa_cli.recipe.classifiers import Downstream
from higfa_cli.training.pictures import TrainSet
from higfa_cli.training.trainer import FitResult, fit, load_checkpoint
from tests.support import shapes


class Cut(Exception):
    """What ends the training early."""


class Stopping:
    """Progress that raises when it is asked for item number `after` + 1."""

    def __init__(self, after: int | None = None) -> None:
        self.after = after

    def track(
        self, items: Iterable[int], description: str, total: int | None = None
    ) -> Iterator[int]:
        for number, item in enumerate(items):
            if number == self.after:
                raise Cut
            yield item


def train(
    tmp_path: Path, checkpoint: Path | None, after: int | None = None, validated: bool = True
) -> tuple[FitResult, Backbone]:
    config = Downstream(
        backbone="test_resnet.r160_in1k",
        pretrained=False,
        image_size=shapes.SIZE,
        epochs=4,
        batch_size=6,
        augment="randaugment",
    )
    backbone = create_backbone(config, 4, tmp_path, 3, "downstream")
    mixed = TrainSet(shapes.pictures(4, 1), shapes.pictures(3, 2), 0.3)
    val = shapes.pictures(2, 5) if validated else None
    cpu = torch.device("cpu")
    fitted = fit(backbone, mixed, val, config, 4, 7, cpu, Stopping(after), "t", checkpoint)
    return fitted, backbone


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.fault("stop", "training interrupted", "resumes, same weights")
@pytest.mark.parametrize("after", [1, 3])
@pytest.mark.parametrize("validated", [True, False])
def test_cut_between_epochs(tmp_path: Path, after: int, validated: bool) -> None:
    whole, network = train(tmp_path, None, validated=validated)
    path = tmp_path / "t.pt"
    with pytest.raises(Cut):
        train(tmp_path, path, after, validated)
    begun = load_checkpoint(path)
    assert begun is not None and len(begun["progress"]["history"]) == after
    again, resumed = train(tmp_path, path, validated=validated)
    assert same(whole.best_state, again.best_state)
    assert same(network.network.state_dict(), resumed.network.state_dict())
    assert again.history == whole.history
    assert again.best_epoch == whole.best_epoch


@pytest.mark.fault("stop", "training interrupted")
def test_cut_within_an_epoch_repeats_that_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training is cut off at a batch of the third epoch, not between epochs."""
    whole, _ = train(tmp_path, None)
    path, real, calls = tmp_path / "t.pt", TrainSet.batch, []

    def batch(self: TrainSet, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2 * 3 + 2:  # three batches an epoch
            raise Cut
        return real(self, *arguments)

    monkeypatch.setattr(TrainSet, "batch", batch)
    with pytest.raises(Cut):
        train(tmp_path, path)
    monkeypatch.undo()
    begun = load_checkpoint(path)
    assert begun is not None and len(begun["progress"]["history"]) == 2
    again, _ = train(tmp_path, path)
    assert same(whole.best_state, again.best_state)
    assert again.history == whole.history


def test_finished_training_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.pt"
    whole, _ = train(tmp_path, path)

    def never(*arguments: Any) -> Any:
        raise AssertionError("trained again")

    monkeypatch.setattr(TrainSet, "batch", never)
    again, _ = train(tmp_path, path)
    assert same(whole.best_state, again.best_state)


@pytest.mark.fault("stop", "checkpoint of a training broken or hostile", "said, not run")
def test_checkpoint_does_not_run_code_and_says_when_it_is_broken(tmp_path: Path) -> None:
    path = tmp_path / "t.pt"
    assert load_checkpoint(path) is None
    path.write_bytes(b"cut short")
    with pytest.raises(UserError, match=r"t\.pt is broken .* delete it"):
        train(tmp_path, path)

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "touched",))

    torch.save({"network": Evil()}, path)
    with pytest.raises(UserError, match="is broken"):
        load_checkpoint(path)
    assert not (tmp_path / "touched").exists()
