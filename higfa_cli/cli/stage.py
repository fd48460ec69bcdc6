"""What the stage commands have in common: context -> one library call -> printed result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from higfa_cli.cli.options import StageFlags

if TYPE_CHECKING:
    from higfa_cli.stages.summaries import StepRow

WITH_FAILURES = 3


def stage_command(
    stage: str, flags: StageFlags, how: Mapping[str, object] | None = None, **options: Any
) -> None:
    """Run a stage unless it is fresh, or describe it with --dry-run.

    `how` changes how the work is done, never its result. Exit code 3: done, with failed items.
    """
    from higfa_cli.cli.output import stdout_for_result

    ctx = flags.choice.context(flags.quiet, flags.force)
    with stdout_for_result(flags.as_json):
        from higfa_cli.stages import pipeline

        if flags.dry_run:
            described = pipeline.describe(ctx, stage, **options)
        else:
            row = pipeline.step(ctx, stage, how, **options)
    if flags.dry_run:
        show_result(f"{stage}: {described['kind']} (dry run, nothing written)", described, flags)
    else:
        show_step(row, flags.as_json)
        exit_with_failures([row])


def exit_with_failures(rows: Sequence[StepRow]) -> None:
    """Leave with exit code 3 where a stage that ran now has failed items."""
    summaries = [row["summary"] for row in rows]
    arms = [arm for summary in summaries for arm in summary.values() if isinstance(arm, Mapping)]
    if any(counts.get("failed") for counts in (*summaries, *arms)):
        raise typer.Exit(WITH_FAILURES)


def show_step(result: StepRow, as_json: bool) -> None:
    """Print the result of `pipeline.step`."""
    from higfa_cli.cli.output import print_json, print_line, print_mapping

    if as_json:
        print_json(result)
    elif result["action"] == "skipped":
        print_line(
            f"{result['stage']} is fresh in {result['directory']}: nothing to do (--force runs it)"
        )
    else:
        print_line(f"{result['stage']}: {result['directory']} ({result['seconds']:.1f} s)")
        print_mapping(result["summary"])


def show_result(title: str, result: Mapping[str, object], flags: StageFlags) -> None:
    """Print any other result."""
    from higfa_cli.cli.output import print_json, print_line, print_mapping

    if flags.as_json:
        print_json(result)
    else:
        print_line(title)
        print_mapping(result)
