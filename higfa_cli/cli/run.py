"""`higfa run` and `higfa status`: all stages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from higfa_cli.cli.options import DeviceFlags, StageFlags
from higfa_cli.cli.output import print_json, print_line, print_table, stdout_for_result
from higfa_cli.cli.stage import exit_with_failures

if TYPE_CHECKING:
    from higfa_cli.stages.context import Context
    from higfa_cli.stages.table import StatusRow


def run(
    flags: StageFlags,
    first: Annotated[
        str, typer.Option("--from", help="First stage to run.", metavar="STAGE")
    ] = "contours",
    last: Annotated[
        str, typer.Option("--until", help="Last stage to run.", metavar="STAGE")
    ] = "report",
) -> None:
    """Run all stages in order, skipping what is fresh."""
    ctx = flags.context(flags.quiet, flags.force)
    if flags.dry_run:
        _show_intended(ctx, first, last, flags)
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


def _show_intended(ctx: Context, first: str, last: str, flags: StageFlags) -> None:
    """Which stages would run. Exit code 1 where the run would end at once."""
    with stdout_for_result(flags.as_json):
        from higfa_cli.stages import pipeline

        rows = pipeline.intended(ctx, first, last)
    if flags.as_json:
        print_json({"workspace": str(ctx.workspace), "stages": rows})
    else:
        print_line(f"workspace: {ctx.workspace} (dry run, nothing written)")
        print_table([row | {"reasons": "; ".join(row["reasons"])} for row in rows])
        print_line(f"pictures, memory, time: higfa synthesize {flags.words} --dry-run")
    if any(row["action"] == "fail" for row in rows):
        raise typer.Exit(1)


def status(flags: DeviceFlags) -> None:
    """Say what is fresh, stale or missing.

    Prints the reasons and the next command to type.
    """
    ctx = flags.context()
    with stdout_for_result(flags.as_json):
        from higfa_cli.stages import pipeline, table
        from higfa_cli.stages.context import photo_notes

        rows, notes = pipeline.status(ctx), photo_notes(ctx)
    following = table.next_command(rows, flags.words)
    if flags.as_json:
        told = {"stages": rows, "notes": notes, "next": following}
        print_json({"workspace": str(ctx.workspace)} | told)
        return
    print_line(f"workspace: {ctx.workspace}")
    print_table(_readable(rows))
    for note in notes:
        print_line(f"warning: {note}")
    if following:
        print_line(f"next: {following}")
    else:
        print_line(f"all fresh; the report is {ctx.ws.report.page}")


def _readable(rows: list[StatusRow]) -> list[dict[str, str]]:
    """The rows for people; a reason that stops several stages stands at the first of them."""
    shown = []
    before: set[str] = set()
    for row in rows:
        reasons = "; ".join(row["reasons"])
        repeated = row["blocked"] and reasons in before
        before.add(reasons)
        text = "as above" if repeated else reasons
        shown.append({"stage": row["stage"], "state": row["state"], "reasons": text})
    return shown
