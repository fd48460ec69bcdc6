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
from higfa_cli.artifacts.workspace import StageFolder
from higfa_cli.data.images import encode_png, fit_inside, read_image
from higfa_cli.errors import UserError
from higfa_cli.recipe.arms import GALLERY, main_arm
from higfa_cli.report.page import (
    LABELS,
    DrawnArm,
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
VERSION = 2
RESULTS = "train-downstream/results.json"
CALIBRATION = "finetune-guide/calibration.json"
MANIFEST = "contours/manifest.jsonl"
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
    read = [ctx.workspace / name for name in (MANIFEST, *([CALIBRATION] if _guided(ctx) else []))]
    for name in ctx.recipe.drawn:
        pictures = ctx.ws.arm(name).synthesize
        # The metadata hold every picture's own hash.
        read += [pictures.metadata, pictures.traces, pictures.sources]
        read.append(ctx.ws.arm(name).filter.selection)
    files |= {ctx.ws.name(path): hash_tree(path) for path in read if path.exists()}
    recipe = ctx.recipe.model_dump(mode="json", exclude={"workspace": True, "run": {"device"}})
    parameters = {"version": VERSION, "recipe": recipe}
    parameters |= {"commands": list(_commands(ctx)), "versions": dict(_versions(ctx))}
    parameters["drawn"] = {arm.name: [arm.cost, arm.filtered] for arm in _drawn(ctx)}
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
    calibration = ctx.workspace / CALIBRATION
    return Material(
        recipe=ctx.recipe,
        results=results,
        predictions=_predictions(ctx, results) if has_test(results) else {},
        contours=_rows(ctx.workspace / MANIFEST),
        calibration=read_json(calibration) if _guided(ctx) and calibration.is_file() else None,
        drawn=_drawn(ctx),
        gallery=_gallery(ctx),
        commands=_commands(ctx) or ("higfa run RECIPE",),
        versions=_versions(ctx),
    )


def _guided(ctx: Context) -> bool:
    return any(ctx.recipe.arm(name).guidance.consulted for name in ctx.recipe.arms)


def _rows(path: Path) -> list[dict[str, Any]]:
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


def _drawn(ctx: Context) -> tuple[DrawnArm, ...]:
    """The recipe's arms, with what was counted while they were drawn and filtered."""
    return tuple(
        DrawnArm(
            name=name,
            changes=changes,
            guided=ctx.recipe.arm(name).guidance.consulted,
            cost=_cost(ctx.ws.arm(name).synthesize),
            filtered=_counts(ctx.ws.arm(name).filter),
            traces=[
                row for path in ctx.ws.arm(name).synthesize.all_traces() for row in read_jsonl(path)
            ],
        )
        for name, changes in ctx.recipe.arms.items()
    )


def _gallery(ctx: Context) -> tuple[Exhibit, ...]:
    """The gallery's pictures beside those that every drawn arm has of them."""
    files = ctx.ws.arm(GALLERY).synthesize
    shown = {
        name: {row["id"]: row for row in _rows(ctx.ws.arm(name).synthesize.metadata)}
        for name in ctx.recipe.arms
        if ctx.ws.arm(name).synthesize.metadata.is_file()
    }
    main = main_arm(tuple(shown)) if shown else None
    exhibits = []
    for row in _rows(files.metadata) if ctx.recipe.pictures.gallery else []:
        if not all(row["id"] in rows for rows in shown.values()):
            continue
        photo = contained(files.sources, f"{row['id']}.png", files.metadata)
        contour = contained(ctx.ws.contours.directory, row["contour"], files.metadata)
        pictures = [
            _picture(ctx, photo, "real photo"),
            _picture(ctx, contour, "transformed contour"),
        ]
        for name in (GALLERY, *shown):
            images = ctx.ws.arm(name).synthesize
            path = contained(images.images, row["file_name"], images.metadata)
            pictures.append(_picture(ctx, path, LABELS.get(name, name), name == main))
        confidence = shown[main][row["id"]].get("confidence") if main else None
        exhibits.append(Exhibit(row["id"], row["class"], confidence, tuple(pictures)))
    return tuple(exhibits)


def _picture(ctx: Context, path: Path, label: str, ours: bool = False) -> Picture:
    image = read_image(path)
    if max(image.shape[:2]) > LONGEST_SIDE:
        image = fit_inside(image, LONGEST_SIDE)
    return Picture(label, encode_png(image), f"../{ctx.ws.name(path)}", ours)


def _cost(folder: StageFolder) -> dict[str, Any] | None:
    """What the synthesis counted in its record; None where it has not run to its end."""
    record = _done(folder)
    return None if record is None else {**record["counts"], "device": record["device"]}


def _counts(folder: StageFolder) -> dict[str, Any] | None:
    record = _done(folder)
    return None if record is None else record["counts"]


def _done(folder: StageFolder) -> dict[str, Any] | None:
    record: dict[str, Any] = read_json(folder.record) if folder.record.is_file() else {}
    return record if record.get("status") == "done" else None


def _records(ctx: Context) -> Iterator[dict[str, Any]]:
    arms = [ctx.ws.arm(name) for name in ctx.recipe.drawn]
    folders: list[StageFolder] = [ctx.ws.contours, ctx.ws.guide]
    folders += [*(arm.synthesize for arm in arms), *(arm.filter for arm in arms)]
    for folder in (*folders, ctx.ws.downstream):
        if folder.record.is_file():
            yield read_json(folder.record)


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
