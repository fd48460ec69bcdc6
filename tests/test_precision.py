"""Half precision, overflow and non-finite values: a failed item with its reason, or a right one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from higfa_cli.errors import UserError
from higfa_cli.method.protocols import Branch
from higfa_cli.models.diffusion import seeded_noise
from higfa_cli.models.draw import DecodedGuide
from tests.support import tiny
from tests.support.drawing import CONTOURS, CPU, PROMPTS, load, loaded, make_guide, pictures, pixels
from tests.support.strengths import strengths

GUIDED = strengths(text=3.0, classifier=2.0, switch=0.5, grad_norm="rms")


@pytest.fixture(scope="module", params=["sd", "sdxl", "sd3"])
def folders(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    return tiny.make_model(tmp_path_factory.mktemp("tiny"), family=request.param)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_draws_nearly_the_same_picture(
    folders: tuple[Path, Path], dtype: str
) -> None:
    full = pixels(pictures(loaded(folders), GUIDED, make_guide()))
    model = load(folders, dtype=dtype)
    half = pixels(pictures(model, GUIDED, make_guide()))
    assert model.network.dtype == model.controlnet.dtype == getattr(torch, dtype)
    assert np.abs(full - half).mean() < 3
    assert (full != half).any()


def test_only_the_denoiser_is_in_half_precision(folders: tuple[Path, Path]) -> None:
    """Autoencoder weights are not rounded on their way, and guidance is computed in float32."""
    model, full = load(folders, dtype="float16"), loaded(folders)
    for ours, theirs in zip(
        model.autoencoder.parameters(), full.autoencoder.parameters(), strict=True
    ):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, theirs)
    level = model.solver(4).levels[3]
    x_t = seeded_noise([1, 2], model.latent_shape, CPU)
    denoiser = model.denoiser(model.conditions(PROMPTS, "", CONTOURS))
    with torch.no_grad():
        x0 = denoiser.predict(x_t, level, [Branch.TEXT])[Branch.TEXT].x0
    assert x0.dtype == torch.float32
    x0.requires_grad_()
    logits = DecodedGuide(model, make_guide()).logits(x0)
    (gradient,) = torch.autograd.grad(logits.log_softmax(1)[:, 0].sum(), x0)
    assert gradient.dtype == torch.float32


def test_an_autoencoder_that_overflows_in_float16_is_right(folders: tuple[Path, Path]) -> None:
    """SDXL's does: here the last block's input is driven past 65,504 and back."""
    model = load(folders, dtype="float16")
    vae = model.autoencoder.vae
    x0 = seeded_noise([1], model.latent_shape, CPU)
    with torch.no_grad():
        before = model.decode(x0)
        first, last = vae.decoder.conv_in, vae.decoder.up_blocks[-1].resnets[-1]
        del first
        last.conv2.weight *= 1e6
        last.conv2.bias *= 1e6
        last.output_scale_factor = 1.0
        ours = model.decode(x0)
        stock = vae.to(torch.float16).decode(
            (x0 * model.autoencoder.scale).to(torch.float16), return_dict=False
        )[0]
    vae.to(torch.float32)
    assert before.isfinite().all() and ours.isfinite().all()
    assert not stock.isfinite().all()


def gradient_at(model: Any, log_p_scale: float) -> torch.Tensor:
    """grad_{x_t} of a small multiple of the guide's log p, through the denoiser."""
    level = model.solver(4).levels[3]
    denoiser = model.denoiser(model.conditions(PROMPTS, "", CONTOURS))
    x_t = seeded_noise([1, 2], model.latent_shape, CPU).requires_grad_()
    x0 = denoiser.predict(x_t, level, [Branch.TEXT])[Branch.TEXT].x0
    return torch.autograd.grad(log_p_scale * x0.square().mean(), x_t)[0]


def test_small_gradients_survive_float16(folders: tuple[Path, Path]) -> None:
    """A gradient of 1e-8, which float16 cannot hold, comes through the denoiser."""
    want = gradient_at(load(folders), 1e-5)
    got = gradient_at(load(folders, dtype="float16"), 1e-5)
    assert want.abs().max() < 6e-8  # float16's smallest number
    error = (got - want).norm() / want.norm()
    assert error < 0.05


def test_a_tiny_autoencoder_decodes_for_the_guide_only(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    ref = str(tiny.make_tiny_autoencoder(tmp_path))
    own, model = load(folders), load(folders, gradient_autoencoder=ref)
    assert type(model.gradient_autoencoder.vae).__name__ == "AutoencoderTiny"
    assert type(model.autoencoder.vae).__name__ == "AutoencoderKL"
    off = strengths(switch=1.0)
    assert (pixels(pictures(own, off)) == pixels(pictures(model, off))).all()
    guide = make_guide()
    p_own, p_tiny = (pictures(m, GUIDED, guide)[0].trace["p"][-1] for m in (own, model))
    assert p_own != p_tiny
    x0 = seeded_noise([1], model.latent_shape, CPU)
    assert torch.equal(model.decode_for_guide(x0), model.gradient_autoencoder.decode(x0))
    assert torch.equal(model.decode(x0), own.decode(x0))


def test_a_tiny_autoencoder_that_does_not_fit_is_refused(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    from diffusers import AutoencoderTiny

    AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
        latent_channels=4,
    ).save_pretrained(tmp_path / "wrong")
    with pytest.raises(UserError, match=r"4 channels at 1/4 .* draws 4 at 1/2"):
        load(folders, gradient_autoencoder=str(tmp_path / "wrong"))


@pytest.mark.fault(
    "numbers",
    "NaN in denoiser, guide or decoder",
    "that picture fails, its neighbours are unchanged",
)
@pytest.mark.parametrize("where", ["denoiser", "autoencoder", "guide"])
def test_what_is_not_finite_is_a_failed_item_and_no_picture(
    folders: tuple[Path, Path], where: str
) -> None:
    """One picture of two goes wrong inside a real component; its neighbour is untouched."""
    model, guide = load(folders), make_guide()
    guidance = strengths(text=1.0, contour=1.0, classifier=1.0, switch=0.5)
    from higfa_cli.models.draw import draw

    def run() -> list[Any]:
        return draw(model, guide, guidance, PROMPTS, "", CONTOURS, [0, 1], [11, 12])

    right = run()
    part = {"denoiser": model.network, "autoencoder": model.autoencoder.vae.decoder}.get(
        where, guide.network
    )

    def spoil(_module: Any, _arguments: Any, output: Any) -> Any:
        values = output[0] if isinstance(output, tuple) else output
        values = values.clone()
        values[-1] = float("nan")
        return (values,) if isinstance(output, tuple) else values

    part.register_forward_hook(spoil)
    wrong = run()
    assert wrong[1].pixels is None
    assert wrong[1].error is not None and wrong[1].error.startswith("not finite")
    assert wrong[0].error is None
    assert np.array_equal(wrong[0].pixels, right[0].pixels)
