"""Memory and arithmetic without weights: against hand-worked cases, torch's own, and real runs."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from higfa_cli.errors import UserError
from higfa_cli.method.sampler import sample
from higfa_cli.models.architecture import architecture
from higfa_cli.models.draw import DecodedGuide
from higfa_cli.models.fake import fake_guide, fake_model
from higfa_cli.models.families.family import Inputs
from higfa_cli.models.footprint import (
    Footprint,
    LiveMemory,
    flops_per_picture,
    guided_step,
    measure_step,
)
from higfa_cli.models.scheduler import FLOW
from higfa_cli.recipe.classifiers import Guide
from higfa_cli.recipe.schema import Recipe
from tests.support.recipes import drawing_recipe
from tests.support.tiny import FLOWS, SIZE, make_model, make_tiny_autoencoder, make_vae
from tools import memory_table

MIB = 2**20


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of every family."""
    path = tmp_path_factory.mktemp("models")
    for family in ("sd", "sdxl", "pocket-like", "sd3", "sd35"):
        make_model(path / family, family=family)
    make_tiny_autoencoder(path)
    return path


def settings(family: str, **changes: Any) -> Recipe:
    if (family, "flow") in FLOWS:
        changes["scheduler"] = FLOW
    recipe = drawing_recipe(f"{family}/sd", f"{family}/controlnet", size=SIZE, **changes)
    return recipe.model_copy(update={"guide": Guide(backbone="resnet10t", image_size=16)})


# The counting itself.


def peak_of_chain(size: int) -> int:
    """Peak in bytes of going through eight times sigmoid(linear) and back.

    `size` layers per checkpoint (0: none). Every activation is 1 MiB, the weights 2 MiB in all.
    """
    layers = nn.ModuleList(nn.Linear(256, 256, bias=False) for _ in range(8))
    layers.requires_grad_(False)
    x = torch.empty(1024, 256).requires_grad_()

    def run(part: nn.ModuleList, h: Tensor) -> Tensor:
        for layer in part:
            h = torch.sigmoid(layer(h))
        return h

    with LiveMemory() as memory:
        assert memory.hold(layers) == 2 * MIB
        h = x.view_as(x)  # the first thing counted: x's own storage
        for i in range(0, 8, size or 8):
            part = layers[i : i + (size or 8)]
            h = checkpoint(run, part, h, use_reentrant=False) if size else run(part, h)
        total = h.sum()
        torch.autograd.grad(total, x)
    return memory.peak


@pytest.mark.parametrize("fake", [False, True], ids=["real", "fake"])
@pytest.mark.parametrize(
    ("size", "activations"),
    [
        # x and eight outputs are kept; going back, a gradient in and one out.
        (0, 1 + 8 + 2),
        # x and four ends are kept; the last pair comes again: an output, and the second layer's
        # product and output, at once. Later its two outputs and two gradients less the one used up.
        (2, 1 + 4 + 3),
        # x and two ends; three outputs again, and the fourth layer's product and output.
        (4, 1 + 2 + 5),
        # One checkpoint around everything saves nothing.
        (8, 1 + 1 + 9),
    ],
)
def test_hand_worked_chain(size: int, activations: int, fake: bool) -> None:
    if fake:
        with FakeTensorMode():
            peak = peak_of_chain(size)
    else:
        peak = peak_of_chain(size)
    # The sum and its gradient: four bytes each.
    assert peak == (2 + activations) * MIB + 8


def test_views_count_once_and_release_is_seen() -> None:
    with LiveMemory() as memory:
        a = torch.zeros(1000)
        b = a.view(10, 100).t()
        assert memory.live == 4000
        del a
        assert memory.live == 4000
        del b
        assert (memory.live, memory.peak) == (0, 4000)
        memory.move(10)
        assert (memory.live, memory.peak) == (10, 4000)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_torch_s_own_tracker_agrees(checkpointed: bool) -> None:
    # It hooks modules, so it can follow neither frozen parameters nor autograd.grad: no use for
    # the guide's gradient, but an independent count of what it does follow.
    peaks = []
    for tracker in (LiveMemory(), MemTracker()):
        with FakeTensorMode():
            vae = make_vae().eval()
            if checkpointed:
                vae.enable_gradient_checkpointing()
            z = torch.empty(2, 4, 16, 16)
            if isinstance(tracker, MemTracker):
                tracker.track_external(vae)
            with tracker:
                if isinstance(tracker, LiveMemory):
                    tracker.hold(vae)
                vae.decode(z * 1.0, return_dict=False)[0].sum().backward()
        if isinstance(tracker, MemTracker):
            (snapshot,) = tracker.get_tracker_snapshot("peak").values()
            peaks.append(snapshot["Total"])
        else:
            peaks.append(tracker.peak)
    assert peaks[0] == peaks[1]


def test_attention_never_holds_the_scores() -> None:
    # SDXL's autoencoder at 1024 px: 16384 queries, so the scores alone would be a GiB.
    with FakeTensorMode(), LiveMemory() as memory:
        q = torch.empty(1, 1, 16384, 512).requires_grad_()
        out = functional.scaled_dot_product_attention(q, q, q)
        torch.autograd.grad(out.sum(), q)
    assert memory.peak < 7 * q.numel() * 4


