"""`higfa synthesize`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from higfa_cli.cli.options import ArmFlag, StageFlags
from higfa_cli.cli.stage import show_result, stage_command
from higfa_cli.errors import UserError
from higfa_cli.text import duration, gib, plural, roughly

if TYPE_CHECKING:
    from higfa_cli.stages.context import Context

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
    how = _how(shard, workers, engine, retry_failed, flags)
    if compile_:
        flags = replace(flags, set_=[*(flags.set_ or []), "run.memory.compile=true"])
    variants = sum((preview is not None, sweep is not None, flags.dry_run))
    if variants > 1:
        raise UserError("give one of --preview, --sweep and --dry-run", exit_code=2)
    if variants and how:
        raise UserError(
            "--shard, --workers and --retry-failed go with drawing the whole plan alone",
            exit_code=2,
        )
    if preview is not None:
        _sheet("preview", flags, lambda ctx: _preview(ctx, preview, arm))
    elif sweep is not None:
        key, values = _parse_sweep(sweep)
        _sheet("sweep", flags, lambda ctx: _sweep(ctx, key, values, arm))
    elif flags.dry_run:
        _dry_run(flags, arm or ())
    else:
        stage_command("synthesize", flags, how, arms=arm or ())


def _how(
    shard: str | None, workers: str | None, engine: str, retry_failed: bool, flags: StageFlags
) -> dict[str, object]:
    """Who draws. Raises UserError (exit code 2) for what cannot go together."""
    if shard is not None and (workers is not None or retry_failed or flags.force):
        raise UserError(
            "--shard goes without --workers, --retry-failed and --force: other processes work in "
            "the same folder",
            exit_code=2,
        )
    how: dict[str, object] = {}
    if shard is not None:
        how["shard"] = _parse_shard(shard)
    if workers is not None:
        how |= {"workers": _parse_workers(workers), "engine": engine}
    if retry_failed:
        how["retry_failed"] = True
    return how


def _parse_shard(text: str) -> tuple[int, int]:
    index, slash, count = text.partition("/")
    if not (slash and _is_number(index) and _is_number(count) and int(index) < int(count)):
        raise UserError(
            f"--shard {text}: write I/N with I from 0 to N - 1, for example 0/2", exit_code=2
        )
    return int(index), int(count)


def _parse_workers(text: str) -> int | str:
    if text != "auto" and not (_is_number(text) and int(text) > 0):
        raise UserError(f"--workers {text}: write a number from 1, or auto", exit_code=2)
    return text if text == "auto" else int(text)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 7


def _sheet(name: str, flags: StageFlags, draw: Callable[[Context], Mapping[str, object]]) -> None:
    from higfa_cli.cli.output import stdout_for_result

    ctx = flags.choice.context(flags.quiet, flags.force)
    with stdout_for_result(flags.as_json):
        result = draw(ctx)
    show_result(f"synthesize, {name}:", result, flags)


def _preview(ctx: Context, count: int, arms: list[str] | None) -> Mapping[str, object]:
    from higfa_cli.stages.preview import preview

    return preview(ctx, count, arms or tuple(ctx.recipe.arms))


def _sweep(
    ctx: Context, key: str, values: Sequence[Any], arms: list[str] | None
) -> Mapping[str, object]:
    from higfa_cli.recipe.arms import main_arm
    from higfa_cli.stages.preview import sweep

    return sweep(ctx, key, values, arms or [main_arm(tuple(ctx.recipe.arms))])


def _dry_run(flags: StageFlags, arms: Sequence[str]) -> None:
    from higfa_cli.cli.output import stdout_for_result

    # Notes only bridge the silence.
    ctx = flags.choice.context(flags.quiet or flags.as_json, flags.force)
    with stdout_for_result(flags.as_json):
        from higfa_cli.forecast.dry_run import dry_run

        result = dry_run(ctx, arms)
    shown = result if flags.as_json else _readable(result)
    show_result("synthesize, dry run:", shown, flags)


def _readable(result: Mapping[str, Any]) -> dict[str, object]:
    """A dry run's numbers in units for people."""

    shown: dict[str, object] = {}
    for key, value in result.items():
        if key == "estimated_memory_bytes":
            shown["estimated_memory"] = _memory(value, result["batch_size"])
        elif key == "estimated_seconds":
            shown["estimated_time"] = None if value is None else duration(value)
        elif value is None or value == []:
            continue
        elif key == "arms":
            shown[key] = {
                arm: _readable(row | {"batch_size": result["batch_size"]})
                for arm, row in value.items()
            }
        elif key == "first":
            shown[key] = [_first(row) for row in value]
        elif isinstance(value, float):
            shown[key] = f"{value:.3g}"
        elif isinstance(value, int):
            shown[key] = f"{value:,}"
        else:
            shown[key] = value
    return shown


def _memory(size: int | None, batch: int | str) -> str | None:
    from higfa_cli.forecast.estimate import ALLOWANCE

    if size is None:
        return None
    pictures = (
        f"1 picture (batch size {batch})" if batch == "auto" else plural(int(batch), "picture")
    )
    return f"{gib(size)} for {pictures}, plus {roughly(ALLOWANCE)} on a GPU"


def _first(row: Mapping[str, str]) -> dict[str, str]:
    prompt = row["prompt"]
    if len(prompt) > _PROMPT_SHOWN:
        prompt = prompt[:_PROMPT_SHOWN] + " ..."
    return {key: row[key] for key in ("id", "class", "source")} | {"prompt": prompt}


def _parse_sweep(sweep: str) -> tuple[str, list[Any]]:
    from higfa_cli.recipe.overrides import check_key, parse_value

    flag = f"--sweep {sweep}"
    key, equals, text = sweep.partition("=")
    values = [value.strip() for value in text.split(",")]
    if not equals or not all(values):
        raise UserError(f"{flag}: write KEY=VALUE,VALUE,...", exit_code=2)
    check_key(key.strip(), flag)
    return key.strip(), [parse_value(key.strip(), value, flag) for value in values]
