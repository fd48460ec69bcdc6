"""`higfa doctor`: before any work, what a recipe needs and this machine has not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import psutil
import torch

from higfa_cli.data.dataset import Dataset
from higfa_cli.data.official import official
from higfa_cli.data.prompt_bank import negative_for
from higfa_cli.data.prompts import load_words
from higfa_cli.errors import UserError
from higfa_cli.models.device import resolve_device
from higfa_cli.models.model_files import (
    MissingFile,
    by_repository,
    find_folder,
    missing_files,
    missing_weights,
)
from higfa_cli.models.text import cut_off_classes
from higfa_cli.recipe.refs import resolve_ref
from higfa_cli.stages import estimate, pipeline
from higfa_cli.stages.context import Context
from higfa_cli.stages.drawing import class_prompts, dataset
from higfa_cli.stages.estimate import Cost, Counted, device_name, duration, gib

Ok = Literal["warning"] | bool
# A PNG of a photo-like picture.
_BYTES_PER_PIXEL = 2
_SHOWN = 3


@dataclass(frozen=True)
class Row:
    """One check: `ok` is True, False or "warning"; `remedy` is empty where all is well."""

    check: str
    ok: Ok
    detail: str
    remedy: str = ""


@dataclass
class _Findings:
    """What later checks need of earlier ones; None where an earlier one failed."""

    ctx: Context
    photos: Dataset | None = None
    missing: list[MissingFile] = field(default_factory=list)
    device: torch.device | None = None

    @cached_property
    def counted(self) -> Counted:
        return estimate.count_pictures(self.ctx)

    @cached_property
    def cost(self) -> Cost:
        return estimate.picture_cost(self.ctx)

    @property
    def is_large(self) -> bool:
        # The pocket takes 4e10 operations per picture, Stable Diffusion 1.5 more than 1e14.
        return self.cost.flops is not None and self.cost.flops > 1e13


def doctor(ctx: Context, selection: str) -> dict[str, Any]:
    """Check what the recipe's stages will need; loads no weights and asks no network.

    Args:
        ctx: the recipe and its workspace.
        selection: how the recipe was chosen on the command line, for the next command.

    Returns:
        {"ok", "checks": rows of check, ok, detail and remedy, "missing_files", "next"}.
        "ok" is whether no check failed; a warning does not fail. Failures are rows, not errors.
    """
    known = _Findings(ctx)
    rows = [Row("recipe", True, f"{ctx.recipe.name} is valid")]
    checks: dict[str, Callable[[Context, _Findings], Row]] = {
        "data": _data,
        "contours": _contours,
        "prompts": _prompts,
        "model files": _model_files,
        "model": _model,
        "device": _device,
        "dtype": _dtype,
        "memory": _memory,
        "disk": _disk,
        "time": _time,
    }
    for name, check in checks.items():
        rows.append(_guarded(name, check, ctx, known))
    healthy = all(row.ok is not False for row in rows)
    return {
        "ok": healthy,
        "workspace": str(ctx.workspace),
        "checks": [asdict(row) for row in rows],
        "missing_files": [asdict(one) for one in known.missing],
        "next": _next(ctx, known, healthy, selection),
    }


def failed(check: str, error: Exception) -> Row:
    """An error as a row: users' own messages end in the remedy."""
    message = " ".join(str(error).split())
    if not isinstance(error, UserError):
        return Row(check, False, f"{type(error).__name__}: {message}", "HIGFA_DEBUG=1 tells more")
    detail, _, remedy = message.rpartition("; ")
    return Row(check, False, detail or remedy, remedy if detail else "")


def _guarded(
    name: str, check: Callable[[Context, _Findings], Row], ctx: Context, known: _Findings
) -> Row:
    try:
        return check(ctx, known)
    except Exception as error:
        return failed(name, error)


def _data(ctx: Context, known: _Findings) -> Row:
    about = official(ctx.recipe.data.layout)
    if estimate.photos_folder(ctx) is None and about is not None:
        folder = ctx.base / ctx.recipe.data.root
        return Row(
            "data",
            False,
            f"{about.title} is not here: {folder} does not exist",
            f"get it from {about.page} and unpack it so that {folder} exists, or correct data.root",
        )
    known.photos = dataset(ctx)
    parts = ", ".join(f"{split} {len(known.photos.of(split)):,}" for split in known.photos.splits)
    photos, classes = len(known.photos.samples), len(known.photos.classes)
    return Row("data", True, f"{photos:,} photos of {classes} classes ({parts})")


