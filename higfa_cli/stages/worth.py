"""Whether what a stage made is worth anything to those that read it. Needs no torch."""

from __future__ import annotations

from higfa_cli.artifacts.artifact import read_model
from higfa_cli.artifacts.results import Calibration, Results
from higfa_cli.errors import UserError
from higfa_cli.stages.context import Context


def worthless(ctx: Context, stage: str) -> str | None:
    """What to say where a stage's results are no better than chance; None where there are none."""
    try:
        if stage == "finetune-guide":
            return read_model(ctx.ws.guide.calibration, Calibration).worthless
        if stage == "train-downstream":
            return read_model(ctx.ws.downstream.results, Results).worthless
    except UserError:
        return None
    return None


def warn(ctx: Context, stage: str) -> None:
    """Note what a stage's results are not worth."""
    if (warning := worthless(ctx, stage)) is not None:
        ctx.progress.note(f"warning: {warning}")
