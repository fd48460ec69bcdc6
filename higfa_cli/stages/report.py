"""Stage `report`: reads what the other stages wrote, and writes tables and the page."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from higfa_cli.artifacts.artifact import A, parse, read_model, read_rows
from higfa_cli.artifacts.atomic import write_text
from higfa_cli.artifacts.fingerprint import hash_json, hash_tree
from higfa_cli.artifacts.records import FilterCounts, ReportCounts, RunRecord, SynthesisCounts
from higfa_cli.artifacts.results import Calibration, Results
from higfa_cli.artifacts.rows import ContourRow, GalleryRow, PictureRow, TraceRow
from higfa_cli.artifacts.run_record import StageInputs, stage_run
from higfa_cli.artifacts.safe_paths import contained
from higfa_cli.artifacts.stage_state import read_record
from higfa_cli.artifacts.workspace import StageFolder, SynthesizeFolder
from higfa_cli.data.images import encode_png, fit_inside, read_image
from higfa_cli.errors import UserError
from higfa_cli.report.figures import read_curves
from higfa_cli.report.page import (
    PICTURES,
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
from higfa_cli.stages.summaries import ReportSummary

NAME = "report"
VERSION = 1
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
        ws.synthesize.metadata,
        ws.synthesize.gallery,
        ws.synthesize.gallery_images,
        ws.synthesize.traces,
        ws.filter.selection,
        *([ws.guide.calibration] if ctx.recipe.guidance.consulted else []),
    ]
    files |= {ws.name(path): hash_tree(path) for path in optional if path.exists()}
    cost, filtered = _cost(ctx), _filtered(ctx)
    parameters = {
        "version": VERSION,
        "recipe": ctx.recipe.model_dump(
            mode="json", exclude={"workspace": True, "run": {"device"}}
        ),
        "commands": list(_commands(ctx)),
        "versions": _versions(ctx),
        "cost": None if cost is None else cost.plain() | {"device": _device(ctx)},
        "filtered": None if filtered is None else filtered.plain(),
    }
    return StageInputs(parameters=parameters, files=files)


def run(ctx: Context, **options: Any) -> ReportSummary:
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
    failed: list[str] = []
    curves = read_curves(_finished(ws.synthesize, failed))
    read_calibration = ctx.recipe.guidance.consulted and ws.guide.calibration.is_file()
    return Material(
        recipe=ctx.recipe,
        results=results,
        predictions=_predictions(ctx, results) if results.has_test else {},
        contours=len(contours),
        sources=len({row.source for row in contours}),
        calibration=read_model(ws.guide.calibration, Calibration) if read_calibration else None,
        gallery=_gallery(ws.synthesize),
        curves=curves,
        failed=len(failed),
        cost=_cost(ctx),
        device=_device(ctx),
        filtered=_filtered(ctx),
        commands=_commands(ctx) or ("higfa run RECIPE",),
        versions=_versions(ctx),
    )


def _finished(files: SynthesizeFolder, failed: list[str]) -> Iterator[TraceRow]:
    """The traces of finished pictures, one batch in memory at a time; `failed` gets other ids."""
    for path in files.all_traces():
        for row in read_rows(path, TraceRow):
            if row.error is None:
                yield row
            else:
                failed.append(row.id)


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


def _gallery(files: SynthesizeFolder) -> tuple[Exhibit, ...]:
    rows = _rows(files.gallery, GalleryRow)
    shown = {row.id for row in rows}
    confidence = {
        row.id: row.confidence for row in _rows(files.metadata, PictureRow) if row.id in shown
    }
    return tuple(
        Exhibit(
            id=row.id,
            cls=row.cls,
            confidence=confidence.get(row.id),
            pictures=tuple(
                _picture(files, getattr(row, way), label) for way, label in PICTURES.items()
            ),
        )
        for row in rows
    )


def _picture(files: SynthesizeFolder, name: str, label: str) -> Picture:
    image = read_image(contained(files.directory, name, files.gallery))
    if max(image.shape[:2]) > LONGEST_SIDE:
        image = fit_inside(image, LONGEST_SIDE)
    return Picture(label, encode_png(image), f"../{files.directory.name}/{name}")


def _cost(ctx: Context) -> SynthesisCounts | None:
    """What the synthesis counted in its record; None where it has not run to its end."""
    return _counts(ctx.ws.synthesize, SynthesisCounts)


def _filtered(ctx: Context) -> FilterCounts | None:
    """What the filter counted in its record; None where it has not run to its end."""
    return _counts(ctx.ws.filter, FilterCounts)


def _counts(files: StageFolder, model: type[A]) -> A | None:
    if not files.record.is_file():
        return None
    record = read_record(files.directory)
    return parse(record.counts, model, files.record) if record.status == "done" else None


def _device(ctx: Context) -> str:
    """What the pictures were drawn on; empty where nothing was drawn."""
    files = ctx.ws.synthesize
    return read_record(files.directory).device if files.record.is_file() else ""


def _records(ctx: Context) -> Iterator[RunRecord]:
    for files in ctx.ws.stages.values():
        if files.directory != ctx.ws.report.directory and files.record.is_file():
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
