"""What judges, feature space and real pictures say about a set of pictures, in rows."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from higfa_cli.artifacts.atomic import write_bytes
from higfa_cli.artifacts.fingerprint import hash_file, hash_json
from tools.pocket.lab import figures
from tools.pocket.lab.draw import Pictures
from tools.pocket.lab.features import SHA256_START, FeatureSpace, looks_like_aircraft
from tools.pocket.lab.figures import Interval
from tools.pocket.lab.judges import Judge
from tools.pocket.lab.scores import Score
from tools.pocket.lab.train_judges import load_pool
from tools.pocket.pocket_render.catalogue import load_classes

# "Nearly all" drawings show a recognisable aircraft: the feature network sees one in at least this
# share of what it sees one in among photos.
NEARLY_ALL = 0.9


Unit = Literal["percent", "number", "per second"]


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        figure: its name.
        value: shares in 0..1.
        low, high: its 95 % interval, or None.
        threshold: the least value that is asked for, or None.
        unit: how it is written.
        about: what else a reader must know.
    """

    figure: str
    value: float
    low: float | None = None
    high: float | None = None
    threshold: float | None = None
    unit: Unit = "number"
    about: str = ""


def row(
    figure: str,
    interval: Interval,
    threshold: float | None = None,
    unit: Unit = "percent",
    about: str = "",
) -> Row:
    """A row of a figure with its interval."""
    return Row(figure, *interval, threshold, unit, about)


@dataclass(frozen=True)
class Reference:
    """Features of the real pictures that drawings are compared with.

    `real`: test photos [M, D] with `real_labels`; `pool`: what the generator learnt from and the
    user's own photos, each as it is and mirrored.
    """

    real: Tensor
    real_labels: Tensor
    pool: Tensor


@dataclass(frozen=True)
class Pools:
    """Rendered pools, at the judges' size: `folder` holds web, train and test.

    Labels are indices into the pocket's classes. `cache`: folder of features.
    """

    folder: Path
    size: int
    cache: Path
    space: FeatureSpace

    @cached_property
    def test(self) -> Pictures:
        """The test photos: other airlines."""
        return self.pictures("test")

    @cached_property
    def reference(self) -> Reference:
        """Test photos; and web and train pictures, mirrored too."""
        pools = [self.features(name, mirrored=True)[0] for name in ("web", "train")]
        return Reference(*self.features("test"), torch.cat(pools))

    def pictures(self, name: str) -> Pictures:
        """A whole pool."""
        pool = load_pool(self.folder / name, self.size)
        whole = torch.zeros(len(pool.labels), dtype=torch.bool)
        return Pictures(pictures=pool.pictures, labels=pool.labels, failed=whole)

    def features(self, name: str, mirrored: bool = False) -> tuple[Tensor, Tensor]:
        """Features and labels of a pool, from the cache where it holds them.

        Mirrored ones follow the others.
        """
        records = hash_file(self.folder / name / "records.jsonl")
        key = hash_json([records, self.size, mirrored, SHA256_START])[:16]
        path = self.cache / f"{name}-{key}.npz"
        if not path.is_file():
            pool = load_pool(self.folder / name, self.size)
            sides = [pool.pictures, pool.pictures.flip(-1)] if mirrored else [pool.pictures]
            features = torch.cat([self.space(pictures) for pictures in sides]).numpy()
            buffer = io.BytesIO()
            np.savez(buffer, features=features, labels=pool.labels.repeat(len(sides)).numpy())
            write_bytes(path, buffer.getvalue())
        with np.load(path, allow_pickle=False) as stored:
            return torch.from_numpy(stored["features"]), torch.from_numpy(stored["labels"])


def pool_labels(pictures: Pictures, classes: Sequence[str]) -> Tensor:
    """Labels that are indices into `classes`, as the pools have them, int64 [N]."""
    order = torch.tensor([list(load_classes()).index(name) for name in classes])
    return order[pictures.labels]


def agreement_rows(
    score: Score, judges: Sequence[Judge], threshold: float | None = None, about: str = ""
) -> list[Row]:
    """Agreement of the jury, which has the threshold, and of each judge; the jury's mean log p."""
    failed = int(score.pictures.failed.sum())
    about = about or (f"{failed} pictures failed, and count as disagreed" if failed else "")
    return [
        row("jury agreement", score.agreement, threshold, about=about),
        *(
            row(f"agreement of {judge.spec.architecture}", figures.share(score.hits_of(log_p)))
            for judge, log_p in zip(judges, score.votes, strict=True)
        ),
        Row("mean log p of the jury", score.mean_log_p),
    ]


def spread_rows(
    network: nn.Module, score: Score, labels: Tensor, against: Reference, drawn: bool
) -> list[Row]:
    """Diversity, recall, coverage in the feature space, and recognised aircraft.

    `labels` [N]: of the pools' classes. `drawn`: copies too, which photos of the pool would all be.
    """
    finished = score.drawn
    pictures, features = score.pictures.pictures[finished], score.features[finished]
    labels = labels[finished]
    real, about = (against.real, against.real_labels), f"{len(against.real)} test photos, k = 3"
    recalled, covered = (
        measure(*real, features, labels).mean for measure in (figures.recall, figures.coverage)
    )
    rows = [
        Row("intra-class distance", figures.intra_class_distance(features, labels)),
        row("seen as aircraft", figures.share(looks_like_aircraft(network, pictures))),
        Row("recall", recalled, unit="percent", about=about),
        Row("coverage", covered, unit="percent", about=about),
    ]
    if drawn:
        share, threshold = figures.copies(features, against.real, against.pool)
        about = f"nearer than {threshold:.4f}, the 1 % quantile of test photos"
        rows.append(Row("copies", share, unit="percent", about=about))
    return rows


def overlap_row(score: Score) -> Row:
    """Mean edge overlap of finished pictures with the asked contours."""
    return Row("edge overlap", score.edges, about="Jaccard index, one pixel tolerance")
