"""Memory and arithmetic of sampling, computed without weights and without a GPU.

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
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from higfa_cli.method.guidance import Guidance
from higfa_cli.method.protocols import Level, Prediction
from higfa_cli.method.sampler import sample
from higfa_cli.models.classifier import Classifier
from higfa_cli.models.diffusion import DiffusionModel
from higfa_cli.models.draw import DecodedGuide
from higfa_cli.models.fake import NEGATIVE, PROMPT, Setup, fake_guide, fake_model
from higfa_cli.models.families import FAMILIES
from higfa_cli.models.families.family import Architecture
from higfa_cli.models.live_memory import LiveMemory

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
    setup: Setup,
    batch: int,
    guide_size: int,
    backbone: str = "resnet50",
) -> Footprint:
    """The footprint of one guided step as the sampling loop runs it, and of the last decoding.

    The ControlNet is taken to be on in that step.

    Args:
        arch: what the model is made of.
        setup: precision, size, composition, gradient and memory keys are honoured.
        batch: pictures drawn together.
        guide_size: side of the guide's input, pixels.
        backbone: timm's name of the guide's network.

    Raises:
        UserError: a guide that timm cannot build.
    """
    with _fake():
        model = fake_model(arch, setup)
        guide = fake_guide(backbone, guide_size)
        offload = setup.memory.cpu_offload
        return measure_step(model, guide, setup.guidance, batch, offload)


def measure_step(
    model: DiffusionModel,
    guide: Classifier,
    guidance: Guidance,
    batch: int,
    offload: bool = False,
) -> Footprint:
    """As `guided_step`, of a model and guide that exist, fake or real.

    `offload`: with denoiser and ControlNet in main memory while the autoencoder works.
    """
    with LiveMemory() as memory:
        return _measure(model, guide, guidance, batch, offload, memory)


def _measure(
    model: DiffusionModel,
    guide: Classifier,
    guidance: Guidance,
    batch: int,
    offload: bool,
    memory: LiveMemory,
) -> Footprint:
    movable = memory.hold(model.network) + memory.hold(model.controlnet)
    memory.hold(model.autoencoder)
    memory.hold(model.gradient_autoencoder)
    memory.hold(guide)
    weights = memory.live
    conditions = model.conditions([PROMPT] * batch, NEGATIVE, _contours(model, batch))
    conditions = replace(conditions, interval=_ALL_RUN)
    offloads = [_Offload(memory, movable)] if offload else []
    model = replace(model, offloads=offloads)
    noise = torch.empty(batch, *model.latent_shape)
    targets = torch.zeros(batch, dtype=torch.long)
    step = sample(
        noise,
        targets,
        model.denoiser(conditions),
        _OneStep(),
        guidance.switched(0.0),
        DecodedGuide(model, guide),
    )
    x = next(step).x
    with torch.no_grad():
        model.decode(x)
    return Footprint(weights=weights, peak=memory.peak)


def flops_per_picture(
    arch: Architecture,
    setup: Setup,
    guide_size: int = 224,
    backbone: str = "resnet50",
) -> float:
    """Floating-point operations (a multiply-add is two) of the whole sampling of one picture.

    Every step's branches through denoiser and ControlNet, the guided steps' decoding, guide and
    gradient, the encoding of a contour that is read as latents, and the last decoding. Prompts
    are not in it: they are encoded once per run.

    Args:
        arch: what the model is made of.
        setup: the recipe's.
        guide_size: side of the guide's input, pixels.
        backbone: timm's name of the guide's network.
    """
    guidance, sampling = setup.guidance, setup.sampling
    # Not under fake tensors: the levels are numbers.
    family = FAMILIES[arch.family]
    levels = family.solver(sampling.scheduler, arch.scheduler, sampling.steps).levels
    with _fake():
        model = fake_model(arch, setup)
        guide = DecodedGuide(model, fake_guide(backbone, guide_size))
        noise = torch.empty(1, *model.latent_shape)
        targets = torch.zeros(1, dtype=torch.long)
        with FlopCounterMode(display=False) as once, torch.no_grad():
            conditions = model.conditions([PROMPT], NEGATIVE, _contours(model, 1))
            model.decode(noise)
        denoiser = model.denoiser(conditions)
        total = float(once.get_total_flops())
        seen: dict[tuple[bool, bool], float] = {}
        for level in levels:
            kind = (guidance.guided(level), conditions.controlled(level))
            if kind not in seen:
                with FlopCounterMode(display=False) as counted:
                    next(sample(noise, targets, denoiser, _OneStep(level), guidance, guide))
                seen[kind] = float(counted.get_total_flops())
            total += seen[kind]
    return total


def _contours(model: DiffusionModel, batch: int) -> Tensor:
    return torch.empty(batch, 1, model.size, model.size)


@contextmanager
def _fake() -> Iterator[None]:
    # Initialising weights that have no content would draw from the caller's random state.
    with torch.random.fork_rng(devices=[]), FakeTensorMode(allow_non_fake_inputs=True):
        yield


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

    def to_x_t(self, x: Tensor, level: Level) -> Tensor:
        return x

    def step(self, prediction: Prediction, x: Tensor, level: Level) -> Tensor:
        return prediction.x0

    def restart(self) -> None:
        return None
