"""`higfa status`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from higfa_cli.cli.options import RecipeFlags

if TYPE_CHECKING:
    from higfa_cli.stages.summaries import StatusRow


def command(flags: RecipeFlags) -> None:
    """Say what is fresh, stale or missing.

    Prints the reasons and the next command to type.
    """
    from higfa_cli.cli.output import print_json, print_line, print_table, stdout_for_result

    choice = flags.choice
    ctx = choice.context()
    with stdout_for_result(flags.as_json):
        from higfa_cli.stages import pipeline

        rows = pipeline.status(ctx)
    following = pipeline.next_command(rows, choice.words)
    if flags.as_json:
        print_json({"workspace": str(ctx.workspace), "stages": rows, "next": following})
        return
    print_line(f"workspace: {ctx.workspace}")
    print_table(_readable(rows))
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
