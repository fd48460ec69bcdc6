"""Which of the real photos train, and which choose the checkpoint."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from higfa_cli.data.dataset import Dataset, Sample
from higfa_cli.training.pictures import stratified_folds
from higfa_cli.training.room import HELD_OUT_PARTS

HELD_OUT = "a stratified fifth of the training photos, held out because there is no val split"
LAST = "last"


@dataclass(frozen=True)
class RealPhotos:
    """Photos that train, and those that choose the checkpoint; `chosen_by` names the latter."""

    train: tuple[Sample, ...]
    chooses: tuple[Sample, ...]
    chosen_by: str


def hold_out(dataset: Dataset, seed: int) -> RealPhotos:
    """The val split chooses the checkpoint; without one, a stratified fifth of train does.

    A class of a single photo keeps it for training. Where nothing can be held out, the last
    epoch is used.
    """
    train, val = dataset.of("train"), dataset.of("val")
    if val:
        return RealPhotos(train, val, "val")
    keys = [sample.key for sample in train]
    labels = [sample.class_id for sample in train]
    parts, of_class = stratified_folds(keys, labels, HELD_OUT_PARTS, seed), Counter(labels)
    held = [
        sample
        for sample, part in zip(train, parts, strict=True)
        if part == 0 and of_class[sample.class_id] > 1
    ]
    if not held:
        return RealPhotos(train, (), LAST)
    aside = set(held)
    rest = tuple(sample for sample in train if sample not in aside)
    return RealPhotos(rest, tuple(held), HELD_OUT)
