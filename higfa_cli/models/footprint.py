"""Memory and arithmetic of sampling, reckoned without weights and without a GPU.

The real classes are built on fake tensors, which have shapes but no content, and the sampling
loop itself runs one guided step on them. They stand for the CPU's kernels, since torch chooses
CUDA's only where there is a GPU; the one choice that would matter, attention, comes out alike:
a fused kernel that keeps its output and one number per query, never the matrix of scores.

Not seen, and to be added on a real GPU: the CUDA context, cuDNN's workspaces and the allocator's
fragmentation. `channels_last` and `compile` are taken to change nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils.flop_counter import FlopCounterMode

from higfa_cli.errors import UserError
from higfa_cli.method.protocols import Branch, Level, Prediction
from higfa_cli.method.sampler import sample
from higfa_cli.method.schedule import StrengthSchedule
from higfa_cli.models.architecture import Architecture
from higfa_cli.models.autoencoder import Autoencoder
from higfa_cli.models.backbones import build_network
from higfa_cli.models.classifier import Classifier, ClassifierSpec
from higfa_cli.models.diffusion import DiffusionModel, Prompts
from higfa_cli.models.draw import DecodedGuide, schedule_of
from higfa_cli.models.families import FAMILIES
from higfa_cli.models.live_memory import LiveMemory
from higfa_cli.models.scheduler import SchedulerSolver
from higfa_cli.models.text import TextStates
from higfa_cli.recipe.schema import Synthesize

_CPU = torch.device("cpu")
_CLASSES = 100
_PROMPT, _NEGATIVE = "prompt", "negative"
_ALL_RUN = (0.0, 1.0)


@dataclass(frozen=True)
class Footprint:
    """Bytes on the device.

    Attributes:
        weights: denoiser, ControlNet, autoencoders and guide; the text encoders are gone by then.
        peak: the most that is live at once, weights included, in a guided step or (where a tiny
            autoencoder or offloading makes that the larger) in the last decoding.
    """

    weights: int
    peak: int


def guided_step(
    arch: Architecture,
    settings: Synthesize,
    batch: int,
    guide_size: int,
    backbone: str = "resnet50",
) -> Footprint:
    """The footprint of one guided step as the sampling loop runs it, and of the last decoding.

    The ControlNet is taken to be on in that step.

    Args:
        arch: what the model is made of.
        settings: precision, size, composition, gradient and memory keys are honoured.
        batch: pictures drawn together.
        guide_size: side of the guide's input, pixels.
        backbone: timm's name of the guide's network.

    Raises:
        UserError: a guide that timm cannot build.
    """
    schedule = decided(schedule_of(settings))
    with _fake():
        model = fake_model(arch, settings)
        guide = fake_guide(backbone, guide_size)
        return measure_step(model, guide, schedule, batch)


def measure_step(
    model: DiffusionModel, guide: Classifier, schedule: StrengthSchedule, batch: int
) -> Footprint:
    """As `guided_step`, of a model and guide that exist, fake or real."""
    with LiveMemory() as memory:
        return _measure(model, guide, schedule, batch, memory)


def _measure(
    model: DiffusionModel,
    guide: Classifier,
    schedule: StrengthSchedule,
    batch: int,
    memory: LiveMemory,
) -> Footprint:
    movable = memory.hold(model.unet) + memory.hold(model.controlnet)
    memory.hold(model.autoencoder)
    memory.hold(model.gradient_autoencoder)
    memory.hold(guide)
    weights = memory.live
    offloads = [_Offload(memory, movable)] if model.settings.memory.cpu_offload else []
    model = replace(model, offloads=offloads)
    conditions = model.conditions([_PROMPT] * batch, _NEGATIVE, _contours(model, batch))
    conditions = replace(conditions, interval=_ALL_RUN)
    noise = torch.empty(batch, *model.latent_shape)
    targets = torch.zeros(batch, dtype=torch.long)
    step = sample(
        noise,
        targets,
        model.denoiser(conditions),
        _OneStep(),
        replace(schedule, switch=0.0, switch_sigma=None),
        DecodedGuide(model, guide),
    )
    x = next(step).x
    with torch.no_grad():
        model.decode(x)
    return Footprint(weights=weights, peak=memory.peak)


def flops_per_picture(
    arch: Architecture,
    settings: Synthesize,
    guide_size: int = 224,
    backbone: str = "resnet50",
) -> float:
    """Floating-point operations (a multiply-add is two) of the whole sampling of one picture.

    Every step's branches through denoiser and ControlNet, the guided steps' decoding, guide and
    gradient, and the last decoding. Prompts are not in it: they are encoded once per run.

    Args:
        arch: what the model is made of.
        settings: the recipe's section.
        guide_size: side of the guide's input, pixels.
        backbone: timm's name of the guide's network.
    """
    schedule = decided(schedule_of(settings))
    # Not under fake tensors: the levels are numbers.
    levels = SchedulerSolver(settings.scheduler, arch.scheduler, settings.steps).levels
    with _fake():
        model = fake_model(arch, settings)
        guide = DecodedGuide(model, fake_guide(backbone, guide_size))
        conditions = model.conditions([_PROMPT], _NEGATIVE, _contours(model, 1))
        denoiser = model.denoiser(conditions)
        noise = torch.empty(1, *model.latent_shape)
        targets = torch.zeros(1, dtype=torch.long)
        with FlopCounterMode(display=False) as decoding, torch.no_grad():
            model.decode(noise)
        total = float(decoding.get_total_flops())
        seen: dict[tuple[bool, bool], float] = {}
        for level in levels:
            kind = (schedule.guided(level), conditions.controlled(level))
            if kind not in seen:
                with FlopCounterMode(display=False) as counted:
                    next(sample(noise, targets, denoiser, _OneStep(level), schedule, guide))
                seen[kind] = float(counted.get_total_flops())
            total += seen[kind]
    return total


def fake_model(arch: Architecture, settings: Synthesize) -> DiffusionModel:
    """The model without content; call it under a FakeTensorMode (without, it is real and random).

    Its one prompt and negative prompt are encoded, to nothing.
    """
    from diffusers import ControlNetModel, UNet2DConditionModel

    dtype = getattr(torch, settings.dtype)
    with _default_dtype(dtype):
        unet = UNet2DConditionModel.from_config(arch.unet)
        controlnet = ControlNetModel.from_config(arch.controlnet)
    for module in (unet, controlnet):
        module.eval().requires_grad_(False)
        if settings.memory.gradient_checkpointing:
            module.enable_gradient_checkpointing()
    autoencoder = gradient_autoencoder = _autoencoder(arch.vae, settings)
    if arch.gradient_vae is not None:
        gradient_autoencoder = _autoencoder(arch.gradient_vae, settings)
    text = _text(arch, dtype)
    return DiffusionModel(
        family=FAMILIES[arch.family],
        prompts=Prompts((), {_PROMPT: text, _NEGATIVE: text}),
        unet=unet,
        controlnet=controlnet,
        autoencoder=autoencoder,
        gradient_autoencoder=gradient_autoencoder,
        # diffusers' own default, for files older than the key.
        scheduler_config={"prediction_type": "epsilon"} | arch.scheduler,
        settings=settings,
        device=_CPU,
    )


def _autoencoder(config: dict[str, Any], settings: Synthesize) -> Autoencoder:
    from diffusers import AutoencoderKL, AutoencoderTiny

    classes: dict[str, Any] = {c.__name__: c for c in (AutoencoderKL, AutoencoderTiny)}
    name = config.get("_class_name")
    if name not in classes:
        raise UserError(
            f"the autoencoder of `{settings.model}` is a `{name}`, which is not supported; use a "
            f"model with an {' or '.join(classes)}"
        )
    # Another layout takes no other room, and fake parameters cannot be given one.
    memory = settings.memory.model_copy(update={"channels_last": False})
    return Autoencoder(classes[name].from_config(config), memory)


def fake_guide(backbone: str, size: int) -> Classifier:
    """A guide without content for pictures of `size` pixels."""
    half = (0.5, 0.5, 0.5)
    classes = tuple(str(i) for i in range(_CLASSES))
    guide = Classifier(nn.Identity(), ClassifierSpec(backbone, classes, size, half, half))
    # Not by the constructor, which casts to float32: fake parameters cannot be cast.
    # Built for real first: some constructors (timm's RegNet) look into tensors of theirs.
    with unset_fake_temporarily():
        network = build_network(backbone, _CLASSES, size).requires_grad_(False).eval()
    guide.network = _emptied(network)
    return guide


def _emptied(network: nn.Module) -> nn.Module:
    """The network with fake tensors in the place of its own; under a FakeTensorMode."""
    for module in network.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(torch.empty_like(value), requires_grad=False))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.empty_like(buffer))
    return network


@dataclass(frozen=True)
class _Decided(StrengthSchedule):
    """A schedule that has chosen its branches, since fake tensors cannot be looked into."""

    unguided: tuple[Branch, ...] = ()
    while_guided: tuple[Branch, ...] = ()

    def branches(self, guided: bool) -> tuple[Branch, ...]:
        return self.while_guided if guided else self.unguided


def decided(schedule: StrengthSchedule) -> StrengthSchedule:
    """The same schedule, fit for fake tensors; call it outside their mode."""
    return _Decided(
        **{field.name: getattr(schedule, field.name) for field in fields(schedule)},
        unguided=schedule.branches(False),
        while_guided=schedule.branches(True),
    )


def _text(arch: Architecture, dtype: torch.dtype) -> TextStates:
    """One prompt's states: every encoder's side by side, and the last one's pooled ones."""
    from transformers import CLIPTextConfig

    encoders: list[Any] = [CLIPTextConfig.from_dict(config) for config in arch.text_encoders]
    tokens = encoders[0].max_position_embeddings
    states = torch.zeros(tokens, arch.unet["cross_attention_dim"], dtype=dtype)
    if arch.family == "sd":
        return TextStates(states)
    return TextStates(states, torch.zeros(encoders[-1].projection_dim, dtype=dtype))


def _contours(model: DiffusionModel, batch: int) -> Tensor:
    return torch.empty(batch, 1, model.size, model.size)


@contextmanager
def _fake() -> Iterator[None]:
    # Initialising weights that have no content would draw from the caller's random state.
    with torch.random.fork_rng(devices=[]), FakeTensorMode(allow_non_fake_inputs=True):
        yield


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Build modules in `dtype`: fake parameters cannot be cast afterwards."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class _Offload:
    """Stands in for the hook that moves denoiser and ControlNet into main memory."""

    def __init__(self, memory: LiveMemory, size: int) -> None:
        self.memory, self.size = memory, size

    def offload(self) -> None:
        self.memory.move(-self.size)
        self.size = 0


class _OneStep:
    """A solver of one level, whose own tensors weigh next to nothing."""

    def __init__(self, level: Level | None = None) -> None:
        self.levels: Sequence[Level] = (level or Level(0, 0.0, 500, 0.8, 0.6),)

    def start(self, noise: Tensor) -> Tensor:
        return noise

    def to_vp(self, x: Tensor, level: Level) -> Tensor:
        return x

    def step(self, prediction: Prediction, x: Tensor, level: Level) -> Tensor:
        return prediction.x0

    def restart(self) -> None:
        return None
