"""`higfa doctor`: before any work, what a recipe needs and this machine has not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from higfa_cli import __version__
from higfa_cli.data.layouts import layout_of
from higfa_cli.data.prompts import negative_for
from higfa_cli.errors import UserError
from higfa_cli.forecast import capacity, estimate
from higfa_cli.forecast.findings import Findings, Row
from higfa_cli.forecast.model_files import (
    FOLDER,
    by_repository,
    find_folder,
    missing_files,
    missing_weights,
)
from higfa_cli.forecast.repository import ENTIRE_REPOSITORY
from higfa_cli.init.project import WITHOUT_GPU
from higfa_cli.models.architecture import family_at
from higfa_cli.models.families import FAMILIES, KNOWN
from higfa_cli.models.machine import device_of
from higfa_cli.stages import pipeline, table
from higfa_cli.stages.context import Context, load_photos, photo_notes
from higfa_cli.stages.plan import class_prompts, expected
from higfa_cli.stages.recipe_checks import check_texts
from higfa_cli.stages.worth import worthless
from higfa_cli.text import gib, plural


def doctor(ctx: Context, recipe: str) -> dict[str, Any]:
    """Check what the recipe's stages will need; loads no weights and asks no network.

    Args:
        ctx: the recipe and its workspace.
        recipe: what stood after the command, a file or a name and its flags, for the next command.

    Returns:
        {"ok", "checks": rows of check, status, detail and remedy, "missing_files", "next"}.
        "ok" is whether no check failed; a warning does not fail. Failures are rows, not errors.
    """
    findings = Findings(ctx)
    checks: dict[str, Callable[[Findings], Row]] = {
        "data": _data,
        "prompts": _prompts,
        "model files": _model_files,
        "model": _model,
        "device": _device,
        "dtype": _dtype,
        "memory": capacity.memory,
        "disk": capacity.disk,
        "time": capacity.time,
    }
    rows = [Row("recipe", "ok", f"{ctx.recipe.name} is valid; its paths start at {ctx.base}")]
    for name, check in checks.items():
        try:
            rows.append(check(findings))
        except Exception as error:
            rows.append(failed(name, error))
    for stage in ("finetune-guide", "train-downstream"):
        if warning := worthless(ctx, stage):
            detail, _, remedy = warning.partition("; ")
            rows.append(Row(stage, "warning", detail, remedy))
    return {
        "ok": all(row.status != "failed" for row in rows),
        "workspace": str(ctx.workspace),
        "checks": [asdict(row) for row in rows],
        "missing_files": [asdict(lost) for lost in findings.missing],
        "next": _next(findings, rows, recipe),
    }


def failed(check: str, error: Exception) -> Row:
    """An error as a row: users' own messages end in the remedy."""
    message = " ".join(str(error).split())
    if not isinstance(error, UserError):
        detail = f"a fault of higfa {__version__}: {message or 'no more is known'}"
        return Row(check, "failed", detail, "please report it to the project")
    detail, _, remedy = message.rpartition("; ")
    return Row(check, "failed", detail or remedy, remedy if detail else "")


def _data(findings: Findings) -> Row:
    ctx = findings.ctx
    layout = layout_of(ctx.recipe.data.layout)
    if estimate.photos_folder(ctx) is None and layout is not None:
        folder = ctx.base / ctx.recipe.data.root
        return Row(
            "data",
            "failed",
            f"{layout.title} is not here: {folder} does not exist",
            f"get it from {layout.page} and unpack it so that {folder} exists, or correct "
            "data.root",
        )
    photos = load_photos(ctx)
    expected(ctx.recipe, photos)
    findings.photos = photos
    parts = ", ".join(f"{split} {len(photos.of(split)):,}" for split in photos.splits)
    counted = plural(len(photos.samples), "photo")
    classes = plural(len(photos.classes), "class", "classes")
    detail, (first, *others) = f"{counted} of {classes} ({parts})", photo_notes(ctx) or [""]
    if not first:
        return Row("data", "ok", detail)
    return Row("data", "warning", "; ".join([detail, first, *others]), "look at these photos")


def _prompts(findings: Findings) -> Row:
    ctx = findings.ctx
    if findings.photos is None:
        check_texts(ctx.recipe, ctx.base)
        return Row("prompts", "ok", "readable; the class words are checked once the data is here")
    prompts = class_prompts(ctx, findings.photos.classes)
    counted = plural(sum(len(set(texts)) for texts in prompts.values()), "prompt")
    tokenizers = _tokenizers(ctx)
    if not tokenizers:
        detail = f"{counted}; their length is checked once the tokenizer is here"
        return Row("prompts", "ok", detail)
    from higfa_cli.models.text import cut_off_classes, unread_placeholders

    texts = {text for of_class in prompts.values() for text in of_class}
    texts.add(negative_for(ctx.recipe.prompts, ctx.base))
    if unread := unread_placeholders(tokenizers, texts):
        return Row(
            "prompts",
            "warning",
            f"{', '.join(f'`{word}`' for word in unread[:5])}: no token of this model's tokenizer, "
            "so the letters are read",
            "save the model with its embedding (docs/models.md), or write plain words",
        )
    cut, limit = cut_off_classes(tokenizers, prompts)
    if not cut:
        return Row("prompts", "ok", f"{counted}, none longer than {limit} tokens")
    cls, prompt = next(iter(cut.items()))
    return Row(
        "prompts",
        "warning",
        f"{plural(len(cut), 'class has', 'classes have')} prompts that the text encoder cuts off "
        f"at {limit} tokens; class {cls}: {prompt}",
        "shorten data.class_words or prompts.templates",
    )


