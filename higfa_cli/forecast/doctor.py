"""`higfa doctor`: before any work, what a recipe needs and this machine has not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from higfa_cli.data.layouts import layout_of
from higfa_cli.errors import UserError
from higfa_cli.forecast import capacity, estimate
from higfa_cli.forecast.findings import Findings, Row
from higfa_cli.forecast.machine import device_of
from higfa_cli.forecast.model_files import (
    FOLDER,
    MissingFile,
    by_repository,
    find_folder,
    missing_files,
    missing_weights,
)
from higfa_cli.forecast.repository import ENTIRE_REPOSITORY
from higfa_cli.models.architecture import WrongSize, family_at
from higfa_cli.models.families import FAMILIES, KNOWN
from higfa_cli.stages import pipeline
from higfa_cli.stages.context import Context
from higfa_cli.stages.photos import load_photos
from higfa_cli.stages.plan import class_prompts
from higfa_cli.stages.recipe_checks import check_texts
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
    known = Findings(ctx)
    rows = [Row("recipe", "ok", f"{ctx.recipe.name} is valid")]
    checks: dict[str, Callable[[Context, Findings], Row]] = {
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
    for name, check in checks.items():
        rows.append(_guarded(name, check, ctx, known))
    healthy = all(row.status != "failed" for row in rows)
    return {
        "ok": healthy,
        "workspace": str(ctx.workspace),
        "checks": [asdict(row) for row in rows],
        "missing_files": [asdict(one) for one in known.missing],
        "next": _next(known, rows, recipe),
    }


def failed(check: str, error: Exception) -> Row:
    """An error as a row: users' own messages end in the remedy."""
    message = " ".join(str(error).split())
    if not isinstance(error, UserError):
        return Row(
            check, "failed", f"{type(error).__name__}: {message}", "HIGFA_DEBUG=1 tells more"
        )
    return Row(check, "failed", *_parted(message))


def _parted(message: str) -> tuple[str, str]:
    """What is wrong, and the remedy."""
    detail, _, remedy = message.rpartition("; ")
    return detail or remedy, remedy if detail else ""


def _guarded(
    name: str, check: Callable[[Context, Findings], Row], ctx: Context, known: Findings
) -> Row:
    try:
        return check(ctx, known)
    except Exception as error:
        return failed(name, error)


def _data(ctx: Context, known: Findings) -> Row:
    about = layout_of(ctx.recipe.data.layout)
    if estimate.photos_folder(ctx) is None and about is not None:
        folder = ctx.base / ctx.recipe.data.root
        return Row(
            "data",
            "failed",
            f"{about.title} is not here: {folder} does not exist",
            f"get it from {about.page} and unpack it so that {folder} exists, or correct data.root",
        )
    known.photos = load_photos(ctx)
    parts = ", ".join(f"{split} {len(known.photos.of(split)):,}" for split in known.photos.splits)
    photos = plural(len(known.photos.samples), "photo")
    classes = plural(len(known.photos.classes), "class", "classes")
    return Row("data", "ok", f"{photos} of {classes} ({parts})")


def _prompts(ctx: Context, known: Findings) -> Row:
    if known.photos is None:
        check_texts(ctx.recipe, ctx.base)
        return Row("prompts", "ok", "readable; the class words are checked once the data is here")
    prompts = class_prompts(ctx, known.photos.classes)
    count = sum(len(set(own)) for own in prompts.values())
    tokenizers = _tokenizers(ctx)
    if not tokenizers:
        detail = f"{plural(count, 'prompt')}; their length is checked once the tokenizer is here"
        return Row("prompts", "ok", detail)
    from higfa_cli.models.text import cut_off_classes

    cut, limit = cut_off_classes(tokenizers, prompts)
    if not cut:
        return Row("prompts", "ok", f"{plural(count, 'prompt')}, none longer than {limit} tokens")
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
        vocabularies = (f"{name}/tokenizer.json", f"{name}/vocab.json")
        config, *others = (
            find_folder(model.base, model.revision, ctx.base, file)
            for file in (f"{name}/tokenizer_config.json", *vocabularies)
        )
        if config is not None and any(others):
            tokenizers.append(family.tokenizer(config))
    return tokenizers


