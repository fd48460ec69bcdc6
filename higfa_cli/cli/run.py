"""`higfa run`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from higfa_cli.cli.options import StageFlags

if TYPE_CHECKING:
    from higfa_cli.stages.context import Context


def command(
    flags: StageFlags,
    first: Annotated[
        str, typer.Option("--from", help="First stage to run.", metavar="STAGE")
    ] = "contours",
    last: Annotated[
        str, typer.Option("--until", help="Last stage to run.", metavar="STAGE")
    ] = "report",
) -> None:
    """Run all stages in order, skipping what is fresh."""
    from higfa_cli.cli.output import print_json, print_line, stdout_for_result
    from higfa_cli.cli.stage import exit_with_failures

    choice = flags.choice
    ctx = choice.context(flags.quiet, flags.force)
    if flags.dry_run:
        _show_intended(ctx, first, last, choice.words, flags.as_json)
        return
    rows = []
    with stdout_for_result(flags.as_json):
        from higfa_cli.stages import pipeline

        for row in pipeline.iter_stages(ctx, first, last):
            rows.append(row)
            did = "fresh, skipped" if row["action"] == "skipped" else f"{row['seconds']:.1f} s"
            print_line(f"{row['stage']:<18} {did}")
    page = ctx.ws.report.page
    seconds = round(sum(row["seconds"] for row in rows), 2)
    if flags.as_json:
        report = str(page) if page.is_file() else None
        print_json({"stages": rows, "seconds": seconds, "report": report})
    else:
        print_line(f"{'total':<18} {seconds:.1f} s")
        if page.is_file():
            print_line(f"report: {page}")
    exit_with_failures(rows)


def _show_intended(ctx: Context, first: str, last: str, words: str, as_json: bool) -> None:
    """Which stages would run. Exit code 1 where the run would end at once."""
    from higfa_cli.cli.output import print_json, print_line, print_table, stdout_for_result

    with stdout_for_result(as_json):
        from higfa_cli.stages import pipeline

        rows = pipeline.intended(ctx, first, last)
    if as_json:
        print_json({"workspace": str(ctx.workspace), "stages": rows})
    else:
        print_line(f"workspace: {ctx.workspace} (dry run, nothing written)")
        print_table([row | {"reasons": "; ".join(row["reasons"])} for row in rows])
        print_line(f"pictures, memory, time: higfa synthesize {words} --dry-run")
    if any(row["action"] == "fail" for row in rows):
        raise typer.Exit(1)
