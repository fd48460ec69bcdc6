"""The borrowed minutes on a GPU, rehearsed on the CPU at a tiny size."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tools.pocket.train import batches, decoder, denoiser, gpu, pack, redraw
from tools.pocket.train.autoencoder import PatchBasis, build_autoencoder, encode_uint8, extend_basis
from tools.pocket.train.checkpoint import load_checkpoint, read_log
from tools.pocket.train.networks import LEVELS, Sizes, build_scheduler, sizes_of
from tools.pocket.train.prepare import Cache, encode_all, prepare
from tools.pocket.train.webdata import read_web
from tools.pocket.train.widen import widen_checkpoint, wider_decoder
from tools.pocket.train.wider import widen
from tools.pocket.train.words import teach_cache

BACKBONE = Path(__file__).parents[1] / "pocket" / "higfa_pocket" / "backbone.safetensors"
TINY = Sizes(
    unet_channels=(16, 24),
    heads=2,
    norm_groups=8,
    text_width=16,
    text_layers=1,
    contour_channels=(4, 4, 4, 4),
)
PLAN = gpu.Plan(
    minutes=0.03, polish=0.02, batch=4, copies=3, workers=1, redrawn=8, scale=1, graph=False
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with web/, cache/ and run/ of tiny trainers that have taken a step."""
    place = tmp_path_factory.mktemp("tiny")
    web, cache, run = place / "web", place / "cache", place / "run"
    (web / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = []
    for number in range(16):
        pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels).resize((128, 128), Image.Resampling.BICUBIC)
        picture.save(web / "images" / f"{number}.jpg")
        words = f"Airbus A32{number % 2} airliner"
        record = {"id": str(number), "variant": f"A32{number % 2}", "airline": f"air {number % 8}"}
        record |= {"caption": f"a photo of an {words}", "caption_words": words, "scene": "at dusk"}
        lines.append(json.dumps(record) + "\n")
    (web / "records.jsonl").write_text("".join(lines), encoding="utf-8")
    prepare(web, cache, side=64, copies=2, seed=0, workers=1)
    teach_cache(web, cache, TINY, steps=2)
    trainer = denoiser.Trainer(cache, run, 0, denoiser.Rate(1e-3), 4, TINY, workers=1)
    trainer.step()
    trainer.save()
    own = decoder.Trainer(cache, run, decoder.Course(minutes=1, batch=2))
    own.step(0)
    own.save(0)
    return place


def test_pack_run_and_collect(trained: Path, tmp_path: Path) -> None:
    out, came, run = tmp_path / "pack", tmp_path / "out", tmp_path / "run"
    out.mkdir()
    counts = pack.pack_weights(trained / "run", trained / "cache", out)
    torch.save(counts, out / "counts.pt")
    web = read_web(trained / "web")
    count = pack.pack_pictures(web, trained / "cache", out, room=pack.MIB, workers=1)
    assert count == 16
    gpu.run(out, came, BACKBONE, PLAN, torch.device("cpu"), trained / "cache" / "tokenizer", TINY)
    # what comes back is few and small
    files = [path for path in came.iterdir() if path.is_file()]
    assert sorted(path.name for path in files) == [
        "decoder-0.safetensors",
        "denoiser-0.safetensors",
        "drawn.png",
        "gpu.jsonl",
    ]
    rows = read_log(came / "gpu.jsonl")
    assert rows[0]["unpacked"] == 16
    assert any("with_contour" in row for row in rows) and "power 16-32" in rows[-2]
    with Image.open(came / "drawn.png") as sheet:
        assert sheet.size[1] == 3 * 64
    gpu.collect(came, out, run)
    before, after = (load_checkpoint(p / "run" / "denoiser.pt") for p in (trained, tmp_path))
    assert after["step"] > before["step"] and after["seen"] > before["seen"]
    changed = {
        name.split(".")[0]
        for name, value in after["model"].items()
        if not torch.equal(value, before["model"][name].half().float())
    }
    assert changed <= {"unet", "controlnet"} and changed
    trainer = denoiser.Trainer(
        trained / "cache", run, 0, denoiser.Rate(1e-3), 4, sizes_of(after["model"], TINY), workers=1
    )
    trainer.load()
    assert trainer.step().isfinite()