# A guided step.


@pytest.mark.parametrize("family", ["sd", "sdxl", "pocket-like", "sd3", "sd35"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"classifier": {"gradient": "x_t"}},
        {"composition": "joint", "memory": {"gradient_checkpointing": True}},
        {"classifier": {"gradient": "x_t"}, "memory": {"gradient_checkpointing": True}},
        {"gradient_autoencoder": "tiny-vae", "memory": {"cpu_offload": True, "slicing": True}},
    ],
    ids=["x0", "x_t", "joint-checkpointed", "x_t-checkpointed", "tiny-offload-slicing"],
)
def test_a_real_run_takes_exactly_what_was_computed(
    family: str, changes: dict[str, Any], folder: Path
) -> None:
    ours = settings(family, **changes)
    arch = architecture(ours.model, folder)
    computed = guided_step(arch, ours, 2)
    # The same call without fake tensors: real memory, real kernels.
    model, guide = fake_model(arch, ours), fake_guide(ours.guide)
    measured = measure_step(model, guide, ours.guidance, 2, ours.run.memory.cpu_offload)
    assert type(next(model.network.parameters()).data) is Tensor
    assert computed == measured


@pytest.mark.parametrize("gradient", ["x0", "x_t"])
def test_more_pictures_take_more_memory(gradient: str, folder: Path) -> None:
    ours = settings("sd", classifier={"gradient": gradient})
    arch = architecture(ours.model, folder)
    one, two, four = (guided_step(arch, ours, n) for n in (1, 2, 4))
    assert one.weights == two.weights == four.weights < one.peak < two.peak < four.peak
    # All but the weights grows with the batch, and nothing faster.
    assert four.peak - two.peak <= 2 * (two.peak - one.peak) * 1.01


@cache
def sd15(row: str, gradient: str, batch: int = 1) -> Footprint:
    """A cell of the page, of the smaller model: two seconds each."""
    rows = {**memory_table.GRADIENTS, **memory_table.SAVINGS}
    return memory_table.footprint("aircraft-sd15", rows[row], gradient, batch)


def test_every_saving_saves_on_the_true_model() -> None:
    full, checked = sd15("full", "x0"), sd15("full, checkpointed", "x0")
    tiny, offloaded = sd15("tiny", "x0"), sd15("full, checkpointed, `cpu_offload`", "x0")
    assert full.peak > checked.peak > tiny.peak > tiny.weights
    assert offloaded.peak < checked.peak - 1.5 * 2**30
    assert offloaded.weights == checked.weights == full.weights
    assert sd15("full", "x_t").peak > full.peak
    assert sd15("full, checkpointed", "x_t").peak >= checked.peak


def test_slicing_saves_where_there_are_several_pictures() -> None:
    sliced, whole = (
        sd15(row, "x0", 2) for row in ("full, checkpointed, `slicing`", "full, checkpointed")
    )
    assert sliced.peak < 0.8 * whole.peak
    assert sliced.weights == whole.weights


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("gradient", ["x0", "x_t"])
def test_half_precision_halves_the_denoiser_alone(dtype: str, gradient: str, folder: Path) -> None:
    ours = settings("sdxl", classifier={"gradient": gradient})
    arch = architecture(ours.model, folder)
    half = settings("sdxl", classifier={"gradient": gradient}, dtype=dtype)
    model = fake_model(arch, ours)
    movable = 4 * sum(p.numel() for m in (model.network, model.controlnet) for p in m.parameters())
    whole, halved = (guided_step(arch, s, 2) for s in (ours, half))
    assert whole.weights - halved.weights == movable // 2
    assert halved.peak < whole.peak


def test_layout_and_compilation_change_nothing(folder: Path) -> None:
    ours = settings("sd")
    arch = architecture(ours.model, folder)
    other = settings("sd", memory={"channels_last": True, "compile": True})
    assert guided_step(arch, other, 1) == guided_step(arch, ours, 1)


