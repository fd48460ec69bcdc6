"""Stage `report`: reads what the other stages wrote, and writes tables and the page."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from higfa_cli.artifacts.atomic import read_json, read_jsonl, write_text
from higfa_cli.artifacts.class_folders import class_dir
from higfa_cli.artifacts.fingerprint import hash_json, hash_tree
from higfa_cli.artifacts.records import ReportCounts
from higfa_cli.artifacts.run_record import StageInputs, stage_run
from higfa_cli.artifacts.safe_paths import contained
from higfa_cli.data.images import encode_png, fit_inside, read_image
from higfa_cli.errors import UserError
from higfa_cli.report.page import (
    PICTURES,
    Exhibit,
    Material,
    Picture,
    has_test,
    page_context,
    render_html,
    render_markdown,
)
from higfa_cli.report.stats import Prediction
from higfa_cli.report.tables import arms_csv, csv_text, latex_table
from higfa_cli.stages.context import Context

NAME = "report"
VERSION = 1
RESULTS = "train-downstream/results.json"
CALIBRATION = "finetune-guide/calibration.json"
OPTIONAL = (
    "contours/manifest.jsonl",
    "synthesize/images/metadata.jsonl",
    "synthesize/gallery.jsonl",
    "synthesize/gallery",
    "synthesize/traces",
    "filter/selection.jsonl",
)
# Twice the width of a gallery cell on a wide screen; larger pictures only make the page heavy.
LONGEST_SIDE = 400


def inputs(ctx: Context, **options: Any) -> StageInputs:
    """What the report depends on. Raises UserError when the downstream results are missing."""
    with _as_written(ctx):
        return _inputs(ctx)


@contextmanager
def _as_written(ctx: Context) -> Iterator[None]:
    """Artifacts that lack what their stage writes: one line instead of a failure anywhere."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise UserError(
            f"{ctx.workspace}: an artifact is not as higfa writes it "
            f"({type(error).__name__}: {str(error)[:120]}); run the stages again with --force"
        ) from error


def _inputs(ctx: Context) -> StageInputs:
    if not (ctx.workspace / RESULTS).is_file():
        raise UserError(
            f"{ctx.workspace / RESULTS} is missing; run first: higfa train-downstream RECIPE"
        )
    files = {RESULTS: hash_tree(ctx.workspace / RESULTS)}
    predictions = sorted((ctx.workspace / "train-downstream/arms").glob("*/*/predictions.csv"))
    files["train-downstream/arms"] = hash_json(
        [(p.relative_to(ctx.workspace).as_posix(), hash_tree(p)) for p in predictions]
    )
    for name in (*OPTIONAL, *([CALIBRATION] if ctx.recipe.guidance.consulted else [])):
        if (ctx.workspace / name).exists():
            files[name] = hash_tree(ctx.workspace / name)
    recipe = ctx.recipe.model_dump(mode="json", exclude={"workspace": True, "run": {"device"}})
    parameters = {"version": VERSION, "recipe": recipe}
    parameters |= {"commands": list(_commands(ctx)), "versions": dict(_versions(ctx))}
    parameters["cost"] = _cost(ctx)
    parameters["filtered"] = _filtered(ctx)
    return StageInputs(parameters=parameters, files=files)


def run(ctx: Context, **options: Any) -> dict[str, Any]:
    """Write report.html, report.md, results.csv and results.tex; returns the verdict.

    Raises UserError: results missing, or artifacts that contradict one another.
    """
    stage_inputs = inputs(ctx)
    # Everything is read and rendered before the folder is touched: bad input leaves no trace.
    with _as_written(ctx):
        context = page_context(read_material(ctx))
        texts = {
            "report.html": render_html(context),
            "report.md": render_markdown(context),
            "results.csv": arms_csv(context["arms"]),
            "results.tex": latex_table(context["arms_table"]),
        }
    directory = ctx.stage_dir(NAME)
    with stage_run(directory, stage_inputs, ctx.recipe) as record:
        for name, text in texts.items():
            write_text(directory / name, text)
            record.output(directory / name)
        record.counts = ReportCounts(arms=len(context["arms"]), gallery=len(context["gallery"]))
    headline = context["headline"]
    return {
        "verdict": headline.word,
        "sentence": headline.sentence,
        "arms": len(context["arms"]),
        "page": str(directory / "report.html"),
    }


