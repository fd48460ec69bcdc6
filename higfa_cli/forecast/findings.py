"""Rows of `higfa doctor`, and what its later checks need of earlier ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from higfa_cli.data.dataset import Dataset
from higfa_cli.forecast import estimate
from higfa_cli.forecast.estimate import Cost, Counted
from higfa_cli.forecast.machine import Device
from higfa_cli.forecast.model_files import MissingFile
from higfa_cli.stages.context import ArmContext, Context


@dataclass(frozen=True)
class Row:
    """One check; `remedy` is empty where all is well."""

    check: str
    status: Literal["ok", "warning", "failed"]
    detail: str
    remedy: str = ""


@dataclass
class Findings:
    """What later checks need of earlier ones; None where an earlier one failed."""

    ctx: Context
    photos: Dataset | None = None
    missing: list[MissingFile] = field(default_factory=list)
    device: Device | None = None

    @cached_property
    def counted(self) -> Counted:
        """How many pictures. Raises UserError where that cannot be known."""
        return estimate.count_pictures(self.ctx)

    @cached_property
    def costs(self) -> tuple[tuple[ArmContext, Cost], ...]:
        """What a picture of each arm costs."""
        arms = [self.ctx.arm(name) for name in self.ctx.recipe.arms]
        return tuple((arm, estimate.picture_cost(arm)) for arm in arms)

    @property
    def costliest(self) -> tuple[ArmContext, Cost]:
        """The arm whose pictures take the most arithmetic; the first where that is not known."""
        return max(self.costs, key=lambda each: each[1].flops or 0)

    @property
    def is_large(self) -> bool:
        """Whether the model is too large for a CPU."""
        # The pocket takes 4e10 operations per picture, Stable Diffusion 1.5 more than 1e14.
        return (self.costliest[1].flops or 0) > 1e13
