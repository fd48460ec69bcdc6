"""The commands of single stages, and what they have in common: one library call, one result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from higfa_cli.cli.options import ArmFlag, StageFlags
from higfa_cli.cli.output import print_line, print_result, stdout_for_result
from higfa_cli.errors import UserError

if TYPE_CHECKING:
    from higfa_cli.stages.table import StepRow

WITH_FAILURES = 3


def contours(
    flags: StageFlags,
    strict: Annotated[
        bool, typer.Option("--strict", help="A photo that cannot be used is an error.")
    ] = False,
    max_bad: Annotated[
        str | None,
        typer.Option(
            help="Most photos that may be left out; same as --set data.max_bad=N|P%.",
            metavar="N|P%",
        ),
    ] = None,
) -> None:
    """Check all photos, and extract and transform contours of them.

    Photos that cannot be used are listed with their reasons in contours/rejected.jsonl, and every
    later stage leaves them out. contours/sheet.png shows photos beside their contours, those that
    were left out first.
    """
    if strict and max_bad is not None:
        raise UserError("give one of --strict and --max-bad", exit_code=2)
    if strict or max_bad is not None:
        flags = flags.with_key(f"data.max_bad={0 if strict else max_bad}")
    stage_command("contours", flags)


def finetune_guide(flags: StageFlags) -> None:
    """Train and calibrate the guide classifier."""
    stage_command("finetune-guide", flags)


def filter_(flags: StageFlags, arm: ArmFlag = None) -> None:
    """Choose which of the pictures of each arm may train.

    Rejected ones stay on disk; their reasons and measures are in filter/ARM/selection.jsonl.
    """
    stage_command("filter", flags, arms=arm or ())


def train_downstream(
    flags: StageFlags,
    synthetic: Annotated[
        list[str] | None,
        typer.Option(
            help="One more arm: real + the pictures of this folder of class folders.",
            metavar="[NAME=]DIR",
        ),
    ] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(
            help="Train only this arm; `real` alone needs no synthetic pictures.", metavar="NAME"
        ),
    ] = None,
) -> None:
    """Train without and with the new pictures."""
    given = {"synthetic": synthetic, "arms": arm}
    options = {name: value for name, value in given.items() if value}
    stage_command("train-downstream", flags, None, **options)


def report(flags: StageFlags) -> None:
    """Write tables, pictures and a verdict.

    Markdown, CSV, LaTeX and one HTML page.
    """
    stage_command("report", flags)


def stage_command(
    stage: str, flags: StageFlags, how: Mapping[str, object] | None = None, **options: Any
) -> None:
    """Run a stage unless it is fresh, or describe it with --dry-run.

    `how` changes how the work is done, never its result. Exit code 3: done, with failed items.
    """
    ctx = flags.context(flags.quiet, flags.force)
    with stdout_for_result(flags.as_json):
        from higfa_cli.stages import pipeline

        if flags.dry_run:
            described = pipeline.describe(ctx, stage, **options)
        else:
            row = pipeline.step(ctx, stage, how, **options)
    if flags.dry_run:
        title = f"{stage}: {described['kind']} (dry run, nothing written)"
        print_result(title, described, flags.as_json)
        return
    title, folder = f"{stage}: {row['directory']} ({row['seconds']:.1f} s)", row["directory"]
    if flags.as_json:
        print_result(title, row, as_json=True)
    elif row["action"] == "skipped":
        print_line(f"{stage} is fresh in {folder}: nothing to do (--force runs it)")
    else:
        print_result(title, row["summary"], as_json=False)
    exit_with_failures([row])


def exit_with_failures(rows: Sequence[StepRow]) -> None:
    """Leave with exit code 3 where a stage that ran now has failed items."""
    summaries = [row["summary"] for row in rows]
    arms = [arm for summary in summaries for arm in summary.values() if isinstance(arm, Mapping)]
    if any(counts.get("failed") for counts in (*summaries, *arms)):
        raise typer.Exit(WITH_FAILURES)
