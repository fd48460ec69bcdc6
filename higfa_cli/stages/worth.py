"""Whether what a stage made is worth anything to those that read it. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from higfa_cli.artifacts.artifact import read_model
from higfa_cli.artifacts.earlier import earlier_of, holds_work
from higfa_cli.artifacts.results import Calibration, Results
from higfa_cli.artifacts.stage_state import StageInputs, record_of
from higfa_cli.errors import UserError
from higfa_cli.recipe.schema import Recipe
from higfa_cli.stages.context import Context

# Held-out photos.
_ENOUGH_TO_TELL = 20
# Stages that go on with what an unfinished run left.
_RESUMED = ("finetune-guide", "synthesize", "train-downstream")


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


def consented(ctx: Context, steered: Mapping[Path, StageInputs]) -> Context:
    """The run, if a guide may steer the pictures of these folders; what began goes on.

    Raises UserError where it is no better than chance, unless by `--force`. Not of a few photos, on
    which a guide that is of use may look like guessing.
    """
    warning = worthless(ctx, "finetune-guide") if steered else None
    if warning is None:
        return ctx
    records = {folder: record_of(folder) for folder in steered}
    begun = {
        folder: record
        for folder, record in records.items()
        if record is not None and record.inputs.key == steered[folder].key
    }
    if ctx.force:
        # The command that began the pictures does not begin again.
        return replace(ctx, force=any(r.status == "done" for r in begun.values()) or not begun)
    photos = read_model(ctx.ws.guide.calibration, Calibration).clean.count
    if photos >= _ENOUGH_TO_TELL and len(begun) < len(steered):
        raise UserError(f"{warning}, or draw all the same: higfa synthesize --force")
    return ctx


def unguided(recipe: Recipe) -> str | None:
    """What to say where a guide is asked for and no step asks it; None where one does.

    Of a switch given as a noise level only a solver can say.
    """
    strength, steps = recipe.guidance.classifier, recipe.sampling.steps
    last = (steps - 1) / steps
    if strength.switch_sigma is not None or not last < strength.switch < 1:
        return None
    return (
        f"no step is guided: guidance.classifier.switch {strength.switch:g} lies after the last of "
        f"{steps} steps, at {last:.3g}; raise sampling.steps or lower the switch"
    )


def warn(ctx: Context, stage: str) -> None:
    """Note what a stage's results are not worth."""
    if (warning := worthless(ctx, stage)) is not None:
        ctx.progress.note(f"warning: {warning}")


@contextmanager
def telling_kept(ctx: Context, reasons: Mapping[str, str]) -> Iterator[None]:
    """Note what the block has set aside, however it ends; `reasons`: by part of a stage, why."""
    before = {part: earlier_of(ctx.workspace / part) for part in reasons}
    try:
        yield
    finally:
        for part, reason in reasons.items():
            for aside in sorted(earlier_of(ctx.workspace / part) - before[part]):
                if holds_work(aside, part.partition("/")[0] in _RESUMED):
                    ctx.progress.note(f"{part}: what was made before ({reason}) is kept in {aside}")