def test_shards_hold_everything_and_stay_small(tmp_path: Path) -> None:
    weights = {f"w{k}": torch.randn(100, 10) for k in range(7)}
    assert pack.write_shards(weights, tmp_path, "x", shard=5000) == 4
    assert max(path.stat().st_size for path in tmp_path.iterdir()) < 6000
    back = pack.read_shards(tmp_path, "x")
    for name, value in weights.items():
        torch.testing.assert_close(back[name], value, atol=2e-3, rtol=1e-3)
    with pytest.raises(FileNotFoundError, match="holds no"):
        pack.read_shards(tmp_path, "other")


def test_classes_take_turns() -> None:
    assert pack.in_turns(["b", "b", "b", "a", "a"]).tolist() == [3, 0, 4, 1, 2]


def test_shifted_copies_are_not_resampled() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    rng = np.random.default_rng(1)
    np.testing.assert_array_equal(pack.shifted(picture, 0, rng), picture)
    np.testing.assert_array_equal(pack.shifted(picture, 1, rng), picture[:, ::-1])
    moved = pack.shifted(picture, 2, rng)
    inner = {row.tobytes() for row in moved[8:-8, 8:-8].reshape(-1, 3)}
    assert inner <= {row.tobytes() for row in picture.reshape(-1, 3)}


def test_latents_by_the_basis_are_those_of_the_autoencoder(trained: Path) -> None:
    cache = Cache.open(trained / "cache")
    basis = PatchBasis.load(trained / "cache" / "basis.npz")
    z = encode_uint8(build_autoencoder(basis), cache.pictures[:2, 0])
    found = encode_all(basis, cache.pictures[:2])[:, 0]
    np.testing.assert_allclose(found, z.numpy(), atol=5e-3)


def test_further_directions_leave_the_old_latents_as_they_are(trained: Path) -> None:
    cache = Cache.open(trained / "cache")
    basis = PatchBasis.load(trained / "cache" / "basis.npz")
    wide = extend_basis(basis, cache.pictures[:, 0], 40)
    pictures = cache.pictures[:3, :1]
    old, new = encode_all(basis, pictures), encode_all(wide, pictures)
    assert new.shape[2] == 40
    np.testing.assert_allclose(new[:, :, :32], old, atol=5e-3)
    flat = wide.directions.reshape(40, -1)
    np.testing.assert_allclose(flat @ flat.T, np.eye(40), atol=1e-6)


def test_a_widened_denoiser_draws_the_old_channels_as_before(trained: Path, tmp_path: Path) -> None:
    state = load_checkpoint(trained / "run" / "denoiser.pt")
    torch.save(state, tmp_path / "denoiser.pt")
    widen_checkpoint(tmp_path / "denoiser.pt", 40)
    wide = load_checkpoint(tmp_path / "denoiser.pt")
    assert "optimizer" not in wide
    sizes = sizes_of(wide["model"], TINY)
    assert sizes.latent_channels == 40 and sizes.unet_channels == (16, 24)
    tokenizer = redraw.CLIPTokenizer.from_pretrained(trained / "cache" / "tokenizer")
    found = []
    for weights, own in ((state["model"], TINY), (wide["model"], sizes)):
        model = denoiser.Generator(own, tokenizer)
        model.load_state_dict(weights)
        x = torch.randn(2, 40, 8, 8, generator=torch.Generator().manual_seed(0))
        tokens = torch.zeros(2, 32, dtype=torch.long)
        with torch.no_grad():
            v = model(x[:, : own.latent_channels], torch.tensor([5, 900]), tokens, x[:0])
        found.append(v)
    torch.testing.assert_close(found[1][:, :32], found[0], atol=1e-5, rtol=1e-4)
    assert (found[1][:, 32:] == 0).all()


