"""Batch sizes that fit, out of memory in the middle, and the keys that save room."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from higfa_cli.errors import UserError
from higfa_cli.method.protocols import Branch
from higfa_cli.models.device import in_parts_that_fit
from higfa_cli.models.diffusion import seeded_noise
from higfa_cli.models.draw import DecodedGuide
from higfa_cli.stages.drawing import largest_that_runs
from tests.support import tiny
from tests.support.drawing import CONTOURS, CPU, PROMPTS, load, loaded, make_guide, pictures, pixels
from tests.support.recipes import drawing_recipe
from tests.support.strengths import strengths

GUIDED = strengths(text=3.0, classifier=2.0, switch=0.5, grad_norm="rms")
OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 1.00 GiB"


@pytest.fixture(scope="module", params=["sd", "sdxl", "sd3"])
def folders(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    return tiny.make_model(tmp_path_factory.mktemp("tiny"), family=request.param)


class Device:
    """Work that a device with room for `room` items can do; keeps what it was asked."""

    def __init__(self, room: int) -> None:
        self.room, self.asked = room, [0][:0]

    def __call__(self, items: Sequence[int]) -> list[tuple[int, int]]:
        self.asked.append(len(items))
        if len(items) > self.room:
            raise torch.OutOfMemoryError(OUT_OF_MEMORY)
        return [(item, len(items)) for item in items]


@pytest.mark.fault("numbers", "out of memory", "halves, records, fails what does not fit alone")
@pytest.mark.parametrize(
    ("room", "parts"),
    [
        (8, [7]),
        (7, [7]),
        (4, [7, 4, 3]),
        (3, [7, 4, 2, 2, 3]),
        (1, [7, 4, 2, 1, 1, 2, 1, 1, 3, 2, 1, 1, 1]),
    ],
)
def test_halving_keeps_order_and_says_how_small(room: int, parts: list[int]) -> None:
    device = Device(room)
    done = in_parts_that_fit(list(range(7)), device, lambda item: (item, 0))
    assert [item for item, _ in done] == list(range(7))
    assert device.asked == parts
    assert all(0 < size <= room for _, size in done)


@pytest.mark.fault("numbers", "out of memory")
def test_what_does_not_fit_alone_is_given_up() -> None:
    assert in_parts_that_fit([1, 2], Device(0), lambda item: (item, 0)) == [(1, 0), (2, 0)]


def test_other_errors_are_not_swallowed() -> None:
    def broken(items: Sequence[int]) -> list[int]:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        in_parts_that_fit([1, 2], broken, lambda item: item)


@pytest.mark.parametrize(("room", "found"), [(100, 32), (32, 32), (31, 16), (5, 4), (1, 1)])
def test_probe_finds_the_largest_power_of_two(room: int, found: int) -> None:
    device = Device(room)
    assert largest_that_runs(lambda size: device([0] * size) and None) == found


def test_probe_says_what_to_do_where_nothing_fits() -> None:
    device = Device(0)
    with pytest.raises(UserError, match=r"model\.gradient_autoencoder"):
        largest_that_runs(lambda size: device([0] * size) and None)


@pytest.mark.parametrize(
    "memory",
    [
        {"gradient_checkpointing": True},
        {"slicing": True},
        {"channels_last": True},
        {"cpu_offload": True},
    ],
    ids=lambda memory: next(iter(memory)),
)
@pytest.mark.parametrize("gradient", ["x0", "x_t"])
def test_saving_memory_changes_no_picture(
    folders: tuple[Path, Path], memory: dict[str, bool], gradient: Any
) -> None:
    if memory.get("cpu_offload") and gradient == "x_t":
        pytest.skip("refused by the recipe")

    guidance = strengths(GUIDED, gradient=gradient)
    plain = pixels(pictures(loaded(folders), guidance, make_guide()))
    model = load(folders, memory=memory)
    assert abs(pixels(pictures(model, guidance, make_guide())) - plain).max() <= 1


def test_checkpointing_really_recomputes(folders: tuple[Path, Path]) -> None:
    """The decoder's blocks run twice: once forward, once for the gradient."""
    for on, runs in ((False, 1), (True, 2)):
        model = load(folders, memory={"gradient_checkpointing": on})
        seen: list[int] = []
        model.autoencoder.vae.decoder.mid_block.register_forward_pre_hook(lambda *_: seen.append(1))  # noqa: B023
        x0 = seeded_noise([1], model.latent_shape, CPU).requires_grad_()
        torch.autograd.grad(DecodedGuide(model, make_guide()).logits(x0).sum(), x0)
        assert len(seen) == runs


def test_tiling_decodes_large_pictures_in_tiles(folders: tuple[Path, Path]) -> None:
    plain, tiled = load(folders, size=64), load(folders, size=64, tiling=True)
    x0 = seeded_noise([1], plain.latent_shape, CPU)
    calls: list[tuple[int, ...]] = []
    tiled.autoencoder.vae.decoder.register_forward_pre_hook(
        lambda _module, arguments: calls.append(tuple(arguments[0].shape[-2:]))
    )
    with torch.no_grad():
        out = tiled.decode(x0)
        whole = plain.decode(x0)
    assert len(calls) > 1 and max(max(call) for call in calls) < 32
    assert out.shape == whole.shape
    assert (out - whole).abs().mean() < 0.2


def test_channels_last_is_a_layout_of_the_weights(folders: tuple[Path, Path]) -> None:
    model = load(folders, memory={"channels_last": True})
    kernels = [w for w in model.network.parameters() if w.dim() == 4 and w.shape[-1] > 1]
    assert kernels
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)


def test_offloading_cannot_go_with_the_exact_gradient() -> None:
    with pytest.raises(ValidationError, match="cpu_offload cannot go with"):
        drawing_recipe("a", "b", memory={"cpu_offload": True}, classifier={"gradient": "x_t"})


@pytest.mark.slow
def test_compiled_denoiser_draws_the_same(folders: tuple[Path, Path]) -> None:
    plain = pixels(pictures(loaded(folders), GUIDED, make_guide()))
    compiled = load(folders, memory={"compile": True})
    network = compiled.network
    repeated = network._repeated_blocks or [type(network).__name__]
    blocks = [m for m in network.modules() if type(m).__name__ in repeated]
    assert blocks and all(block._compiled_call_impl is not None for block in blocks)
    assert abs(pixels(pictures(compiled, GUIDED, make_guide())) - plain).max() <= 1


def test_exact_gradient_is_the_same_with_checkpointing(folders: tuple[Path, Path]) -> None:
    gradients = []
    for on in (False, True):
        model = load(folders, memory={"gradient_checkpointing": on})
        level = model.solver(4).levels[2]
        x_t = seeded_noise([1, 2], model.latent_shape, CPU).requires_grad_()
        denoiser = model.denoiser(model.conditions(PROMPTS, "", CONTOURS))
        x0 = denoiser.predict(x_t, level, [Branch.TEXT_CONTOUR])[Branch.TEXT_CONTOUR].x0
        logits = DecodedGuide(model, make_guide()).logits(x0)
        gradients.append(torch.autograd.grad(logits[:, 0].sum(), x_t)[0])
    torch.testing.assert_close(*gradients)
