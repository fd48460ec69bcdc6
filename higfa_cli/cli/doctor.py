"""`higfa doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from higfa_cli.cli.options import Choice, RecipeFlags
from higfa_cli.errors import UserError

if TYPE_CHECKING:
    from higfa_cli.stages.context import Context

_MARKS = {"ok": "ok", "failed": "FAILED", "warning": "warning"}
_FETCH_FIRST = "not done: model files are missing"


def command(
    flags: RecipeFlags,
    self_check: Annotated[
        bool,
        typer.Option("--self-check", help="Also load the model and draw a little with it."),
    ] = False,
) -> None:
    """Say before any work what is missing.

    Data, model files, device and dtype, memory, disk, time, and the next command. Exit code 1 if
    a check failed. Asks no network.
    """
    from higfa_cli.cli.output import print_json, stdout_for_result

    choice = flags.choice
    with stdout_for_result(flags.as_json):
        result = _examine(choice, self_check, quiet=flags.as_json)
    if flags.as_json:
        print_json(result)
    else:
        _show(result)
    if not result["ok"]:
        raise typer.Exit(1)


def _examine(choice: Choice, self_check: bool, quiet: bool) -> dict[str, Any]:
    try:
        ctx = choice.context(quiet)
    except UserError as error:
        row = {"check": "recipe", "status": "failed", "detail": str(error), "remedy": ""}
        return {"ok": False, "checks": [row], "missing_files": [], "next": None}
    from higfa_cli.forecast.doctor import doctor

    result = doctor(ctx, choice.words)
    return _with_self_check(ctx, result) if self_check else result


def _with_self_check(ctx: Context, result: dict[str, Any]) -> dict[str, Any]:
    from dataclasses import asdict

    from higfa_cli.forecast.doctor import failed
    from higfa_cli.forecast.findings import Row
    from higfa_cli.forecast.self_check import self_check

    if result["missing_files"]:
        row = Row("self-check", "failed", _FETCH_FIRST, "fetch them first")
        more = {"checks": [asdict(row)]}
    else:
        ctx.progress.note("drawing a few guided steps ...")
        try:
            more = self_check(ctx)
        except Exception as error:
            more = {"checks": [asdict(failed("self-check", error))]}
    healthy = result["ok"] and all(row["status"] != "failed" for row in more["checks"])
    return result | {"ok": healthy, "self_check": more}


def _show(result: dict[str, Any]) -> None:
    from higfa_cli.cli.output import print_line

    more = result.get("self_check", {})
    _show_rows(result["checks"])
    _show_rows(more.get("checks", []))
    if result["missing_files"]:
        _show_missing(result["missing_files"])
    if "block" in more:
        print_line(more["block"])
    if result["next"]:
        print_line(f"next: {result['next']}")


def _show_rows(rows: list[dict[str, str]]) -> None:
    """One line per check, and the remedy below it where it is not ok."""
    from higfa_cli.cli.output import print_line

    width = max((len(row["check"]) for row in rows), default=0)
    for row in rows:
        print_line(f"{_MARKS[row['status']]:<8} {row['check']:<{width}}  {row['detail']}")
        if row["remedy"]:
            print_line(f"{'':8} {'':{width}}  -> {row['remedy']}")


def _show_missing(missing: list[dict[str, Any]]) -> None:
    """Counts per repository, then the commands, each of which can be pasted."""
    from higfa_cli.cli.output import print_line
    from higfa_cli.forecast.model_files import FOLDER, MissingFile, by_repository
    from higfa_cli.forecast.repository import ENTIRE_REPOSITORY
    from higfa_cli.text import plural

    rows = [MissingFile(**row) for row in missing]
    print_line("missing:")
    for (repo, revision), files in by_repository(rows).items():
        counted = f"{plural(len(files), 'file')} of"
        special = {ENTIRE_REPOSITORY: "the whole of", FOLDER: "no folder"}
        at = f" at {revision[:12]}" if revision else ""
        print_line(f"  {special.get(files[0], counted)} {repo}{at}")
    print_line("what to do:")
    # One command fetches all files of a repository.
    for row in {(row.remark, row.remedy): row for row in rows}.values():
        if row.remark:
            print_line(f"# {row.remark}")
        print_line(row.remedy if row.is_command else f"# {row.remedy}")
