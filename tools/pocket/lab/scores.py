"""What pictures are worth: judges, guide and diversity on the same pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from tools.pocket.lab import figures
from tools.pocket.lab.draw import Pictures
from tools.pocket.lab.figures import Interval
from tools.pocket.lab.judges import jury_of


@dataclass(frozen=True)
class Score:
    """Pictures under the instruments.

    Attributes:
        pictures: what is measured; figures of guide, edges and seconds are of drawings alone.
        votes: the judges' log probabilities, [J, N, K], in the data's order of classes.
        features: [N, D] of unit length.
    """

    pictures: Pictures
    votes: Tensor
    features: Tensor

    @cached_property
    def log_p(self) -> Tensor:
        """The jury's log probabilities, [N, K]."""
        return jury_of(self.votes)

    @property
    def hits(self) -> Tensor:
        """Whether the jury's first choice is the target, bool [N]; a failed picture is no hit."""
        return self.hits_of(self.log_p)

    def hits_of(self, log_p: Tensor) -> Tensor:
        """The same of any log probabilities [N, K]."""
        return figures.agreement(log_p, self.pictures.labels) & ~self.pictures.failed

    @property
    def drawn(self) -> Tensor:
        """Which pictures did not fail, bool [N]."""
        return ~self.pictures.failed

    @property
    def agreement(self) -> Interval:
        """Share of hits."""
        return figures.share(self.hits)

    @property
    def mean_log_p(self) -> float:
        """Of the target classes, by the jury, of what was drawn."""
        return figures.mean_log_p(self.log_p[self.drawn], self.pictures.labels[self.drawn])

    @property
    def target_log_p(self) -> Tensor:
        """The jury's log p of the target class, [N]."""
        return self.log_p.gather(1, self.pictures.labels[:, None])[:, 0]

    @property
    def guide_p(self) -> float:
        """Mean confidence of the guide on the finished pictures; NaN without a guide."""
        return float(self.pictures.guide_p.nanmean())

    @property
    def gaps(self) -> Tensor:
        """Guide's confidence minus whether the jury agrees, [N]; 0 where nothing was drawn."""
        return (self.pictures.guide_p - self.hits.float()).masked_fill(self.pictures.failed, 0.0)

    @property
    def distance(self) -> float:
        """Intra-class distance of what was drawn."""
        return figures.intra_class_distance(
            self.features[self.drawn], self.pictures.labels[self.drawn]
        )

    @property
    def edges(self) -> float:
        """Mean overlap of the edges drawn with the asked contours."""
        drawn, pictures = self.drawn, self.pictures
        return figures.mean_edge_overlap(pictures.pictures[drawn], pictures.contours[drawn])

    @property
    def seconds(self) -> float:
        """Of drawing, per picture."""
        return self.pictures.seconds / len(self.pictures.labels)

    def diversity_against(self, other: Score) -> Interval:
        """This arm's intra-class distance relative to another's, on what both have drawn."""
        both = self.drawn & other.drawn
        labels = self.pictures.labels[both]
        return figures.diversity_interval(other.features[both], self.features[both], labels)

    def row(self) -> dict[str, Any]:
        """As the JSON files hold it; `guide_p` and `gap` are null without a guide."""
        gap = float(self.gaps.mean())
        return {
            "pictures": len(self.hits),
            "failed": int(self.pictures.failed.sum()),
            "agreement": rounded(self.agreement),
            "mean_log_p": round(self.mean_log_p, 4),
            "guide_p": None if math.isnan(gap) else round(self.guide_p, 4),
            "gap": None if math.isnan(gap) else round(gap, 4),
            "distance": round(self.distance, 4),
            "edges": round(self.edges, 4),
            "seconds_per_picture": round(self.seconds, 3),
        }


def rounded(interval: Interval) -> list[float]:
    """As the JSON files hold it."""
    return [round(value, 4) for value in interval]
