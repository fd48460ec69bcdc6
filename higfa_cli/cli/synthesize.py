"""`higfa synthesize`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

import typer

from higfa_cli.cli.options import StageFlags
from higfa_cli.cli.stage import show_result, stage_command
from higfa_cli.errors import UserError


def command(
    flags: StageFlags,
    preview: Annotated[
        int | None,
        typer.Option(min=1, help="Draw only a contact sheet of N pictures.", metavar="N"),
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(
            help="Draw only a strip of the same seeds over values of a recipe key.",
            metavar="KEY=V1,V2,...",
        ),
    ] = None,
    compile_: Annotated[
        bool, typer.Option("--compile", help="Same as --set synthesize.memory.compile=true.")
    ] = False,
) -> None:
    """Draw pictures under hierarchical guidance.

    Text, contour and classifier guidance, modulated by the classifier's confidence.
    """
    if compile_:
        flags = replace(flags, set_=[*(flags.set_ or []), "synthesize.memory.compile=true"])
    if sum((preview is not None, sweep is not None, flags.dry_run)) > 1:
        raise UserError("give one of --preview, --sweep and --dry-run", exit_code=2)
    if preview is not None:
        _variant("preview", flags, count=preview)
    elif sweep is not None:
        key, values = _parse_sweep(sweep)
        _variant("sweep", flags, key=key, values=values)
    elif flags.dry_run:
        _variant("dry_run", flags)
    else:
        stage_command("synthesize", flags)


def _variant(action: str, flags: StageFlags, **options: Any) -> None:
    from higfa_cli.cli.output import stdout_for_result

    ctx = flags.choice.context(flags.quiet, flags.force)
    with stdout_for_result(flags.as_json):
        from higfa_cli.stages import pipeline

        result = pipeline.run_stage(ctx, "synthesize", action, **options)
        if action == "dry_run" and not flags.as_json:
            result = _readable(result)
    show_result(f"synthesize, {action.replace('_', ' ')}:", result, flags)


def _readable(result: Mapping[str, Any]) -> dict[str, Any]:
    """A dry run's numbers in units for people; what is not known stays out."""
    from higfa_cli.stages.estimate import duration, gib

    shown: dict[str, Any] = {}
    for key, value in result.items():
        if value is None or value == []:
            continue
        if key.endswith("_bytes"):
            shown[key.removesuffix("_bytes")] = gib(value)
        elif key.endswith("_seconds"):
            shown[key.replace("_seconds", "_time")] = duration(value)
        elif isinstance(value, float):
            shown[key] = f"{value:.3g}"
        elif isinstance(value, int):
            shown[key] = f"{value:,}"
        else:
            shown[key] = value
    return shown


def _parse_sweep(sweep: str) -> tuple[str, list[Any]]:
    from higfa_cli.recipe.overrides import check_key, parse_value

    flag = f"--sweep {sweep}"
    key, equals, text = sweep.partition("=")
    values = [value.strip() for value in text.split(",")]
    if not equals or not all(values):
        raise UserError(f"{flag}: write KEY=VALUE,VALUE,...", exit_code=2)
    check_key(key.strip(), flag)
    return key.strip(), [parse_value(key.strip(), value, flag) for value in values]