def test_computing_leaves_no_trace(folder: Path) -> None:
    ours = settings("sd", dtype="bfloat16")
    before = torch.get_rng_state()
    guided_step(architecture(ours.model, folder), ours, 1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_default_dtype() == torch.float32


def test_an_unknown_autoencoder_is_named(folder: Path) -> None:
    ours = settings("sd")
    arch = architecture(ours.model, folder)
    odd = replace(arch, vae=arch.vae | {"_class_name": "VQModel"})
    with pytest.raises(UserError, match="autoencoder of `sd/sd` is a `VQModel`"):
        guided_step(odd, ours, 1)


def test_an_old_scheduler_file_means_epsilon(folder: Path) -> None:
    ours = settings("sd")
    arch = architecture(ours.model, folder)
    old = {k: v for k, v in arch.scheduler.items() if k != "prediction_type"}
    computed = guided_step(replace(arch, scheduler=old), ours, 1)
    assert computed == guided_step(arch, ours, 1)


def test_weights_are_the_parameters_in_their_precision() -> None:
    resnet50 = 23_508_032 + 100 * 2049
    statistics = 26_560 * 2 * 4 + 53 * 8  # batch norm's means and variances, and its counters
    halves, fulls = 859_520_964 + 361_279_120, 83_653_863 + resnet50
    expected = 2 * halves + 4 * fulls + statistics
    assert sd15("full", "x0").weights == pytest.approx(expected, abs=64)


def test_the_page_holds_what_is_computed_now() -> None:
    text = memory_table.PAGE.read_text(encoding="utf-8")
    assert text.startswith(memory_table.head()) and text.endswith(memory_table.tail())
    (section,) = (part for part in text.split("## ") if part.startswith("stable-diffusion-v1-5/"))
    cells = {
        line.split(" | ")[0].removeprefix("| "): line.removesuffix(" |").split(" | ")[1:]
        for line in section.splitlines()
        if line.startswith("| ")
    }
    for row in ("full", "full, checkpointed", "tiny"):
        computed = sd15(row, "x0")
        assert cells[row][:2] == [memory_table.number(n) for n in (computed.weights, computed.peak)]
    batch = len(memory_table.BATCHES)
    assert cells["full"][1 + batch] == memory_table.number(sd15("full", "x_t").peak)


def test_the_default_fits_a_card_of_24_gib() -> None:
    recipe = "aircraft-sdxl"
    ours = memory_table.recipe_of(recipe, memory_table.GRADIENTS[memory_table.DEFAULT], "x0")
    shipped = memory_table.load_recipe(recipe).recipe
    assert ours.run.memory == shipped.run.memory
    assert ours.guidance == shipped.guidance
    peak = guided_step(architecture(shipped.model, Path()), shipped, 1).peak / 2**30
    assert 15 < peak < 24 - memory_table.ALLOWANCE


# Arithmetic.


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Scores and values of shapes [B, H, L, D], [B, H, S, D]: 4 B H L S D."""
    b, h, length, depth = query
    return int(4 * b * h * length * key[2] * depth)


CPU_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}


def unet_flops(recipe: str) -> tuple[float, float]:
    """(all, without attention's scores and values) of one forward pass of the true UNet, TFLOP."""
    ours = memory_table.recipe_of(recipe, {}, "x0")
    arch = architecture(ours.model, Path())
    with FakeTensorMode(), torch.no_grad():
        model = fake_model(arch, ours)
        contours = torch.empty(1, 1, ours.size, ours.size)
        c = model.conditions(["prompt"], "negative", contours)
        x = torch.empty(1, *model.latent_shape, dtype=model.network.dtype)
        # Some processors' attention kernel is not in the counter's own table.
        with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
            model.family.denoise(model.network, Inputs(x, 500, c.text, ours.size))
    counts = counter.get_flop_counts()["Global"]
    attention = sum(n for operation, n in counts.items() if "attention" in str(operation))
    total = sum(counts.values())
    return total / 1e12, (total - attention) / 1e12


def test_sdxl_takes_the_published_arithmetic() -> None:
    # 2.99 T multiply-adds at 1024 px, as counters that look at layers only have it.
    total, layers = unet_flops("aircraft-sdxl")
    assert layers == pytest.approx(5.98, rel=0.01)
    # Self-attention by hand: 10 of 4096 x 640 and 60 of 1024 x 1280, 4 L^2 d each; and 77 tokens.
    self_attention = 4 * (10 * 4096**2 * 640 + 60 * 1024**2 * 1280)
    cross_attention = 4 * 77 * (10 * 4096 * 640 + 60 * 1024 * 1280)
    assert total - layers == pytest.approx((self_attention + cross_attention) / 1e12, rel=1e-6)


def test_sd15_takes_the_published_arithmetic() -> None:
    assert unet_flops("aircraft-sd15")[0] == pytest.approx(0.80, rel=0.02)


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3"])
@pytest.mark.parametrize(
    "changes",
    [
        {"classifier": {"switch": 0.6}},
        {"classifier": {"switch": 0.6, "gradient": "x_t"}, "conditioning_interval": (0.0, 0.5)},
        {"composition": "joint", "classifier": {"switch": 1.0}, "scheduler": "euler"},
    ],
    ids=["x0", "x_t-interval", "unguided"],
)
def test_a_real_sampling_does_exactly_the_computed_arithmetic(
    family: str, changes: dict[str, Any], folder: Path
) -> None:
    ours = settings(family, steps=5, **changes)
    arch = architecture(ours.model, folder)
    model, guide = fake_model(arch, ours), fake_guide(ours.guide)
    with FlopCounterMode(display=False) as counter:
        conditions = model.conditions(["prompt"], "negative", torch.zeros(1, 1, SIZE, SIZE))
        steps = sample(
            torch.zeros(1, *model.latent_shape),
            torch.zeros(1, dtype=torch.long),
            model.denoiser(conditions),
            model.solver(ours.sampling.steps),
            ours.guidance,
            DecodedGuide(model, guide),
        )
        with torch.no_grad():
            model.decode(list(steps)[-1].x)
    assert flops_per_picture(arch, ours) == counter.get_total_flops()
