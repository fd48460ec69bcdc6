"""Stage `report`: reads what the other stages wrote, and writes tables and the page."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from higfa_cli.artifacts.artifact import A, read_model, read_rows
from higfa_cli.artifacts.atomic import write_text
from higfa_cli.artifacts.records import ReportCounts
from higfa_cli.artifacts.results import Calibration, Results
from higfa_cli.artifacts.rows import ContourRow, PictureRow, TraceRow
from higfa_cli.artifacts.run_record import stage_run
from higfa_cli.artifacts.safe_paths import contained
from higfa_cli.artifacts.workspace import SynthesizeFolder
from higfa_cli.data.images import encode_png, fit_inside, read_image
from higfa_cli.data.rejected import by_reason, read_rejected
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
from higfa_cli.report.stats import Answer
from higfa_cli.report.tables import arms_csv, csv_text, latex_table
from higfa_cli.stages.context import Context
from higfa_cli.stages.report_inputs import (
    commands,
    counts_of_arms,
    is_guided,
    report_inputs,
    versions,
)

NAME = "report"
# Twice the width of a gallery cell on a wide screen; larger pictures only make the page heavy.
LONGEST_SIDE = 400


def run(ctx: Context) -> Mapping[str, object]:
    """Write report.html, report.md, results.csv and results.tex; returns the verdict.

    Raises UserError: results missing, or artifacts that contradict one another.
    """
    inputs = report_inputs(ctx)
    # Everything is read and rendered before the folder is touched: bad input leaves no trace.
    context, files = page_context(read_material(ctx)), ctx.ws.report
    texts = {
        files.page: render_html(context),
        files.markdown: render_markdown(context),
        files.csv: arms_csv(context["arms"]),
        files.latex: latex_table(context["arms_table"]),
    }
    with stage_run(files.directory, inputs, ctx.recipe) as record:
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
    read_calibration = is_guided(ctx) and ws.guide.calibration.is_file()
    return Material(
        recipe=ctx.recipe,
        results=results,
        predictions=_predictions(ctx, results) if results.has_test else {},
        contours=len(contours),
        sources=len({row.source for row in contours}),
        left_out=by_reason(read_rejected(ws.contours.rejected).rows),
        calibration=read_model(ws.guide.calibration, Calibration) if read_calibration else None,
        gallery=_gallery(ctx),
        curves=read_curves(_finished(ws.arm(*main.arms).synthesize)),
        failed=len(failed),
        guided=main.guidance.consulted,
        drawn=_drawn(ctx),
        commands=commands(ctx) or ("higfa run RECIPE",),
        versions=versions(ctx),
    )


def _finished(files: SynthesizeFolder) -> Iterator[TraceRow]:
    """The traces of finished pictures, one batch in memory at a time."""
    for path in files.all_traces():
        yield from (row for row in read_rows(path, TraceRow) if row.error is None)


def _rows(path: Path, model: type[A]) -> list[A]:
    return read_rows(path, model) if path.is_file() else []


def _predictions(ctx: Context, results: Results) -> dict[str, dict[int, tuple[Answer, ...]]]:
    """Arm name -> seed -> the test photos as that classifier saw them."""
    files = ctx.ws.downstream
    return {
        arm.name: {
            run.seed: _read_predictions(files.training(arm.name, run.seed).predictions)
            for run in arm.runs
        }
        for arm in results.arms
    }


def _read_predictions(path: Path) -> tuple[Answer, ...]:
    remedy = "train again: higfa train-downstream RECIPE --force"
    try:
        with path.open(newline="", encoding="utf-8") as handle:
            rows = list(csv.DictReader(handle))
        columns = ("key", "true", "predicted")
        return tuple(Answer(*(csv_text(row[name]) for name in columns)) for row in rows)
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
        DrawnArm(name, ctx.recipe.arms[name], *counted)
        for name, counted in counts_of_arms(ctx).items()
    )
