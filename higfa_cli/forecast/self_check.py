"""`higfa doctor --self-check`: a short guided sampling with the recipe's own model and device."""

from __future__ import annotations

import copy
import inspect
import platform
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from higfa_cli import __version__
from higfa_cli.data.layouts import layout_of
from higfa_cli.forecast.estimate import photos_folder
from higfa_cli.forecast.findings import Row
from higfa_cli.method.guidance import Guidance, TextStrength
from higfa_cli.method.sampler import Step, sample
from higfa_cli.models.backbones import build_network, check_name
from higfa_cli.models.classifier import Classifier, ClassifierSpec, load_classifier
from higfa_cli.models.device import resolve_device
from higfa_cli.models.diffusion import DiffusionModel, seeded_noise
from higfa_cli.models.draw import DecodedGuide
from higfa_cli.models.families.family import diffusers_class
from higfa_cli.models.loading import load_pipeline
from higfa_cli.recipe.refs import resolve_ref
from higfa_cli.stages.context import Context, load_photos
from higfa_cli.stages.plan import class_prompts
from higfa_cli.text import gib, plural

STEPS = 4
_STOCK_STEPS = 2
_STOCK_SCALE = 5.0
_OTHER_PROMPT = "a photo of a red brick wall"
_SEED = 0
# Mean difference of two pictures, of 255, that is no rounding.
_MOVED = 0.25
_UNKNOWN_CLASSES = 10
_LIBRARIES = ("torch", "diffusers", "transformers", "timm")
_MORE_PRECISE = "set model.dtype: bfloat16 or float32"
_OTHER_WEIGHTS = "check that the weights are the model's own"
_MISMATCH = "check that model and ControlNet belong together"


@dataclass(frozen=True)
class _Drawn:
    """One short sampling: picture [3, S, S], 0-255 but not rounded, steps, seconds of each."""

    picture: Tensor
    steps: Sequence[Step]
    seconds: Sequence[float]

    def difference(self, other: _Drawn) -> float:
        """Mean absolute difference, of 255."""
        return float((self.picture - other.picture).abs().mean())


def self_check(ctx: Context) -> dict[str, Any]:
    """Load the recipe's model and draw a few pictures in four steps; nothing is written.

    The contours are drawn by the check itself. The guide is the workspace's; where there is none
    yet, a network of the recipe's kind with random weights, which is enough for its gradient.

    Returns:
        {"checks": rows as `doctor`'s, "measured": numbers, "block": a text to be pasted into a
        report, without paths and names}.

    Raises:
        UserError: a model, guide or device that is not here. The hub is not asked.
    """
    recipe = ctx.recipe
    device = resolve_device(recipe.run.device)
    classes, prompt, other = _classes_and_prompts(ctx)
    run = recipe.run.model_copy(update={"local_files_only": True})
    sampling = recipe.sampling.model_copy(update={"steps": STEPS})
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    prompts = [prompt, other, ""]
    checked = recipe.model_copy(update={"run": run, "sampling": sampling})
    model = load_pipeline(checked, ctx.base, device, prompts)
    guide, origin = _guide(ctx, classes, device)
    circle, box = _contours(recipe.size)
    # The recipe's, half of the steps guided, the classifier's gradient never off.
    classifier = recipe.guidance.classifier
    classifier = replace(classifier, scale=classifier.scale or 1.0)
    guidance = replace(recipe.guidance, classifier=classifier).switched(0.5)

    draw = partial(_draw, model, DecodedGuide(model, guide), guidance)
    first, again = draw(prompt, circle), draw(prompt, circle)
    moved = {"text": draw(other, circle), "contour": draw(prompt, box)}
    rows = [*_judgements(first, again, moved, origin), _like_stock(model, prompt, circle)]
    measured = _measured(model, again)
    block = _block(ctx, model, measured, rows)
    return {"checks": [asdict(row) for row in rows], "measured": measured, "block": block}


def _classes_and_prompts(ctx: Context) -> tuple[int, str, str]:
    """How many classes, a prompt of the first and another; general ones without the data."""
    if photos_folder(ctx) is None:
        layout = layout_of(ctx.recipe.data.layout)
        count = _UNKNOWN_CLASSES if layout is None else layout.classes
        return count, "a photo", _OTHER_PROMPT
    classes = load_photos(ctx).classes
    prompts = class_prompts(ctx, classes)
    other = prompts[classes[-1]][0] if len(classes) > 1 else _OTHER_PROMPT
    return len(classes), prompts[classes[0]][0], other


