"""Stage `report`: reads what the other stages wrote, and writes tables and the page."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from higfa_cli.artifacts.artifact import A, parse, read_model, read_rows
from higfa_cli.artifacts.atomic import write_text
from higfa_cli.artifacts.fingerprint import hash_json, hash_tree
from higfa_cli.artifacts.records import FilterCounts, ReportCounts, RunRecord, SynthesisCounts
from higfa_cli.artifacts.results import Calibration, Results
from higfa_cli.artifacts.rows import ContourRow, PictureRow, TraceRow
from higfa_cli.artifacts.run_record import StageInputs, stage_run
from higfa_cli.artifacts.safe_paths import contained
from higfa_cli.artifacts.stage_state import read_record
from higfa_cli.artifacts.workspace import StageFolder, SynthesizeFolder
from higfa_cli.data.images import encode_png, fit_inside, read_image
from higfa_cli.errors import UserError
from higfa_cli.recipe.arms import GALLERY, main_arm
from higfa_cli.report.figures import read_curves
from higfa_cli.report.page import (
    LABELS,
    DrawnArm,
    Exhibit,
    Material,
    Picture,
    page_context,
    render_html,
    render_markdown,
)
from higfa_cli.report.stats import Prediction
from higfa_cli.report.tables import arms_csv, csv_text, latex_table
from higfa_cli.stages.context import Context

NAME = "report"
VERSION = 2
_SHOWN = ("torch", "diffusers", "transformers", "timm")
# Twice the width of a gallery cell on a wide screen; larger pictures only make the page heavy.
LONGEST_SIDE = 400


def inputs(ctx: Context, **options: Any) -> StageInputs:
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
        *([ws.guide.calibration] if _is_guided(ctx) else []),
    ]
    for arm in map(ws.arm, ctx.recipe.drawn):
        # The metadata hold every picture's own hash.
        optional += [arm.synthesize.metadata, arm.synthesize.traces, arm.synthesize.sources]
        optional.append(arm.filter.selection)
    files |= {ws.name(path): hash_tree(path) for path in optional if path.exists()}
    parameters = {
        "version": VERSION,
        "recipe": ctx.recipe.model_dump(
            mode="json", exclude={"workspace": True, "run": {"device"}}
        ),
        "commands": list(_commands(ctx)),
        "versions": _versions(ctx),
        "drawn": {
            arm.name: [
                arm.cost and arm.cost.plain(),
                arm.device,
                arm.filtered and arm.filtered.plain(),
            ]
            for arm in _drawn(ctx)
        },
    }
    return StageInputs(parameters=parameters, files=files)


def run(ctx: Context, **options: Any) -> Mapping[str, object]:
    """Write report.html, report.md, results.csv and results.tex; returns the verdict.

    Raises UserError: results missing, or artifacts that contradict one another.
    """
    stage_inputs = inputs(ctx)
    # Everything is read and rendered before the folder is touched: bad input leaves no trace.
    context, files = page_context(read_material(ctx)), ctx.ws.report
    texts = {
        files.page: render_html(context),
        files.markdown: render_markdown(context),
        files.csv: arms_csv(context["arms"]),
        files.latex: latex_table(context["arms_table"]),
    }
    with stage_run(files.directory, stage_inputs, ctx.recipe) as record:
        for path, text in texts.items():
            write_text(path, text)
            record.output(path)
        record.counts = ReportCounts(arms=len(context["arms"]), gallery=len(context["gallery"]))
    headline = context["headline"]
    return {
        "verdict": headline.word,
        "sentence": headline.sentence,
        "arms": len(context["arms"]),
        "page": str(files.page),
    }


def read_material(ctx: Context) -> Material:
    """All that the page shows, from the workspace; absent optional artifacts stay empty."""
    ws, results = ctx.ws, read_model(ctx.ws.downstream.results, Results)
    contours = _rows(ws.contours.manifest, ContourRow)
    main = ctx.recipe.arm(main_arm(tuple(ctx.recipe.arms)))
    failed = [
        row.id
        for name in ctx.recipe.arms
        for row in _rows(ws.arm(name).synthesize.failed, PictureRow)
    ]
    read_calibration = _is_guided(ctx) and ws.guide.calibration.is_file()
    return Material(
        recipe=ctx.recipe,
        results=results,
        predictions=_predictions(ctx, results) if results.has_test else {},
        contours=len(contours),
        sources=len({row.source for row in contours}),
        calibration=read_model(ws.guide.calibration, Calibration) if read_calibration else None,
        gallery=_gallery(ctx),
        curves=read_curves(_finished(ws.arm(*main.arms).synthesize)),
        failed=len(failed),
        guided=main.guidance.consulted,
        drawn=_drawn(ctx),
        commands=_commands(ctx) or ("higfa run RECIPE",),
        versions=_versions(ctx),
    )


def _is_guided(ctx: Context) -> bool:
    return any(ctx.recipe.arm(name).guidance.consulted for name in ctx.recipe.arms)


def _finished(files: SynthesizeFolder) -> Iterator[TraceRow]:
    """The traces of finished pictures, one batch in memory at a time."""
    for path in files.all_traces():
        yield from (row for row in read_rows(path, TraceRow) if row.error is None)


def _rows(path: Path, model: type[A]) -> list[A]:
    return read_rows(path, model) if path.is_file() else []


def _predictions(ctx: Context, results: Results) -> dict[str, dict[int, tuple[Prediction, ...]]]:
    """Arm name -> seed -> the test photos as that classifier saw them."""
    files = ctx.ws.downstream
    return {
        arm.name: {
            run.seed: _read_predictions(files.training(arm.name, run.seed).predictions)
            for run in arm.runs
        }
        for arm in results.arms
    }


def _read_predictions(path: Path) -> tuple[Prediction, ...]:
    remedy = "train again: higfa train-downstream RECIPE --force"
    try:
        with path.open(newline="", encoding="utf-8") as handle:
            rows = list(csv.DictReader(handle))
        columns = ("key", "true", "predicted")
        return tuple(Prediction(*(csv_text(row[name]) for name in columns)) for row in rows)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {remedy}") from None
    except (KeyError, AttributeError, UnicodeDecodeError, csv.Error):
        raise UserError(f"{path} is not a CSV of key,true,predicted,confidence; {remedy}") from None


def _gallery(ctx: Context) -> tuple[Exhibit, ...]:
    """The gallery's pictures beside those that every drawn arm has of them."""
    files, contours = ctx.ws.arm(GALLERY).synthesize, ctx.ws.contours
    rows = _rows(files.metadata, PictureRow) if ctx.recipe.pictures.gallery else []
    shown = {row.id for row in rows}
    confidence = {
        name: {
            row.id: row.confidence
            for row in _rows(ctx.ws.arm(name).synthesize.metadata, PictureRow)
            if row.id in shown
        }
        for name in ctx.recipe.arms
        if ctx.ws.arm(name).synthesize.metadata.is_file()
    }
    main = main_arm(tuple(confidence)) if confidence else None
    exhibits = []
    for row in rows:
        if not all(row.id in arm for arm in confidence.values()):
            continue
        photo = contained(files.sources, f"{row.id}.png", files.metadata)
        contour = contained(contours.directory, row.contour, files.metadata)
        pictures = [
            _picture(ctx, photo, "real photo"),
            _picture(ctx, contour, "transformed contour"),
        ]
        for name in (GALLERY, *confidence):
            arm = ctx.ws.arm(name).synthesize
            path = contained(arm.images, row.file_name, files.metadata)
            pictures.append(_picture(ctx, path, LABELS.get(name, name), name == main))
        sure = confidence[main][row.id] if main else None
        exhibits.append(Exhibit(row.id, row.cls, sure, tuple(pictures)))
    return tuple(exhibits)