def _contours(ctx: Context, known: _Findings) -> Row:
    size, own = ctx.recipe.synthesize.size, ctx.recipe.contours.size
    if own != size:
        return Row(
            "contours",
            False,
            f"contours.size is {own} but synthesize.size is {size}",
            "set both to the same value",
        )
    return Row("contours", True, f"{size} px, as the pictures")


def _prompts(ctx: Context, known: _Findings) -> Row:
    settings = ctx.recipe.synthesize
    if known.photos is None:
        # The bank is read and checked; which classes it must have only the data can say.
        negative_for(settings.prompts.model_copy(update={"negative": None}), ctx.base)
        words = ctx.recipe.data.class_words
        if words is not None and isinstance(found := resolve_ref(words, ctx.base), Path):
            load_words(found)
        return Row("prompts", True, "readable; the class words are checked once the data is here")
    prompts = class_prompts(ctx, known.photos.classes)
    count = sum(len(set(own)) for own in prompts.values())
    tokenizers = _tokenizers(ctx)
    if not tokenizers:
        detail = f"{count:,} prompts; their length is checked once the tokenizer is here"
        return Row("prompts", True, detail)
    cut = cut_off_classes(tokenizers, prompts)
    if not cut:
        return Row("prompts", True, f"{count:,} prompts, none longer than 77 tokens")
    cls, prompt = next(iter(cut.items()))
    return Row(
        "prompts",
        "warning",
        f"{len(cut)} classes have prompts that the text encoder cuts off at 77 tokens; class "
        f"{cls}: {prompt}",
        "shorten data.class_words or synthesize.prompts",
    )


def _tokenizers(ctx: Context) -> list[Any]:
    """The model's tokenizers, of those that are on this machine."""
    from transformers import CLIPTokenizer

    settings = ctx.recipe.synthesize
    found = []
    for name in ("tokenizer", "tokenizer_2"):
        vocabularies = (f"{name}/tokenizer.json", f"{name}/vocab.json")
        config, *others = (
            find_folder(settings.model, settings.revision, ctx.base, file)
            for file in (f"{name}/tokenizer_config.json", *vocabularies)
        )
        if config is not None and any(others):
            found.append(CLIPTokenizer.from_pretrained(str(config), local_files_only=True))
    return found


def _model_files(ctx: Context, known: _Findings) -> Row:
    recipe = ctx.recipe
    known.missing = missing_files(recipe.synthesize, ctx.base)
    if not (ctx.stage_dir("finetune-guide") / "guide.safetensors").is_file():
        known.missing += missing_weights(recipe.guide, ctx.base, "guide")
    known.missing += missing_weights(recipe.downstream, ctx.base, "downstream")
    # Guide and classifier may start from the same weights.
    known.missing = list({(one.repo, one.file): one for one in reversed(known.missing)}.values())
    known.missing.reverse()
    if not known.missing:
        return Row("model files", True, "all here")
    groups = by_repository(known.missing)
    said = [
        f"{repo}{f' at {revision[:12]}' if revision else ''}: "
        f"{', '.join(files[:_SHOWN])}{', ...' if len(files) > _SHOWN else ''}"
        for (repo, revision), files in groups.items()
    ]
    detail = f"{len(known.missing)} files of {len(groups)} places are missing ({'; '.join(said)})"
    return Row("model files", False, detail, "run the commands below, or give local folders")


def _model(ctx: Context, known: _Findings) -> Row:
    settings = ctx.recipe.synthesize
    try:
        parts, solver = estimate.model_and_solver(ctx)
    except UserError:
        if any(one.key.startswith("synthesize.") for one in known.missing):
            return Row("model", "warning", "not known before its files are here")
        raise
    kind = {"sd": "Stable Diffusion", "sdxl": "Stable Diffusion XL"}[parts.family]
    detail = f"{kind}, {solver.prediction_type}; {settings.scheduler}, {settings.size} px"
    return Row("model", True, detail)


def _device(ctx: Context, known: _Findings) -> Row:
    known.device = resolve_device(ctx.recipe.device)
    detail = device_name(known.device)
    if known.device.type == "cuda":
        detail += f", {gib(torch.cuda.mem_get_info(known.device)[1])}"
    elif known.device.type == "cpu" and known.is_large:
        return Row(
            "device",
            "warning",
            f"{detail}; a model of this size is not practical without a GPU",
            "use a machine with a GPU; `--dataset pocket` is made for a CPU",
        )
    return Row("device", True, detail)


