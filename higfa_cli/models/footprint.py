"""Memory and arithmetic of sampling, computed without weights and without a GPU.

The real classes are built on fake tensors, which have shapes but no content, and the sampling
loop itself runs one guided step on them. They stand for the CPU's kernels, since torch chooses
CUDA's only where there is a GPU; the one choice that would matter, attention, comes out alike:
a fused kernel that keeps its output and one number per query, never the matrix of scores.

Not seen, and to be added on a real GPU: the CUDA context, cuDNN's workspaces and the allocator's
fragmentation. `channels_last` and `compile` are taken to change nothing.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary

from higfa_cli.method.guidance import Guidance
from higfa_cli.method.protocols import Level, Prediction
from higfa_cli.method.sampler import sample
from higfa_cli.models.classifier import Classifier
from higfa_cli.models.diffusion import DiffusionModel
from higfa_cli.models.draw import DecodedGuide
from higfa_cli.models.fake import NEGATIVE, PROMPT, fake_guide, fake_model
from higfa_cli.models.families import FAMILIES
from higfa_cli.models.families.family import Architecture
from higfa_cli.recipe.schema import Recipe


class LiveMemory(TorchDispatchMode):
    """Bytes of all storages made under this mode and still alive, and the largest value so far.

    A storage counts from the operation that returns it to its release, however many tensors view
    it; so do those that autograd keeps for the backward pass. What a kernel takes and gives back
    within one operation (workspaces) is not seen, nor is an allocator's rounding.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._sizes = WeakIdKeyDictionary(ref_type=weakref.ref)

    def hold(self, *modules: nn.Module) -> int:
        """Count parameters and buffers as being on the device; returns their bytes."""
        before = self.live
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                self._add(tensor)
        return self.live - before

    def move(self, size: int) -> None:
        """`size` bytes of held weights come to the device, or leave it (negative)."""
        self.live += size
        self.peak = max(self.peak, self.live)

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._sizes:
            return
        size = storage.nbytes()
        self._sizes[storage] = size
        weakref.finalize(storage, self._released, size).atexit = False
        self.move(size)

    def _released(self, size: int) -> None:
        self.live -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._add(leaf)
        return out


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


def guided_step(arch: Architecture, recipe: Recipe, batch: int) -> Footprint:
    """The footprint of one guided step as the sampling loop runs it, and of the last decoding.

    The ControlNet is taken to be on in that step.

    Args:
        arch: what the recipe's model is made of.
        recipe: precision, size, guide, composition, gradient and memory keys are honoured.
        batch: pictures drawn together.

    Raises:
        UserError: a guide that timm cannot build.
    """
    with _fake():
        model, guide = fake_model(arch, recipe), fake_guide(recipe.guide)
        return measure_step(model, guide, recipe.guidance, batch, recipe.run.memory.cpu_offload)


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
        movable = memory.hold(model.network, model.controlnet)
        memory.hold(model.autoencoder, model.gradient_autoencoder, guide)
        weights = memory.live
        always = model.sampling.model_copy(update={"conditioning_interval": (0.0, 1.0)})
        model = model.with_sampling(always)
        conditions = model.conditions([PROMPT] * batch, NEGATIVE, _contours(model, batch))
        model = replace(model, offloads=[_Offload(memory, movable)] if offload else [])
        step = sample(
            torch.empty(batch, *model.latent_shape),
            torch.zeros(batch, dtype=torch.long),
            model.denoiser(conditions),
            _OneStep(),
            guidance.switched(0.0),
            DecodedGuide(model, guide),
        )
        x = next(step).x
        with torch.no_grad():
            model.decode(x)
        return Footprint(weights=weights, peak=memory.peak)


def flops_per_picture(arch: Architecture, recipe: Recipe) -> float:
    """Floating-point operations (a multiply-add is two) of the whole sampling of one picture.

    Every step's branches through denoiser and ControlNet, the guided steps' decoding, guide and
    gradient, the encoding of a contour that is read as latents, and the last decoding. Prompts
    are not in it: they are encoded once per run.
    """
    guidance, sampling = recipe.guidance, recipe.sampling
    # Not under fake tensors: the levels are numbers.
    solver = FAMILIES[arch.family].solver(sampling.scheduler, arch.scheduler, sampling.steps)
    with _fake():
        model = fake_model(arch, recipe)
        guide = DecodedGuide(model, fake_guide(recipe.guide))
        noise = torch.empty(1, *model.latent_shape)
        targets = torch.zeros(1, dtype=torch.long)
        with FlopCounterMode(display=False) as once, torch.no_grad():
            conditions = model.conditions([PROMPT], NEGATIVE, _contours(model, 1))
            model.decode(noise)
        denoiser = model.denoiser(conditions)
        total = float(once.get_total_flops())
        of_kind: dict[tuple[bool, bool], float] = {}
        for level in solver.levels:
            kind = (guidance.guided(level), model.controlled(level))
            if kind not in of_kind:
                with FlopCounterMode(display=False) as counted:
                    next(sample(noise, targets, denoiser, _OneStep(level), guidance, guide))
                of_kind[kind] = float(counted.get_total_flops())
            total += of_kind[kind]
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