def _picture(ctx: Context, path: Path, label: str, ours: bool = False) -> Picture:
    image = read_image(path)
    if max(image.shape[:2]) > LONGEST_SIDE:
        image = fit_inside(image, LONGEST_SIDE)
    return Picture(label, encode_png(image), f"../{ctx.ws.name(path)}", ours)


def _drawn(ctx: Context) -> tuple[DrawnArm, ...]:
    """The recipe's arms, with what was counted while they were drawn and filtered."""
    return tuple(
        DrawnArm(
            name=name,
            changes=changes,
            cost=_counts(arm.synthesize, SynthesisCounts),
            device=_device(arm.synthesize),
            filtered=_counts(arm.filter, FilterCounts),
        )
        for name, changes in ctx.recipe.arms.items()
        for arm in (ctx.ws.arm(name),)
    )


def _counts(files: StageFolder, model: type[A]) -> A | None:
    if not files.record.is_file():
        return None
    record = read_record(files.directory)
    return parse(record.counts, model, files.record) if record.status == "done" else None


def _device(files: SynthesizeFolder) -> str:
    """What the pictures were drawn on; empty where nothing was drawn."""
    return read_record(files.directory).device if files.record.is_file() else ""


def _records(ctx: Context) -> Iterator[RunRecord]:
    arms = [ctx.ws.arm(name) for name in ctx.recipe.drawn]
    folders: list[StageFolder] = [ctx.ws.contours, ctx.ws.guide]
    folders += [*(arm.synthesize for arm in arms), *(arm.filter for arm in arms)]
    for files in (*folders, ctx.ws.downstream):
        if files.record.is_file():
            yield read_record(files.directory)


def _commands(ctx: Context) -> tuple[str, ...]:
    """The distinct command lines that ran the stages, in their order; none if run from Python."""
    lines = []
    for record in _records(ctx):
        program, *arguments = record.argv or ("",)
        if Path(program).name in ("higfa", "higfa.exe", "__main__.py"):
            lines.append(shlex.join(["higfa", *arguments]))
    return tuple(dict.fromkeys(lines))


def _versions(ctx: Context) -> dict[str, str]:
    """Library -> version; several where stages ran with different ones."""
    found: dict[str, dict[str, None]] = {}
    for record in _records(ctx):
        shown = {"higfa": record.higfa, "Python": record.python}
        shown |= {name: record.libraries[name] for name in _SHOWN if name in record.libraries}
        for name, version in shown.items():
            found.setdefault(name, {})[version] = None
    return {name: ", ".join(versions) for name, versions in found.items()}