def _guide(ctx: Context, classes: int, device: torch.device) -> tuple[Classifier, str]:
    """The workspace's guide, or a random one; and which of the two."""
    path, guide = ctx.ws.guide.checkpoint, ctx.recipe.guide
    if path.is_file():
        return load_classifier(path, device), "the workspace's guide"
    check_name(guide.backbone)
    with torch.random.fork_rng():
        torch.manual_seed(_SEED)
        network = build_network(guide.backbone, classes, guide.image_size)
    names, half = tuple(f"class {index}" for index in range(classes)), (0.5, 0.5, 0.5)
    spec = ClassifierSpec(guide.backbone, names, guide.image_size, half, half)
    origin = f"no guide yet: a random {guide.backbone} of {plural(classes, 'class', 'classes')}"
    return Classifier(network, spec).to(device), origin


def _contours(size: int) -> tuple[Tensor, Tensor]:
    """A circle and a box as thin edges, each [1, 1, S, S] in [0, 1]."""
    line = torch.arange(size) - (size - 1) / 2
    y, x = torch.meshgrid(line, line, indexing="ij")
    width = max(1.0, size / 256)
    circle = ((x**2 + y**2).sqrt() - 0.35 * size).abs() <= width
    box = (torch.maximum(x.abs(), y.abs()) - 0.25 * size).abs() <= width
    return circle[None, None].float(), box[None, None].float()


def _draw(
    model: DiffusionModel, guide: DecodedGuide, guidance: Guidance, text: str, contour: Tensor
) -> _Drawn:
    denoiser = model.denoiser(model.conditions([text], "", contour))
    start = seeded_noise([_SEED], model.latent_shape, model.device)
    target = torch.zeros(1, dtype=torch.long, device=model.device)
    steps, seconds = [], []
    _synchronize(model.device)
    before = time.perf_counter()
    for step in sample(start, target, denoiser, model.solver(STEPS), guidance, guide):
        _synchronize(model.device)
        now = time.perf_counter()
        steps.append(step)
        seconds.append(now - before)
        before = now
    with torch.no_grad():
        picture = model.decode(steps[-1].x)[0].float().cpu()
    return _Drawn((picture.clamp(-1, 1) + 1) * 127.5, steps, seconds)


def _judgements(
    first: _Drawn, again: _Drawn, moved: Mapping[str, _Drawn], origin: str
) -> Iterator[Row]:
    """What must hold of one picture, the same again, and one with another condition each."""
    fine = bool(first.picture.isfinite().all()) and all(bool(s.finite.all()) for s in first.steps)
    yield _judged("finite", fine, "latents, guide and picture", _MORE_PRECISE)
    spread = float(first.picture.flatten(1).std(dim=1).mean())
    detail = f"standard deviation {spread:.1f} of 255"
    yield _judged("not constant", spread > 1.0, detail, _OTHER_WEIGHTS)
    noise = first.difference(again)
    for condition, other in moved.items():
        difference = first.difference(other)
        detail = f"by {difference:.2f} of 255 on average (drawn twice: {noise:.2f})"
        fine = difference > max(_MOVED, 3 * noise)
        yield _judged(f"{condition} moves the picture", fine, detail, _MISMATCH)
    norms = [float(s.grad_norm.max()) for s in first.steps if s.grad_norm is not None]
    fine = bool(norms) and all(0 < norm < float("inf") for norm in norms)
    detail = f"norm {max(norms, default=0.0):.3g} ({origin})"
    yield _judged("guide's gradient", fine, detail, _MORE_PRECISE)


def _judged(check: str, fine: bool, detail: str, remedy: str) -> Row:
    return Row(check, "ok", detail) if fine else Row(check, "failed", detail, remedy)


def _like_stock(model: DiffusionModel, prompt: str, contour: Tensor) -> Row:
    """`joint` without guide against the stock pipeline of these parts, in two steps."""
    check = "as the stock pipeline"
    if model.offloads:
        return Row(check, "warning", "not compared: run.memory.cpu_offload moves its parts")
    guidance = Guidance(composition="joint", text=TextStrength(_STOCK_SCALE)).switched(1.0)
    start = seeded_noise([_SEED], model.latent_shape, model.device)
    model = model.with_sampling(model.sampling.model_copy(update={"steps": _STOCK_STEPS}))
    denoiser = model.denoiser(model.conditions([prompt], "", contour))
    target = torch.zeros(1, dtype=torch.long, device=model.device)
    ours = list(sample(start, target, denoiser, model.solver(_STOCK_STEPS), guidance))[-1].x
    theirs = _stock_latents(model, prompt, contour, start)
    with torch.no_grad():
        pictures = [(model.decode(x.float()).clamp(-1, 1) + 1) * 127.5 for x in (ours, theirs)]
    difference = (pictures[0] - pictures[1]).abs()
    # In half precision the stock pipeline rounds its latents too, which ours keeps whole.
    exact = model.network.dtype == torch.float32
    kind, bar = ("largest", 2.0) if exact else ("mean", 4.0)
    worst = float(difference.max() if exact else difference.mean())
    detail = f"{kind} difference {worst:.2f} of 255 (bar {bar:g})"
    return _judged(check, worst <= bar, detail, "report this, with the block below")


