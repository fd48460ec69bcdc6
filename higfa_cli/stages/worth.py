"""Whether what a stage made is worth anything to those that read it. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence

from higfa_cli.artifacts.artifact import read_model
from higfa_cli.artifacts.results import Calibration, Results
from higfa_cli.errors import UserError
from higfa_cli.stages.context import Context

# Held-out photos.
_ENOUGH_TO_TELL = 20


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


def refuse_worthless(ctx: Context, steered: Sequence[str]) -> None:
    """Raise UserError where a guide no better than chance would steer these parts' pictures.

    Not of a few photos, on which one that is of use may look like guessing.
    """
    warning = worthless(ctx, "finetune-guide") if steered else None
    if warning is None:
        return
    if read_model(ctx.ws.guide.calibration, Calibration).clean.count >= _ENOUGH_TO_TELL:
        raise UserError(f"{warning}, or draw all the same: higfa synthesize --force")


def warn(ctx: Context, stage: str) -> None:
    """Note what a stage's results are not worth."""
    if (warning := worthless(ctx, stage)) is not None:
        ctx.progress.note(f"warning: {warning}")
