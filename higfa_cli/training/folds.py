"""Stratified parts of a training set, for data without a validation split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from higfa_cli.artifacts.seeds import seed_for


def stratified_folds(
    keys: Sequence[str], labels: Sequence[int], folds: int, seed: int
) -> list[int]:
    """The fold (0 .. folds-1) of every sample: each class is spread as evenly as it can be.

    A sample's rank in its class is a hash of seed, class and key: listing order does not count.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for row, label in enumerate(labels):
        members[label].append(row)
    assigned = [0] * len(keys)
    for label, rows in members.items():
        rows.sort(key=lambda row: seed_for(seed, "folds", label, keys[row]))
        # Each class begins at another fold, or every class's odd one would fall into the first.
        for rank, row in enumerate(rows):
            assigned[row] = (rank + label) % folds
    return assigned
