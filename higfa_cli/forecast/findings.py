"""Rows of `higfa doctor`, and what its later checks need of earlier ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from higfa_cli.data.dataset import Dataset
from higfa_cli.forecast import estimate
from higfa_cli.forecast.estimate import Cost, Counted
from higfa_cli.forecast.model_files import MissingFile
from higfa_cli.models.machine import Device
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
        """The arm whose pictures take the most evaluations of denoiser and guide, or the first."""

        def evaluations(each: tuple[ArmContext, Cost]) -> int:
            return (each[1].denoiser_evaluations or 0) + (each[1].guide_evaluations or 0)

        return max(self.costs, key=evaluations)

    @cached_property
    def flops(self) -> float | None:
        """Floating-point operations of one picture of that arm; None where that is not known."""
        arm, cost = self.costliest
        return None if cost.architecture is None else estimate.flops_of(arm, cost.architecture)

    @property
    def is_large(self) -> bool:
        """Whether the model is too large for a CPU."""
        # The pocket takes 4e10 operations per picture, Stable Diffusion 1.5 more than 1e14.
        return (self.flops or 0) > 1e13
