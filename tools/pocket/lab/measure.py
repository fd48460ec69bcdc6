"""What judges, feature space and real pictures say about a set of pictures, in rows."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from higfa_cli.artifacts.atomic import write_bytes
from higfa_cli.artifacts.fingerprint import hash_file, hash_json
from tools.pocket.lab import figures
from tools.pocket.lab.draw import Drawings, Pictures
from tools.pocket.lab.features import SHA256_START, FeatureSpace, features_of, looks_like_aircraft
from tools.pocket.lab.figures import Interval
from tools.pocket.lab.judges import Judge, jury
from tools.pocket.lab.scores import hits
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
    found: Interval,
    threshold: float | None = None,
    unit: Unit = "percent",
    about: str = "",
) -> Row:
    """A row of a figure with its interval."""
    return Row(figure, found.value, found.low, found.high, threshold, unit, about)


@dataclass(frozen=True)
class Reference:
    """Features of the real pictures that drawings are compared with.

    `real`: test photos [M, D] with `real_labels`; `pool`: what the generator learnt from and the
    user's own photos, each as it is and mirrored.
    """

    real: Tensor
    real_labels: Tensor
    pool: Tensor


def pool_features(
    network: nn.Module, rendered: Path, name: str, size: int, cache: Path, mirrored: bool
) -> tuple[Tensor, Tensor]:
    """Features and labels of a rendered pool, from the cache where it holds them.

    Mirrored ones follow the others. Labels are indices into the pocket's classes.
    """
    records = hash_file(rendered / name / "records.jsonl")
    key = hash_json([records, size, mirrored, SHA256_START])[:16]
    path = cache / f"{name}-{key}.npz"
    if not path.is_file():
        pool = load_pool(rendered / name, size)
        sides = [pool.pictures, pool.pictures.flip(-1)] if mirrored else [pool.pictures]
        features = torch.cat([features_of(network, pictures) for pictures in sides]).numpy()
        buffer = io.BytesIO()
        np.savez(buffer, features=features, labels=pool.labels.repeat(len(sides)).numpy())
        write_bytes(path, buffer.getvalue())
    with np.load(path, allow_pickle=False) as stored:
        return torch.from_numpy(stored["features"]), torch.from_numpy(stored["labels"])


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
        features = partial(pool_features, self.space.network, self.folder)
        real, labels = features("test", self.size, self.cache, mirrored=False)
        pools = [features(n, self.size, self.cache, mirrored=True)[0] for n in ("web", "train")]
        return Reference(real, labels, torch.cat(pools))

    def pictures(self, name: str) -> Pictures:
        """A whole pool."""
        pool = load_pool(self.folder / name, self.size)
        whole = torch.zeros(len(pool.labels), dtype=torch.bool)
        return Pictures(pictures=pool.pictures, labels=pool.labels, failed=whole)


def pool_labels(found: Pictures, classes: Sequence[str]) -> Tensor:
    """Labels that are indices into `classes`, as the pools have them, int64 [N]."""
    order = torch.tensor([list(load_classes()).index(name) for name in classes])
    return order[found.labels]


def agreement_rows(
    judges: Sequence[Judge],
    classes: Sequence[str],
    found: Pictures,
    threshold: float | None = None,
    about: str = "",
) -> list[Row]:
    """Agreement of the jury, which has the threshold, and of each judge; the jury's mean log p.

    Labels are indices into `classes`.
    """
    if about == "" and bool(found.failed.any()):
        about = f"{int(found.failed.sum())} pictures failed, and count as disagreed"
    log_p = jury(judges, found.pictures, classes)
    rows = [row("jury agreement", figures.share(hits(log_p, found)), threshold, about=about)]
    for judge in judges:
        own = figures.share(hits(jury([judge], found.pictures, classes), found))
        rows.append(row(f"agreement of {judge.spec.architecture}", own))
    drawn = ~found.failed
    mean = figures.mean_log_p(log_p[drawn], found.labels[drawn])
    return [*rows, Row("mean log p of the jury", mean)]


def spread_rows(network: nn.Module, found: Pictures, against: Reference, drawn: bool) -> list[Row]:
    """Diversity, recall, coverage in the feature space, and recognised aircraft.

    `drawn`: copies too, which photos of the pool would all be.
    """
    kept = ~found.failed
    pictures, labels = found.pictures[kept], found.labels[kept]
    own = features_of(network, pictures)
    real, about = (against.real, against.real_labels), f"{len(against.real)} test photos, k = 3"
    rows = [
        Row("intra-class distance", figures.intra_class_distance(own, labels)),
        row("seen as aircraft", figures.share(looks_like_aircraft(network, pictures))),
        Row("recall", figures.recall(*real, own, labels).mean, unit="percent", about=about),
        Row("coverage", figures.coverage(*real, own, labels).mean, unit="percent", about=about),
    ]
    if drawn:
        share, threshold = figures.copies(own, against.real, against.pool)
        about = f"nearer than {threshold:.4f}, the 1 % quantile of test photos"
        rows.append(Row("copies", share, unit="percent", about=about))
    return rows


def overlap_row(found: Drawings) -> Row:
    """Mean edge overlap of finished pictures with the asked contours."""
    drawn = ~found.failed
    value = figures.mean_edge_overlap(found.pictures[drawn], found.contours[drawn])
    return Row("edge overlap", value, about="Jaccard index, one pixel tolerance")