def read_material(ctx: Context) -> Material:
    """All that the page shows, from the workspace; absent optional artifacts stay empty."""
    results = read_json(ctx.workspace / RESULTS)
    metadata = _rows(ctx, "synthesize/images/metadata.jsonl")
    traces = ctx.workspace / "synthesize/traces"
    calibration = ctx.workspace / CALIBRATION
    return Material(
        recipe=ctx.recipe,
        results=results,
        predictions=_predictions(ctx, results) if has_test(results) else {},
        contours=_rows(ctx, "contours/manifest.jsonl"),
        calibration=read_json(calibration)
        if ctx.recipe.guidance.consulted and calibration.is_file()
        else None,
        metadata=metadata,
        gallery=_gallery(ctx, {row["id"]: row.get("confidence") for row in metadata}),
        traces=[row for path in sorted(traces.glob("*.jsonl")) for row in read_jsonl(path)],
        cost=_cost(ctx),
        filtered=_filtered(ctx),
        commands=_commands(ctx) or ("higfa run RECIPE",),
        versions=_versions(ctx),
    )


def _rows(ctx: Context, name: str) -> list[dict[str, Any]]:
    path = ctx.workspace / name
    return read_jsonl(path) if path.is_file() else []


def _predictions(
    ctx: Context, results: Mapping[str, Any]
) -> dict[str, dict[int, tuple[Prediction, ...]]]:
    """Arm name -> seed -> the test photos as that classifier saw them."""
    found: dict[str, dict[int, tuple[Prediction, ...]]] = {}
    for arm in results["arms"]:
        folder = ctx.workspace / "train-downstream/arms" / class_dir(arm["name"])
        found[arm["name"]] = {
            run["seed"]: _read_predictions(folder / f"seed-{int(run['seed'])}" / "predictions.csv")
            for run in arm["runs"]
        }
    return found


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


def _gallery(ctx: Context, confidence: Mapping[str, float | None]) -> tuple[Exhibit, ...]:
    return tuple(
        Exhibit(
            id=row["id"],
            cls=row["class"],
            confidence=confidence.get(row["id"]),
            pictures=tuple(_picture(ctx, row[key], label) for key, label in PICTURES.items()),
        )
        for row in _rows(ctx, "synthesize/gallery.jsonl")
    )


def _picture(ctx: Context, name: str, label: str) -> Picture:
    folder = ctx.stage_dir("synthesize")
    image = read_image(contained(folder, name, folder / "gallery.jsonl"))
    if max(image.shape[:2]) > LONGEST_SIDE:
        image = fit_inside(image, LONGEST_SIDE)
    return Picture(label, encode_png(image), f"../synthesize/{name}")


def _cost(ctx: Context) -> dict[str, Any] | None:
    """What the synthesis counted in its record; None where it has not run to its end."""
    record = _done(ctx, "synthesize")
    return None if record is None else {**record["counts"], "device": record["device"]}


def _filtered(ctx: Context) -> dict[str, Any] | None:
    """What the filter counted in its record; None where it has not run to its end."""
    record = _done(ctx, "filter")
    return None if record is None else record["counts"]


def _done(ctx: Context, stage: str) -> dict[str, Any] | None:
    path = ctx.stage_dir(stage) / "run.json"
    record: dict[str, Any] = read_json(path) if path.is_file() else {}
    return record if record.get("status") == "done" else None


def _records(ctx: Context) -> Iterator[dict[str, Any]]:
    for stage in ("contours", "finetune-guide", "synthesize", "filter", "train-downstream"):
        path = ctx.stage_dir(stage) / "run.json"
        if path.is_file():
            yield read_json(path)


def _commands(ctx: Context) -> tuple[str, ...]:
    """The distinct command lines that ran the stages, in their order; none if run from Python."""
    lines = []
    for record in _records(ctx):
        program, *arguments = record.get("argv") or [""]
        if Path(program).name in ("higfa", "higfa.exe", "__main__.py"):
            lines.append(shlex.join(["higfa", *arguments]))
    return tuple(dict.fromkeys(lines))


def _versions(ctx: Context) -> dict[str, str]:
    """Library -> version; several where stages ran with different ones."""
    found: dict[str, dict[str, None]] = {}
    for record in _records(ctx):
        libraries = record.get("libraries") or {}
        own = {"higfa": record.get("higfa"), "Python": record.get("python")}
        shown = {k: libraries.get(k) for k in ("torch", "diffusers", "transformers", "timm")}
        for name, version in {**own, **shown}.items():
            if version:
                found.setdefault(name, {})[version] = None
    return {name: ", ".join(versions) for name, versions in found.items()}