@torch.no_grad()
def _stock_latents(model: DiffusionModel, prompt: str, contour: Tensor, noise: Tensor) -> Tensor:
    """x0 of the stock pipeline, drawn from the same noise with the model's own parts."""
    family, dtype = model.family, model.network.dtype
    text, negative = (model.texts([prompt]) for prompt in (prompt, ""))
    vae = model.autoencoder.vae
    stock = diffusers_class(family.pipeline)
    # The prompts are encoded: no encoder is needed, and what is left out need not be known.
    expected = inspect.signature(stock.__init__).parameters
    nothing = {name: None for name in expected if name.startswith(("text_enc", "tokenizer"))}
    pipe = stock(
        **nothing,
        **{family.network: model.network},
        # Where the pipeline encodes the contours, it does so in the network's precision.
        vae=vae if vae.dtype == dtype else copy.deepcopy(vae).to(dtype),
        controlnet=model.controlnet,
        scheduler=model.solver(_STOCK_STEPS).scheduler,
        **{k: v for k, v in family.pipeline_options({}).items() if k not in nothing},
    )
    pipe.set_progress_bar_config(disable=True)
    start, end = model.sampling.conditioning_interval
    latents: Tensor = pipe(
        latents=noise.to(dtype),
        num_inference_steps=_STOCK_STEPS,
        guidance_scale=_STOCK_SCALE,
        controlnet_conditioning_scale=model.sampling.conditioning_scale,
        control_guidance_start=start,
        control_guidance_end=end,
        output_type="latent",
        **family.stock_call(text, negative, contour.expand(-1, 3, -1, -1)),
    ).images
    return latents


def _measured(model: DiffusionModel, drawn: _Drawn) -> dict[str, Any]:
    """Seconds per step and peak memory, of a sampling that is not the first."""
    taken: dict[bool, list[float]] = {False: [], True: []}
    for step, seconds in zip(drawn.steps, drawn.seconds, strict=True):
        taken[step.p is not None].append(seconds)
    peak, what = psutil.Process().memory_info().rss, "memory of the process"
    if model.device.type == "cuda":
        peak, what = torch.cuda.max_memory_allocated(model.device), "device memory, peak"
    return {
        "seconds_per_unguided_step": round(statistics.median(taken[False]), 4),
        "seconds_per_guided_step": round(statistics.median(taken[True]), 4),
        "memory_bytes": int(peak),
        "memory_of": what,
    }


def _block(
    ctx: Context, model: DiffusionModel, measured: dict[str, Any], rows: Sequence[Row]
) -> str:
    """The block for reports: fenced, and nothing in it says whose machine this is."""
    recipe, device = ctx.recipe, model.device
    place = f"{device.type} ({plural(torch.get_num_threads(), 'thread')})"
    if device.type == "cuda":
        place = f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    saving = [name for name, value in recipe.run.memory.model_dump().items() if value]
    saving += ["tiling"] if recipe.model.tiling else []
    saving += ["gradient_autoencoder"] if recipe.model.gradient_autoencoder is not None else []
    lines = [
        f"higfa {__version__} self-check",
        *(f"{name} {metadata.version(name)}" for name in _LIBRARIES),
        f"python {platform.python_version()}, {platform.system()} {platform.machine()}",
        f"device {place}",
        f"family {type(model.family).__name__}, {recipe.model.dtype}, "
        f"{recipe.sampling.scheduler}, {recipe.size} px, {model.prediction_type}",
        f"model {_public(recipe.model.base, ctx.base)}, "
        f"controlnet {_public(recipe.model.controlnet, ctx.base)}",
        f"memory keys {', '.join(saving) or 'none'}",
        f"{measured['seconds_per_unguided_step']:.4g} s per unguided step, "
        f"{measured['seconds_per_guided_step']:.4g} s per guided step, batch 1",
        f"{gib(measured['memory_bytes'])} {measured['memory_of']}",
        *(f"{row.status.replace('failed', 'FAILED')}: {row.check}: {row.detail}" for row in rows),
    ]
    return "\n".join(["```text", *lines, "```"])


def _public(ref: str, base: Path) -> str:
    """A hub id or a part of the pocket by name; of a folder nothing but that it is one."""
    if ref.startswith("pocket:"):
        return ref
    return "local folder" if isinstance(resolve_ref(ref, base), Path) else ref


def _synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was asked to do."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
