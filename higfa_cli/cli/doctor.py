"""`higfa doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from higfa_cli.cli.options import (
    Choice,
    DatasetFlag,
    DeviceFlag,
    JsonFlag,
    RecipeFlag,
    SetFlag,
    WorkspaceFlag,
    choose,
)
from higfa_cli.errors import UserError

if TYPE_CHECKING:
    from higfa_cli.stages.context import Context

_MARKS = {True: "ok", False: "FAILED", "warning": "warning"}


def command(
    positional: Annotated[
        str | None, typer.Argument(help="Recipe file or built-in name.", metavar="[RECIPE]")
    ] = None,
    recipe: RecipeFlag = None,
    dataset: DatasetFlag = None,
    set_: SetFlag = None,
    workspace: WorkspaceFlag = None,
    device: DeviceFlag = None,
    self_check: Annotated[
        bool,
        typer.Option("--self-check", help="Also load the model and draw a little with it."),
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Say before any work what is missing.

    Data, model files, device and dtype, memory, disk, time, and the next command. Exit code 1 if
    a check failed. Asks no network.
    """
    from higfa_cli.cli.output import print_json, stdout_for_result

    choice = choose(recipe, dataset, set_, workspace, device, positional=positional)
    with stdout_for_result(as_json):
        result = _examine(choice, self_check)
    if as_json:
        print_json(result)
    else:
        _show(result)
    if not result["ok"]:
        raise typer.Exit(1)


def _examine(choice: Choice, self_check: bool) -> dict[str, Any]:
    try:
        ctx = choice.context()
    except UserError as error:
        row = {"check": "recipe", "ok": False, "detail": str(error), "remedy": ""}
        return {"ok": False, "checks": [row], "missing_files": [], "next": None}
    from higfa_cli.stages.doctor import doctor

    result = doctor(ctx, choice.flags)
    return _with_self_check(ctx, result) if self_check else result


def _with_self_check(ctx: Context, result: dict[str, Any]) -> dict[str, Any]:
    from dataclasses import asdict

    from higfa_cli.stages.doctor import Row, failed
    from higfa_cli.stages.self_check import self_check

    if result["missing_files"]:
        row = Row("self-check", False, "not done: model files are missing", "fetch them first")
        more: dict[str, Any] = {"checks": [asdict(row)]}
    else:
        try:
            more = self_check(ctx)
        except Exception as error:
            more = {"checks": [asdict(failed("self-check", error))]}
    healthy = result["ok"] and all(row["ok"] is not False for row in more["checks"])
    return result | {"ok": healthy, "self_check": more}


def _show(result: dict[str, Any]) -> None:
    from higfa_cli.cli.output import print_line, print_table

    more = result.get("self_check", {})
    rows = [*result["checks"], *more.get("checks", [])]
    print_table([{**row, "ok": _MARKS[row["ok"]]} for row in rows])
    if result["missing_files"]:
        print_line("missing files:")
        shown = ("repo", "revision", "file")
        print_table([{key: one[key] or "" for key in shown} for one in result["missing_files"]])
        for remedy in dict.fromkeys(one["remedy"] for one in result["missing_files"]):
            print_line(f"  {remedy}")
    if "block" in more:
        print_line(more["block"])
    if result["next"]:
        print_line(f"next: {result['next']}")