def _dtype(ctx: Context, known: _Findings) -> Row:
    dtype = ctx.recipe.synthesize.dtype
    if known.device is None:
        return Row("dtype", "warning", f"{dtype}: not checked without the device")
    kind = known.device.type
    if dtype == "bfloat16" and kind == "cuda":
        with torch.cuda.device(known.device):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        if not native:
            return Row(
                "dtype",
                "warning",
                "this GPU has no bfloat16 of its own and emulates it slowly",
                "set synthesize.dtype: float16",
            )
    if dtype == "float16" and kind == "cpu":
        return Row(
            "dtype",
            "warning",
            "float16 is slow on a CPU",
            "set synthesize.dtype: float32, or bfloat16",
        )
    if dtype == "float32" and kind == "cuda" and known.is_large:
        return Row(
            "dtype",
            "warning",
            "float32 needs twice the memory of bfloat16 and several times its time",
            "set synthesize.dtype: bfloat16",
        )
    return Row("dtype", True, f"{dtype}; autoencoder and guide in float32")


def _memory(ctx: Context, known: _Findings) -> Row:
    if known.cost.architecture is None:
        return Row("memory", "warning", "; ".join(known.cost.notes))
    asked = ctx.recipe.synthesize.batch_size
    batch = 1 if asked == "auto" else asked
    need = estimate.memory_of(ctx, known.cost.architecture, batch).peak
    of = f"a guided step of {batch} picture{'s' if batch > 1 else ''} needs about {gib(need)}"
    if known.device is None:
        return Row("memory", True, f"{of} (estimated)")
    free, total = _room(known.device)
    detail = f"{of}; {gib(free)} of {gib(total)} are free"
    if need <= free:
        return Row("memory", True, detail)
    remedy = _smaller(ctx)
    if need <= total:
        return Row("memory", "warning", detail, f"end other programs, or {remedy}")
    on_gpu = known.device.type == "cuda"
    if on_gpu and batch > 1 and estimate.memory_of(ctx, known.cost.architecture, 1).peak <= total:
        return Row("memory", "warning", f"{detail}; smaller batches will be tried", remedy)
    return Row("memory", False, detail, remedy)


def _room(device: torch.device) -> tuple[int, int]:
    """(free, all) bytes of the device."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return free, total
    memory = psutil.virtual_memory()
    return memory.available, memory.total


def _smaller(ctx: Context) -> str:
    """Keys that save memory and are not set yet."""
    settings = ctx.recipe.synthesize
    keys = {
        "synthesize.batch_size: auto": settings.batch_size not in (1, "auto"),
        "synthesize.dtype: bfloat16": settings.dtype == "float32",
        "synthesize.gradient_autoencoder (a tiny one)": settings.gradient_autoencoder is None,
        "synthesize.memory.gradient_checkpointing: true": (
            not settings.memory.gradient_checkpointing
        ),
        "synthesize.memory.cpu_offload: true": (
            not settings.memory.cpu_offload and settings.classifier.gradient == "x0"
        ),
    }
    open_ones = [key for key, useful in keys.items() if useful]
    return f"set {' or '.join(open_ones)}" if open_ones else "use a device with more memory"


def _disk(ctx: Context, known: _Findings) -> Row:
    try:
        counted = known.counted
    except UserError:
        return Row("disk", "warning", "not known without the data")
    need = counted.images * ctx.recipe.synthesize.size**2 * _BYTES_PER_PIXEL
    folder = ctx.workspace
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    detail = (
        f"{counted.images:,} pictures ({counted.source}) need about {gib(need)}; "
        f"{gib(free)} are free"
    )
    if need > free:
        return Row("disk", False, detail, "make room, or choose another --workspace")
    return Row("disk", True, detail)


def _time(ctx: Context, known: _Findings) -> Row:
    seconds, source = estimate.seconds_per_picture(ctx, known.cost.flops)
    if seconds is None:
        return Row("time", "warning", f"not known: {source}")
    each = f"{duration(seconds)} per picture ({source})"
    try:
        images = known.counted.images
    except UserError:
        return Row("time", True, f"about {each}")
    return Row("time", True, f"about {duration(seconds * images)}, {each}")


def _next(ctx: Context, known: _Findings, healthy: bool, selection: str) -> str | None:
    """The first command to type; None where something must be mended by hand, or all is done."""
    commands = [one.remedy for one in known.missing if one.remedy.startswith("hf download")]
    if commands:
        return commands[0].partition(" (")[0]
    return pipeline.next_command(pipeline.status(ctx), selection) if healthy else None
