"""What judges, feature space and real pictures say about a set of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from higfa_cli.artifacts.fingerprint import hash_file, hash_json
from higfa_cli.errors import UserError
from tools.pocket.lab import figures
from tools.pocket.lab.features import SHA256_START, features_of, looks_like_aircraft
from tools.pocket.lab.judges import Judge, jury_log_probabilities
from tools.pocket.lab.table import Row, row
from tools.pocket.lab.train_judges import load_pool

# "Nearly all" drawings show a recognisable aircraft: the feature network sees one in at least this
# share of what it sees one in among photos.
NEARLY_ALL = 0.9


@dataclass(frozen=True)
class Pictures:
    """A set of pictures to measure.

    Attributes:
        pictures: uint8 [N, 3, S, S].
        labels: indices into the judges' classes, [N].
        failed: bool [N]: pictures that were never finished. They agree with no label, and no
            other figure knows them.
    """

    pictures: Tensor
    labels: Tensor
    failed: Tensor

    @classmethod
    def whole(cls, pictures: Tensor, labels: Tensor) -> Pictures:
        """A set without failures."""
        return cls(pictures, labels, torch.zeros(len(labels), dtype=torch.bool))


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
        found = torch.cat([features_of(network, pictures) for pictures in sides])
        cache.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as handle:
            np.savez(handle, features=found.numpy(), labels=pool.labels.repeat(len(sides)).numpy())
        partial.replace(path)
    with np.load(path, allow_pickle=False) as stored:
        return torch.from_numpy(stored["features"]), torch.from_numpy(stored["labels"])


def reference(network: nn.Module, rendered: Path, size: int, cache: Path) -> Reference:
    """Test photos; and web and train pictures, mirrored too."""
    real, labels = pool_features(network, rendered, "test", size, cache, mirrored=False)
    pools = [
        pool_features(network, rendered, name, size, cache, mirrored=True)[0]
        for name in ("web", "train")
    ]
    return Reference(real, labels, torch.cat(pools))


def judge_labels(names: Sequence[str], judges: Sequence[Judge]) -> Tensor:
    """Indices of class names in the judges' classes. Raises UserError for one they do not know."""
    classes = judges[0].spec.classes
    unknown = sorted(set(names) - set(classes))
    if unknown:
        raise UserError(
            f"the judges do not know the class {unknown[0]}; train them on the pocket's classes: "
            "python -m tools.pocket.lab.train_judges"
        )
    return torch.tensor([classes.index(name) for name in names])


def agreement_rows(
    judges: tuple[Judge, ...], found: Pictures, threshold: float | None = None, about: str = ""
) -> list[Row]:
    """Agreement of the jury, which has the threshold, and of each judge; the jury's mean log p."""
    if about == "" and bool(found.failed.any()):
        about = f"{int(found.failed.sum())} pictures failed, and count as disagreed"
    jury = jury_log_probabilities(judges, found.pictures)

    def hits(log_p: Tensor) -> Tensor:
        return figures.agreement(log_p, found.labels) & ~found.failed

    rows = [row("jury agreement", figures.share(hits(jury)), threshold, about=about)]
    for judge in judges:
        own = figures.share(hits(judge.log_probabilities(found.pictures)))
        rows.append(row(f"agreement of {judge.spec.architecture}", own))
    kept = ~found.failed
    log_p = figures.mean_log_p(jury[kept], found.labels[kept])
    return [*rows, Row("mean log p of the jury", log_p)]


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


def overlap_row(found: Pictures, contours: Tensor) -> Row:
    """Mean edge overlap of finished pictures with the asked contours, uint8 [N, S, S]."""
    value = figures.mean_edge_overlap(found.pictures[~found.failed], contours[~found.failed])
    return Row("edge overlap", value, about="Jaccard index, one pixel tolerance")
