"""What the report depends on: results, pictures, and what the other stages' records say."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from higfa_cli.artifacts.artifact import A, parse
from higfa_cli.artifacts.fingerprint import hash_json, hash_tree
from higfa_cli.artifacts.records import FilterCounts, RunRecord, SynthesisCounts
from higfa_cli.artifacts.stage_state import StageInputs, read_record
from higfa_cli.artifacts.workspace import StageFolder
from higfa_cli.errors import UserError
from higfa_cli.stages.context import Context

_SHOWN = ("torch", "diffusers", "transformers", "timm")


def report_inputs(ctx: Context) -> StageInputs:
    """What the report depends on. Raises UserError when the downstream results are missing."""
    ws = ctx.ws
    if not ws.downstream.results.is_file():
        raise UserError(
            f"{ws.downstream.results} is missing; run first: higfa train-downstream RECIPE"
        )
    predictions = ws.downstream.all_predictions()
    files = {
        ws.name(ws.downstream.results): hash_tree(ws.downstream.results),
        ws.name(ws.downstream.arms): hash_json([(ws.name(p), hash_tree(p)) for p in predictions]),
    }
    optional = [
        ws.contours.manifest,
        ws.contours.rejected,
        *([ws.guide.calibration] if is_guided(ctx) else []),
    ]
    for arm in map(ws.arm, ctx.recipe.drawn):
        # The metadata hold every picture's own hash.
        optional += [arm.synthesize.metadata, arm.synthesize.traces, arm.synthesize.sources]
        optional.append(arm.filter.selection)
    files |= {ws.name(path): hash_tree(path) for path in optional if path.exists()}
    parameters = {
        "version": 2,
        "recipe": ctx.recipe.model_dump(
            mode="json", exclude={"workspace": True, "run": {"device"}}
        ),
        "commands": list(commands(ctx)),
        "versions": versions(ctx),
        "drawn": {
            name: [cost and cost.plain(), device, filtered and filtered.plain()]
            for name, (cost, device, filtered) in counts_of_arms(ctx).items()
        },
    }
    return StageInputs(parameters=parameters, files=files)


def is_guided(ctx: Context) -> bool:
    """Whether any arm consults the guide."""
    return any(ctx.recipe.arm(name).guidance.consulted for name in ctx.recipe.arms)


def commands(ctx: Context) -> tuple[str, ...]:
    """The distinct command lines that ran the stages, in their order; none if run from Python."""
    lines = []
    for record in _records(ctx):
        program, *arguments = record.argv or ("",)
        if Path(program).name in ("higfa", "higfa.exe", "__main__.py"):
            lines.append(shlex.join(["higfa", *arguments]))
    return tuple(dict.fromkeys(lines))


def versions(ctx: Context) -> dict[str, str]:
    """Library -> version; several where stages ran with different ones."""
    met: dict[str, dict[str, None]] = {}
    for record in _records(ctx):
        shown = {"higfa": record.higfa, "Python": record.python}
        shown |= {name: record.libraries[name] for name in _SHOWN if name in record.libraries}
        for name, version in shown.items():
            met.setdefault(name, {})[version] = None
    return {name: ", ".join(several) for name, several in met.items()}


def counts_of_arms(
    ctx: Context,
) -> dict[str, tuple[SynthesisCounts | None, str, FilterCounts | None]]:
    """Arm -> what was counted while it was drawn, on which device ("" where it was not), and
    while it was filtered.
    """
    counted = {}
    for name in ctx.recipe.arms:
        drawn, chosen = ctx.ws.arm(name).synthesize, ctx.ws.arm(name).filter
        device = read_record(drawn.directory).device if drawn.record.is_file() else ""
        counted[name] = (_counts(drawn, SynthesisCounts), device, _counts(chosen, FilterCounts))
    return counted


def _counts(files: StageFolder, model: type[A]) -> A | None:
    if not files.record.is_file():
        return None
    record = read_record(files.directory)
    return parse(record.counts, model, files.record) if record.status == "done" else None


def _records(ctx: Context) -> Iterator[RunRecord]:
    arms = [ctx.ws.arm(name) for name in ctx.recipe.drawn]
    folders: list[StageFolder] = [ctx.ws.contours, ctx.ws.guide]
    folders += [*(arm.synthesize for arm in arms), *(arm.filter for arm in arms)]
    for files in (*folders, ctx.ws.downstream):
        if files.record.is_file():
            yield read_record(files.directory)
