"""`higfa doctor`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from higfa_cli.cli.options import DeviceFlags
from higfa_cli.cli.output import print_json, print_line, stdout_for_result
from higfa_cli.errors import UserError
from higfa_cli.text import plural

_MARKS = {"ok": "ok", "failed": "FAILED", "warning": "warning"}
Result = dict[str, Any]


def command(
    flags: DeviceFlags,
    self_check: Annotated[
        bool,
        typer.Option("--self-check", help="Also load the model and draw a little with it."),
    ] = False,
) -> None:
    """Say before any work what is missing.

    Data, model files, device and dtype, memory, disk, time, and the next command. Exit code 1 if
    a check failed. Asks no network.
    """
    with stdout_for_result(flags.as_json):
        result = _examine(flags, flags.words, self_check)
    if flags.as_json:
        print_json(result)
    else:
        _show(result)
    if not result["ok"]:
        raise typer.Exit(1)


def _examine(flags: DeviceFlags, words: str, self_check: bool) -> Result:
    try:
        ctx = flags.context(quiet=flags.as_json)
    except UserError as error:
        row = {"check": "recipe", "status": "failed", "detail": str(error), "remedy": ""}
        return {"ok": False, "checks": [row], "missing_files": [], "next": None}
    from higfa_cli.forecast.doctor import doctor, failed
    from higfa_cli.forecast.findings import Row

    result = doctor(ctx, words)
    if not self_check:
        return result
    if result["missing_files"]:
        lacking = Row(
            "self-check", "failed", "not done: model files are missing", "fetch them first"
        )
        more: Result = {"checks": [asdict(lacking)]}
    else:
        ctx.progress.note("drawing a few guided steps ...")
        try:
            from higfa_cli.forecast import self_check as checking

            more = checking.self_check(ctx)
        except Exception as error:
            more = {"checks": [asdict(failed("self-check", error))]}
    healthy = result["ok"] and all(row["status"] != "failed" for row in more["checks"])
    return result | {"ok": healthy, "self_check": more}


def _show(result: Result) -> None:
    more = result.get("self_check", {})
    _show_rows(result["checks"])
    _show_rows(more.get("checks", []))
    if result["missing_files"]:
        _show_missing(result["missing_files"])
    if "block" in more:
        print_line(more["block"])
    if result["next"]:
        print_line(f"next: {result['next']}")


def _show_rows(rows: Sequence[dict[str, str]]) -> None:
    """One line per check, and the remedy below it where it is not ok."""
    width = max((len(row["check"]) for row in rows), default=0)
    for row in rows:
        print_line(f"{_MARKS[row['status']]:<8} {row['check']:<{width}}  {row['detail']}")
        if row["remedy"]:
            print_line(f"{'':8} {'':{width}}  -> {row['remedy']}")


def _show_missing(missing: Sequence[Result]) -> None:
    """Counts per repository, then the commands, each of which can be pasted."""
    from higfa_cli.forecast.model_files import FOLDER, MissingFile, by_repository
    from higfa_cli.forecast.repository import ENTIRE_REPOSITORY

    rows = [MissingFile(**row) for row in missing]
    # A folder that is here and is no model is said below.
    absent = [row for row in rows if row.file != FOLDER or row.remedy.startswith("no folder")]
    if absent:
        print_line("missing:")
    for (repo, revision), files in by_repository(absent).items():
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