def _model_files(ctx: Context, known: Findings) -> Row:
    recipe = ctx.recipe
    known.missing = missing_files(recipe.model, ctx.base, recipe.run.local_files_only)
    if not ctx.ws.guide.checkpoint.is_file():
        known.missing += missing_weights(recipe.guide, ctx.base, "guide")
    known.missing += missing_weights(recipe.downstream, ctx.base, "downstream")
    # Guide and classifier may start from the same weights.
    known.missing = list({(one.repo, one.file): one for one in reversed(known.missing)}.values())
    known.missing.reverse()
    if not known.missing:
        return Row("model files", "ok", "all here")
    lost = {one.repo: one for one in reversed(known.missing) if one.file == FOLDER}
    if lost:
        *others, first = lost.values()
        detail, remedy = _parted(first.remedy)
        more = f" (and {plural(len(others), 'more such key')})" if others else ""
        return Row("model files", "failed", f"{first.key}: {detail}{more}", remedy)
    places = len(by_repository(known.missing))
    files = plural(len(known.missing), "file")
    if any(one.file == ENTIRE_REPOSITORY for one in known.missing):
        files = "files"
    detail = f"{files} of {plural(places, 'repository', 'repositories')} are missing"
    return Row("model files", "failed", detail, "fetch them with the commands below")


def _lacks_configuration(missing: list[MissingFile]) -> bool:
    """Whether nothing can be said of the model before more files are here."""
    return any(
        one.key.startswith("model.")
        and (one.file in (ENTIRE_REPOSITORY, FOLDER) or one.file.endswith(".json"))
        and one.repo not in KNOWN
        for one in missing
    )


def _model(ctx: Context, known: Findings) -> Row:
    recipe = ctx.recipe
    try:
        arch = estimate.model_parts(ctx)
    except WrongSize:
        raise
    except UserError:
        if _lacks_configuration(known.missing):
            return Row("model", "warning", "not known before its files are here")
        raise
    family = FAMILIES[arch.family]
    detail = f"{family.title}, {family.prediction_type(arch.scheduler)}; "
    detail += f"{recipe.sampling.scheduler}, {recipe.size} px"
    return Row("model", "ok", detail)


def _device(ctx: Context, known: Findings) -> Row:
    known.device = device_of(ctx.recipe.run.device)
    detail = known.device.title
    if known.device.kind == "cuda":
        detail += f", {gib(known.device.total)}"
    elif known.device.kind == "cpu" and known.is_large:
        return Row(
            "device",
            "warning",
            f"{detail}; a model of this size is not practical without a GPU",
            "use a machine with a GPU; `higfa run pocket` is made for a CPU",
        )
    return Row("device", "ok", detail)


def _dtype(ctx: Context, known: Findings) -> Row:
    dtype = ctx.recipe.model.dtype
    if known.device is None:
        return Row("dtype", "warning", f"{dtype}: not checked without the device")
    kind = known.device.kind
    if dtype == "bfloat16" and not known.device.bfloat16:
        return Row(
            "dtype",
            "warning",
            "this GPU has no bfloat16 of its own and emulates it slowly",
            "set model.dtype: float16",
        )
    if dtype == "float16" and kind == "cpu":
        return Row(
            "dtype",
            "warning",
            "float16 is slow on a CPU",
            "set model.dtype: float32, or bfloat16",
        )
    if dtype == "float32" and kind == "cuda" and known.is_large:
        return Row(
            "dtype",
            "warning",
            "float32 needs twice the memory of bfloat16 and several times its time",
            "set model.dtype: bfloat16",
        )
    return Row("dtype", "ok", f"{dtype}; autoencoder and guide in float32")


def _next(known: Findings, rows: list[Row], recipe: str) -> str | None:
    """What to do first; None where something must be mended by hand, or all is done."""
    failed_ones = {row.check for row in rows if row.status == "failed"}
    again = f"then run `{f'higfa doctor {recipe}'.rstrip()}` again"
    if "data" in failed_ones:
        return f"put the data right (see `data` above), {again}"
    if any(one.file == FOLDER for one in known.missing):
        return f"correct the paths above, {again}"
    if known.missing:
        fetchable = any(one.is_command for one in known.missing)
        how = "with the commands above" if fetchable else "as said above"
        return f"fetch the files {how}, {again}"
    if failed_ones:
        return None
    return pipeline.next_stage(pipeline.status(known.ctx), recipe)
