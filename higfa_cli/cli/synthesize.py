"""`higfa synthesize`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from higfa_cli.cli.options import ArmFlag, StageFlags
from higfa_cli.cli.output import print_result, stdout_for_result
from higfa_cli.cli.stage import stage_command
from higfa_cli.errors import UserError
from higfa_cli.text import duration, gib, plural, roughly

if TYPE_CHECKING:
    from pydantic import JsonValue

_PROMPT_SHOWN = 60


def command(
    flags: StageFlags,
    arm: ArmFlag = None,
    preview: Annotated[
        int | None,
        typer.Option(min=1, help="Draw only a contact sheet of N pictures per arm.", metavar="N"),
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(
            help="Draw only a strip of the same seeds over values of a recipe key, of one arm.",
            metavar="KEY=V1,V2,...",
        ),
    ] = None,
    compile_: Annotated[
        bool, typer.Option("--compile", help="Same as --set run.memory.compile=true.")
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(
            help="Draw part I of N (from 0), beside other processes that draw the others.",
            metavar="I/N",
        ),
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option(help="Have N shards drawn side by side; auto: one per GPU.", metavar="N|auto"),
    ] = None,
    engine: Annotated[
        str, typer.Option(help="What starts them: local (processes of this machine).")
    ] = "local",
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Draw batches with failed pictures again.")
    ] = False,
) -> None:
    """Draw pictures under hierarchical guidance.

    Text, contour and classifier guidance, modulated by the classifier's confidence. Each arm of
    the recipe is drawn from the same contours and seeds.
    """
    how = _how(shard, workers, engine, retry_failed)
    if compile_:
        flags = flags.with_key("run.memory.compile=true")
    variants = sum((preview is not None, sweep is not None, flags.dry_run))
    if variants > 1:
        raise UserError("give one of --preview, --sweep and --dry-run", exit_code=2)
    if variants and how:
        raise UserError(
            "--shard, --workers and --retry-failed go with drawing the whole plan alone",
            exit_code=2,
        )
    if not variants:
        stage_command("synthesize", flags, how, arms=arm or ())
        return
    key, values = ("", []) if sweep is None else _parse_sweep(sweep)
    # Notes of a dry run only bridge the silence.
    ctx = flags.context(flags.quiet or (flags.dry_run and flags.as_json), flags.force)
    with stdout_for_result(flags.as_json):
        if flags.dry_run:
            from higfa_cli.forecast.dry_run import dry_run

            title, result = "dry run", dry_run(ctx, arm or ())
        else:
            from higfa_cli.recipe.arms import main_arm
            from higfa_cli.stages import preview as sheets

            arms = tuple(ctx.recipe.arms)
            if preview is not None:
                title, result = "preview", sheets.preview(ctx, preview, arm or arms)
            else:
                title, result = "sweep", sheets.sweep(ctx, key, values, arm or [main_arm(arms)])
    shown = result if flags.as_json or not flags.dry_run else _readable(result)
    print_result(f"synthesize, {title}:", shown, flags.as_json)


def _how(
    shard: str | None, workers: str | None, engine: str, retry_failed: bool
) -> dict[str, object]:
    """Who draws. Raises UserError (exit code 2) for what cannot go together."""
    if shard is not None and (workers is not None or retry_failed):
        raise UserError(
            "--shard goes without --workers and --retry-failed: other processes work in the same "
            "folder",
            exit_code=2,
        )
    how: dict[str, object] = {}
    if shard is not None:
        numbers = re.fullmatch("([0-9]{1,6})/([0-9]{1,6})", shard)
        if numbers is None or int(numbers[1]) >= int(numbers[2]):
            raise UserError(
                f"--shard {shard}: write I/N with I from 0 to N - 1, for example 0/2", exit_code=2
            )
        how["shard"] = int(numbers[1]), int(numbers[2])
    if workers is not None:
        if not re.fullmatch("auto|[1-9][0-9]{0,5}", workers):
            raise UserError(f"--workers {workers}: write a number from 1, or auto", exit_code=2)
        how |= {"workers": workers if workers == "auto" else int(workers), "engine": engine}
    if retry_failed:
        how["retry_failed"] = True
    return how


def _parse_sweep(sweep: str) -> tuple[str, list[JsonValue]]:
    from higfa_cli.recipe.keys import check_key, parse_value

    flag = f"--sweep {sweep}"
    key, equals, text = (part.strip() for part in sweep.partition("="))
    values = [value.strip() for value in text.split(",")]
    if not equals or not all(values):
        raise UserError(f"{flag}: write KEY=VALUE,VALUE,...", exit_code=2)
    check_key(key, flag)
    return key, [parse_value(key, value, flag) for value in values]


def _readable(result: Mapping[str, object]) -> dict[str, object]:
    """A dry run's numbers in units for people."""
    from higfa_cli.forecast.estimate import ALLOWANCE

    shown: dict[str, object] = {}
    for key, value in result.items():
        match key, value:
            case "estimated_memory_bytes", int():
                size, counted = result["batch_size"], "1 picture (batch size auto)"
                if isinstance(size, int):
                    counted = plural(size, "picture")
                room = f"{gib(value)} for {counted}, plus {roughly(ALLOWANCE)} on a GPU"
                shown["estimated_memory"] = room
            case "estimated_memory_bytes", _:
                shown["estimated_memory"] = None
            case "estimated_seconds", _:
                shown["estimated_time"] = duration(value) if isinstance(value, float) else None
            case _, None | []:
                continue
            case "arms", dict():
                batch = {"batch_size": result["batch_size"]}
                shown[key] = {arm: _readable(row | batch) for arm, row in value.items()}
            case "first", list():
                shown[key] = [_first(row) for row in value]
            case _, float():
                shown[key] = f"{value:.3g}"
            case _, int():
                shown[key] = f"{value:,}"
            case _:
                shown[key] = value
    return shown


def _first(row: Mapping[str, str]) -> dict[str, str]:
    prompt = row["prompt"]
    if len(prompt) > _PROMPT_SHOWN:
        prompt = prompt[:_PROMPT_SHOWN] + " ..."
    return {key: row[key] for key in ("id", "class", "source")} | {"prompt": prompt}
