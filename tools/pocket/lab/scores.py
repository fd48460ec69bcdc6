"""What an arm's pictures are worth: judges, guide and diversity on the same pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tools.pocket.lab import figures
from tools.pocket.lab.draw import Drawings, Pictures
from tools.pocket.lab.figures import Interval


@dataclass(frozen=True)
class Score:
    """An arm's pictures under the instruments.

    Attributes:
        drawings: the pictures.
        log_p: the jury's log probabilities, [N, K], in the data's order of classes.
        hits: whether the jury's first choice is the target, bool [N]; a picture that could not be
            drawn is none.
        features: [N, D] of unit length.
    """

    drawings: Drawings
    log_p: Tensor
    hits: Tensor
    features: Tensor

    @property
    def agreement(self) -> Interval:
        """Share of hits."""
        return figures.share(self.hits)

    @property
    def own_log_p(self) -> Tensor:
        """The jury's log p of the target class, [N]."""
        return self.log_p.gather(1, self.drawings.labels[:, None])[:, 0]

    @property
    def guide_p(self) -> float:
        """Mean confidence of the guide on the finished pictures; NaN without a guide."""
        return float(self.drawings.guide_p.nanmean())

    @property
    def gaps(self) -> Tensor:
        """Guide's confidence minus whether the jury agrees, [N]; 0 where nothing was drawn."""
        return (self.drawings.guide_p - self.hits.float()).masked_fill(self.drawings.failed, 0.0)

    @property
    def distance(self) -> float:
        """Intra-class distance of what was drawn."""
        kept = ~self.drawings.failed
        return figures.intra_class_distance(self.features[kept], self.drawings.labels[kept])

    @property
    def edges(self) -> float:
        """Mean overlap of the edges drawn with the asked contours."""
        kept = ~self.drawings.failed
        return figures.mean_edge_overlap(self.drawings.pictures[kept], self.drawings.contours[kept])

    def diversity_against(self, other: Score) -> Interval:
        """This arm's intra-class distance relative to another's, on what both have drawn."""
        kept = ~(self.drawings.failed | other.drawings.failed)
        labels = self.drawings.labels[kept]
        return figures.diversity_interval(other.features[kept], self.features[kept], labels)

    def row(self) -> dict[str, Any]:
        """As the JSON files hold it; `guide_p` and `gap` are null without a guide."""
        count, gap = len(self.hits), float(self.gaps.mean())
        kept = ~self.drawings.failed
        log_p = figures.mean_log_p(self.log_p[kept], self.drawings.labels[kept])
        return {
            "pictures": count,
            "failed": int(self.drawings.failed.sum()),
            "agreement": [round(value, 4) for value in self.agreement],
            "mean_log_p": round(log_p, 4),
            "guide_p": None if math.isnan(gap) else round(self.guide_p, 4),
            "gap": None if math.isnan(gap) else round(gap, 4),
            "distance": round(self.distance, 4),
            "edges": round(self.edges, 4),
            "seconds_per_picture": round(self.drawings.seconds / count, 3),
        }


def hits(log_p: Tensor, of: Pictures) -> Tensor:
    """Whether the first choice is the label, bool [N], from log p [N, K]; failures are no hits."""
    return figures.agreement(log_p, of.labels) & ~of.failed


def rounded(interval: Interval) -> list[float]:
    """As the JSON files hold it."""
    return [round(value, 4) for value in interval]