def _tokenizers(ctx: Context) -> list[Any]:
    """The model's tokenizers, of those that are on this machine."""
    model = ctx.recipe.model
    try:
        family = family_at(model, ctx.base)
    except UserError:
        return []
    tokenizers = []
    for name in family.tokenizers:
        folder = find_folder(model.base, model.revision, ctx.base, f"{name}/tokenizer_config.json")
        vocabularies = ("tokenizer.json", "vocab.json")
        if folder is not None and any((folder / file).is_file() for file in vocabularies):
            tokenizers.append(family.tokenizer(folder))
    return tokenizers


def _model_files(findings: Findings) -> Row:
    recipe, base = findings.ctx.recipe, findings.ctx.base
    missing = missing_files(recipe.model, base, recipe.run.local_files_only)
    findings.missing = missing
    if not findings.ctx.ws.guide.checkpoint.is_file():
        missing += missing_weights(recipe.guide, base, "guide")
    named = {(lost.repo, lost.file) for lost in missing}
    # Guide and classifier may start from the same weights.
    weights = missing_weights(recipe.downstream, base, "downstream")
    missing += [lost for lost in weights if (lost.repo, lost.file) not in named]
    if not missing:
        return Row("model files", "ok", "all here")
    for lost in missing:
        if lost.file == FOLDER:
            return failed("model files", UserError(f"{lost.key}: {lost.remedy}"))
    whole = any(lost.file == ENTIRE_REPOSITORY for lost in missing)
    files = "files" if whole else plural(len(missing), "file")
    places = plural(len(by_repository(missing)), "repository", "repositories")
    detail = f"{files} of {places} are missing"
    return Row("model files", "failed", detail, "fetch them with the commands below")


def _model(findings: Findings) -> Row:
    recipe = findings.ctx.recipe
    for lost in findings.missing:
        configures = lost.file in (ENTIRE_REPOSITORY, FOLDER) or lost.file.endswith(".json")
        if lost.key.startswith("model.") and configures and lost.repo not in KNOWN:
            return Row("model", "warning", "not known before its files are here")
    arch = estimate.model_parts(findings.ctx)
    family = FAMILIES[arch.family]
    detail = f"{family.title}, {family.prediction_type(arch.scheduler)}; "
    return Row("model", "ok", f"{detail}{recipe.sampling.scheduler}, {recipe.size} px")


def _device(findings: Findings) -> Row:
    device = findings.device = device_of(findings.ctx.recipe.run.device)
    if device.kind == "cuda":
        return Row("device", "ok", f"{device.title}, {gib(device.total)}")
    if device.kind == "cpu" and findings.is_large:
        return Row(
            "device",
            "warning",
            f"{device.title}; a model of this size is not practical without a GPU",
            f"use a machine with a GPU; here {WITHOUT_GPU}",
        )
    return Row("device", "ok", device.title)


def _dtype(findings: Findings) -> Row:
    dtype, device = findings.ctx.recipe.model.dtype, findings.device
    if device is None:
        return Row("dtype", "warning", f"{dtype}: not checked without the device")
    quick = dtype == "float32" or (dtype == "bfloat16" and device.bfloat16)
    if device.kind == "cpu" and not quick:
        detail = f"{dtype} is many times slower than float32 on this CPU"
        return Row("dtype", "warning", detail, "set model.dtype: float32")
    if dtype == "bfloat16" and not device.bfloat16:
        detail = "this GPU has no bfloat16 of its own and emulates it slowly"
        return Row("dtype", "warning", detail, "set model.dtype: float16")
    if dtype == "float32" and device.kind == "cuda" and findings.is_large:
        detail = "float32 needs twice the memory of bfloat16 and several times its time"
        return Row("dtype", "warning", detail, "set model.dtype: bfloat16")
    return Row("dtype", "ok", f"{dtype}; autoencoder and guide in float32")


def _next(findings: Findings, rows: list[Row], recipe: str) -> str | None:
    """What to do first; None where something must be mended by hand, or all is done."""
    checks = {row.check for row in rows if row.status == "failed"}
    again = f"then run `{f'higfa doctor {recipe}'.rstrip()}` again"
    if "data" in checks:
        return f"put the data right (see `data` above), {again}"
    if any(lost.file == FOLDER for lost in findings.missing):
        return f"correct the paths above, {again}"
    if findings.missing:
        return f"fetch the files as said above, {again}"
    if checks:
        return None
    return table.next_stage(pipeline.status(findings.ctx), recipe)