def test_a_wider_decoder_draws_as_before(trained: Path) -> None:
    basis = PatchBasis.load(trained / "cache" / "basis.npz")
    narrow = build_autoencoder(basis).decoder.eval()
    wide = build_autoencoder(basis, 96).decoder.eval()
    wide.load_state_dict(wider_decoder(narrow.state_dict(), len(basis.scales), 96))
    z = torch.randn(2, len(basis.scales), 8, 8) / 3
    with torch.no_grad():
        torch.testing.assert_close(wide(z), narrow(z), atol=1e-5, rtol=1e-4)


def test_schedule_ends_in_noise_and_keeps_stable_diffusions_levels() -> None:
    alpha = build_scheduler().alphas_cumprod.sqrt()
    assert len(alpha) == LEVELS
    assert alpha[-1].item() == pytest.approx(0.01, rel=1e-2)
    assert alpha[999].item() == pytest.approx(0.0683, abs=1e-3)
    assert (alpha.diff() < 0).all()


def test_late_levels_are_drawn_more_often(trained: Path) -> None:
    trainer = denoiser.Trainer(
        trained / "cache", trained, 0, denoiser.Rate(), 4, TINY, workers=1, late=0.6
    )
    draw = (trainer.shelf, trainer.rows, trainer.empty, (0, 1), 400, 0)
    plain, late = batches.draw_batch(*draw), batches.draw_batch(*draw, late=0.6)
    edge = LEVELS - LEVELS // 10
    assert (plain.timesteps >= edge).float().mean() < 0.2
    assert (late.timesteps >= edge).float().mean() > 0.5
    assert torch.equal(plain.latents, late.latents) and late.timesteps.max() < LEVELS


def test_free_latents_start_from_noise_alone(trained: Path) -> None:
    model = redraw.load_generator(trained / "cache", trained / "run", TINY)
    painter = redraw.Painter(
        model, torch.zeros(1, 32, dtype=torch.long), build_scheduler().alphas_cumprod
    )
    arrays = redraw.redraw(Cache.open(trained / "cache"), painter, paired=3, free=2)
    assert arrays["latents"].shape == (5, 32, 8, 8) and np.isfinite(arrays["latents"]).all()
    assert arrays["paired"].tolist() == [True] * 3 + [False] * 2
    assert redraw.trailing(300, 16)[0] == 300
    assert max(redraw.trailing(300, 16)[1:]) < 300 and redraw.trailing(300, 16)[-1] == 67


@pytest.mark.parametrize(("channels", "exact"), [((32, 48), True), ((32, 24), False)])
def test_a_wider_denoiser_starts_as_the_narrow_one(
    trained: Path, channels: tuple[int, int], exact: bool
) -> None:
    tokenizer = redraw.CLIPTokenizer.from_pretrained(trained / "cache" / "tokenizer")
    torch.manual_seed(0)
    narrow = denoiser.Generator(TINY, tokenizer).eval()
    for block in [
        *narrow.controlnet.controlnet_down_blocks,
        narrow.controlnet.controlnet_mid_block,
    ]:
        torch.nn.init.normal_(block.weight, std=0.1)
    wide = denoiser.Generator(replace(TINY, unet_channels=channels), tokenizer).eval()
    wide.load_state_dict(widen(narrow.state_dict(), tokenizer, channels, TINY))
    x, times = torch.randn(2, 32, 8, 8), torch.tensor([20, 700])
    given = (x, times, torch.randint(5, (2, 32)), torch.rand(2, 3, 64, 64))
    with torch.no_grad():
        before, after = narrow(*given), wide(*given)
    if exact:
        torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-3)
    else:
        alike = torch.corrcoef(torch.stack([before.flatten(), after.flatten()]))[0, 1]
        assert alike > 0.8
    # the copies are not alike to what reads them, so that they learn apart
    reader = wide.unet.down_blocks[0].resnets[0].conv1.weight
    assert not torch.allclose(reader[:, ::2], reader[:, 1::2])
