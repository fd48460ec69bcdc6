"""The shipped pocket generator, and the trainer that made it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, DDIMScheduler, StableDiffusionControlNetPipeline
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPTokenizer

from tools.pocket.lab.figures import edge_overlap
from tools.pocket.train import batches, denoiser
from tools.pocket.train.autoencoder import build_autoencoder, encode_uint8, fit_basis
from tools.pocket.train.checkpoint import Average, load_checkpoint
from tools.pocket.train.contours import canny, degrade
from tools.pocket.train.export import export
from tools.pocket.train.networks import Sizes, build_text_encoder
from tools.pocket.train.prepare import Cache, prepare
from tools.pocket.train.text import MAX_TOKENS, token_ids, train_tokenizer
from tools.pocket.train.unpack import unpack
from tools.pocket.train.webdata import names_a_variant, read_web
from tools.pocket.train.words import teach_cache

PACKAGE = Path(__file__).parents[1] / "pocket" / "higfa_pocket"
TINY = Sizes(
    latent_side=4,
    unet_channels=(16, 16),
    heads=2,
    norm_groups=8,
    text_width=16,
    text_layers=1,
    contour_channels=(4, 4, 4, 4),
)

RATE = denoiser.Rate()

shipped = pytest.mark.skipif(not (PACKAGE / "sd").exists(), reason="no weights in this checkout")


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionControlNetPipeline:
    controlnet = ControlNetModel.from_pretrained(
        PACKAGE / "controlnet", use_safetensors=True, local_files_only=True
    )
    return StableDiffusionControlNetPipeline.from_pretrained(
        PACKAGE / "sd",
        controlnet=controlnet,
        safety_checker=None,
        use_safetensors=True,
        local_files_only=True,
    )


@shipped
def test_shipped_folders_load_and_draw(pipeline: StableDiffusionControlNetPipeline) -> None:
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    assert pipeline.scheduler.config.timestep_spacing == "trailing"
    for part in (pipeline.unet, pipeline.controlnet, pipeline.vae, pipeline.text_encoder):
        assert {p.dtype for p in part.parameters()} == {torch.float32}
    pipeline.set_progress_bar_config(disable=True)
    contour = torch.zeros(1, 3, 64, 64)
    image = pipeline(
        "a photo of a Boeing 737-800 airliner",
        image=contour,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images[0]
    assert image.shape == (64, 64, 3)
    assert 0.02 < image.std() < 0.5


@shipped
def test_special_tokens_agree(pipeline: StableDiffusionControlNetPipeline) -> None:
    tokenizer, config = pipeline.tokenizer, pipeline.text_encoder.config
    assert tokenizer.model_max_length == config.max_position_embeddings == MAX_TOKENS
    assert len(tokenizer) == config.vocab_size
    assert tokenizer.bos_token_id == config.bos_token_id
    assert tokenizer.eos_token_id == config.eos_token_id
    assert tokenizer.pad_token_id == config.pad_token_id
    ids = tokenizer("a photo of an Airbus A320 airliner").input_ids
    assert ids[0] == config.bos_token_id and ids[-1] == config.eos_token_id
    # BOS, a, photo, of, an, airbus, a, 3, 2, 0, airliner, EOS: no ordinary word falls apart
    assert len(ids) == 12


@shipped
def test_weights_are_small_and_name_no_machine() -> None:
    files = [p for name in ("sd", "controlnet") for p in (PACKAGE / name).rglob("*") if p.is_file()]
    assert 1_000_000 < sum(path.stat().st_size for path in files) <= 40_000_000
    for path in files:
        if path.suffix == ".json" and path.name != "tokenizer.json":
            text = path.read_text(encoding="utf-8")
            assert "name_or_path" not in text and not re.search(r'"/\w+/', text)


def test_encoder_is_the_patch_pca() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    basis = fit_basis(images, channels=32)
    z = encode_uint8(build_autoencoder(basis), images[:1]).numpy()
    assert z.shape == (1, 32, 4, 4)
    for row, column in ((0, 0), (0, 3), (2, 1), (3, 3)):
        patch = images[0, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] / 255
        expected = basis.scales * (basis.directions.reshape(32, -1) @ (patch - basis.mean).ravel())
        np.testing.assert_allclose(z[0, :, row, column], expected, atol=2e-4)


def test_basis_is_orthonormal_sorted_and_partly_whitened() -> None:
    rng = np.random.default_rng(1)
    grey = rng.normal(128, 40, (40, 4, 4, 1)).repeat(8, 1).repeat(8, 2)
    images = np.clip(grey + rng.normal(0, 12, (40, 32, 32, 3)), 0, 255).astype(np.uint8)
    basis = fit_basis(images, channels=4)
    flat = basis.directions.reshape(4, -1)
    np.testing.assert_allclose(flat @ flat.T, np.eye(4), atol=1e-8)
    patches = images.reshape(40, 4, 8, 4, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 192) / 255
    stds = ((patches - basis.mean.ravel()) @ flat.T).std(axis=0, ddof=1)
    assert np.all(np.diff(stds) <= 1e-9)
    np.testing.assert_allclose((stds * basis.scales).mean(), 1, rtol=1e-6)
    ratio = (stds[0] * basis.scales[0]) / (stds[3] * basis.scales[3])
    np.testing.assert_allclose(ratio, (stds[0] / stds[3]) ** 0.4, rtol=1e-6)


def test_caption_dropout_rate() -> None:
    tokens = torch.arange(1, 20001)[:, None].expand(-1, 3)
    empty = torch.zeros(3, dtype=torch.long)
    kept = batches.drop_captions(tokens, empty, torch.Generator().manual_seed(0))
    dropped = (kept == 0).all(dim=1)
    assert torch.equal(kept[~dropped], tokens[~dropped])
    # 0.12 within four standard errors of 20,000 draws
    assert abs(dropped.float().mean().item() - 0.12) < 4 * (0.12 * 0.88 / 20000) ** 0.5


def test_any_text_tokenises_and_comes_back() -> None:
    tokenizer = train_tokenizer(["a photo of a Boeing 747-400 airliner over the sea"])
    assert tokenizer.unk_token_id == tokenizer.eos_token_id
    for text in ("boeing 747-400", "zurich naïve façade", "qx 99 %"):
        ids = tokenizer(text).input_ids[1:-1]
        assert tokenizer.eos_token_id not in ids
        assert tokenizer.decode(ids).replace(" ", "") == text.replace(" ", "")
    (padded,) = token_ids(tokenizer, [""])
    assert padded == [tokenizer.bos_token_id] + [tokenizer.eos_token_id] * (MAX_TOKENS - 1)


def test_v_target_recovers_x0() -> None:
    """A model that returns the true v has no loss; one that returns zero has v's square."""
    alphas_bar = torch.tensor([0.9, 0.5])
    batch = batches.Batch(
        torch.full((2, 1, 2, 2), 2.0),
        torch.zeros(2, 3, dtype=torch.long),
        torch.zeros(0, 3, 16, 16),
        torch.tensor([0, 1]),
        torch.ones(2, 1, 2, 2),
    )

    class Known(torch.nn.Module):
        def forward(self, noisy, timesteps, tokens, contours):
            alpha_bar = alphas_bar[timesteps].view(-1, 1, 1, 1)
            eps = (noisy - alpha_bar.sqrt() * 2) / (1 - alpha_bar).sqrt()
            return alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * 2

    loss = denoiser.denoising_loss(Known(), batch, alphas_bar)
    np.testing.assert_allclose(loss.numpy(), 0, atol=1e-10)

    class Zero(torch.nn.Module):
        def forward(self, noisy, timesteps, tokens, contours):
            return torch.zeros_like(noisy)

    loss = denoiser.denoising_loss(Zero(), batch, alphas_bar)
    # v = sqrt(.9) - 2 sqrt(.1) and -sqrt(.5)
    expected = [(0.9**0.5 - 2 * 0.1**0.5) ** 2, 0.5]
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-5)


def test_rows_without_contour_get_no_residual(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["a"], vocabulary=600)
    torch.manual_seed(0)
    model = denoiser.Generator(TINY, tokenizer)
    for block in [*model.controlnet.controlnet_down_blocks, model.controlnet.controlnet_mid_block]:
        torch.nn.init.normal_(block.weight)
    noisy, t = torch.randn(3, 32, 4, 4), torch.tensor([10, 500, 900])
    tokens = torch.tensor(token_ids(tokenizer, ["a", "a", ""]))
    with torch.no_grad():
        plain = model(noisy, t, tokens, torch.zeros(0, 3, 32, 32))
        mixed = model(noisy, t, tokens, torch.rand(1, 3, 32, 32))
    torch.testing.assert_close(mixed[1:], plain[1:], atol=1e-5, rtol=1e-4)
    assert (mixed[0] - plain[0]).abs().max() > 1e-2


def test_rate_schedule() -> None:
    rate = denoiser.Rate(peak=1.0, start=1000, until=2000)
    # half way up the warm-up a tenth of the leg is gone; past its end the last step's rate stays
    found = [rate.at(s) for s in (1000, 1099, 1200, 1500, 1999, 2000, 9000)]
    assert found == pytest.approx([0.005, 0.5 * 0.901, 0.8, 0.5, 0.001, 0.001, 0.001])


def test_average_follows_the_ramp() -> None:
    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(module.weight)
    average = Average(module, ceiling=0.5)
    torch.nn.init.ones_(module.weight)
    average.update(module, 0)
    np.testing.assert_allclose(average.state_dict()["weight"].item(), 0.9, rtol=1e-6)
    average.update(module, 1000)
    np.testing.assert_allclose(average.state_dict()["weight"].item(), 0.95, rtol=1e-6)


def test_degraded_contours_only_lose_or_move_edges() -> None:
    contours = torch.rand(40, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    out = degrade(contours, torch.Generator().manual_seed(1))
    same = (out == contours).flatten(1).all(dim=1)
    assert 0 < same.sum() < 40
    assert torch.isin(out, torch.cat([contours.flatten(), torch.zeros(1)])).all()
    torch.testing.assert_close(out, degrade(contours, torch.Generator().manual_seed(1)))


def test_edge_overlap_by_hand() -> None:
    square = np.zeros((64, 64, 3), np.uint8)
    square[16:48, 16:48] = 255
    own = canny(square)
    assert edge_overlap(square, own) == (1.0, 1.0)
    half = own.copy()
    half[:, :32] = 0
    # every asked pixel is met; the share p of the drawing's edges that was asked is the precision
    overlap, f1 = edge_overlap(square, half)
    near = (own[:, 31:] > 0).sum() / (own > 0).sum()
    np.testing.assert_allclose(f1, 2 * near / (near + 1), rtol=1e-9)
    np.testing.assert_allclose(overlap, f1 / (2 - f1), rtol=1e-9)
    assert edge_overlap(np.zeros_like(square), own) == (0.0, 0.0)


@pytest.fixture
def tiny_cache(tmp_path: Path) -> Path:
    web, cache = tmp_path / "web", tmp_path / "cache"
    (web / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    records = []
    for number in range(12):
        name = f"{number:03d}"
        pixels = rng.integers(0, 256, (128, 128, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(web / "images" / f"{name}.jpg")
        record = {"id": name, "variant": "A320", "airline": f"air {number % 4}"}
        words = f"Airbus A32{number % 2} airliner"
        record |= {"caption": f"a photo of an {words}", "caption_words": words, "scene": "at dusk"}
        records.append(record)
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (web / "records.jsonl").write_text(lines, encoding="utf-8")
    prepare(web, cache, side=32, copies=3, seed=0, workers=1)
    teach_cache(web, cache, TINY, steps=150)
    return cache


def test_taught_encoder_tells_one_digit_at_every_padding_position(tiny_cache: Path) -> None:
    tokens = torch.from_numpy(np.load(tiny_cache / "tokens.npy").astype(np.int64))
    tokenizer = CLIPTokenizer.from_pretrained(tiny_cache / "tokenizer", local_files_only=True)
    torch.manual_seed(0)
    untaught = build_text_encoder(TINY, tokenizer)
    encoder = build_text_encoder(TINY, tokenizer)
    encoder.load_state_dict(load_checkpoint(tiny_cache / "text_encoder.pt")["text_encoder"])
    end = int((tokens[0] == tokenizer.eos_token_id).nonzero()[0])

    def apart(network: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            hidden = network(tokens[:2]).last_hidden_state[:, end:]
        return (hidden[0] - hidden[1]).norm(dim=1) / hidden.norm(dim=-1).mean()

    assert apart(encoder).min() > 0.4
    assert (apart(encoder) > apart(untaught)).all()


def test_captions_that_name_a_variant_are_drawn_three_times_as_often(tiny_cache: Path) -> None:
    web = read_web(tiny_cache.parent / "web")
    vague = [replace(one, words="Airbus airliner") if i < 4 else one for i, one in enumerate(web)]
    named = names_a_variant(vague)
    assert named.tolist() == [False] * 4 + [True] * 8
    np.save(tiny_cache / "named.npy", named)
    cache = Cache.open(tiny_cache)
    counts = np.bincount(batches.training_rows(cache), minlength=12)
    assert counts.tolist() == np.where(cache.held_out, 0, np.where(named, 3, 1)).tolist()


def test_training_leaves_the_text_encoder_as_it_was_taught(
    tiny_cache: Path, tmp_path: Path
) -> None:
    trainer = denoiser.Trainer(tiny_cache, tmp_path, 0, RATE, 4, TINY)
    before = {n: v.clone() for n, v in trainer.model.state_dict().items()}
    trainer.step()
    after = trainer.model.state_dict()
    changed = {n.split(".")[0] for n in before if not torch.equal(before[n], after[n])}
    assert changed == {"unet", "controlnet"}


def test_resumed_training_equals_straight_training(tiny_cache: Path, tmp_path: Path) -> None:
    def run(name: str, *stops: int) -> dict[str, torch.Tensor]:
        (tmp_path / name).mkdir()
        for until in stops:
            trainer = denoiser.Trainer(tiny_cache, tmp_path / name, 0, RATE, 4, TINY)
            denoiser.train(trainer, until, minutes=5)
        assert trainer.step_number == stops[-1]
        return trainer.model.state_dict() | {
            f"average.{k}": v for k, v in trainer.average.state_dict().items()
        }

    straight, resumed = run("straight", 4), run("resumed", 2, 4)
    for key, value in straight.items():
        torch.testing.assert_close(resumed[key], value, atol=1e-6, rtol=0, msg=key)
    start = denoiser.Trainer(tiny_cache, tmp_path / "new", 0, RATE, 4, TINY)
    assert not torch.equal(
        start.model.state_dict()["unet.conv_in.weight"], straight["unet.conv_in.weight"]
    )


def test_prepared_cache_is_paired_and_kept(tiny_cache: Path, tmp_path: Path) -> None:
    basis = (tiny_cache / "basis.npz").read_bytes()
    pictures = np.load(tiny_cache / "pictures.npy")
    assert pictures.shape == (12, 3, 32, 32, 3)
    np.testing.assert_array_equal(pictures[:, 1], pictures[:, 0, :, ::-1])
    held = np.load(tiny_cache / "held_out.npy")
    assert 0 < held.sum() < 12
    before = np.load(tiny_cache / "latents.npy")
    prepare(tiny_cache.parent / "web", tiny_cache, side=32, copies=3, seed=0, workers=1)
    assert (tiny_cache / "basis.npz").read_bytes() == basis
    np.testing.assert_array_equal(np.load(tiny_cache / "latents.npy"), before)


@shipped
def test_scheduler_never_reaches_alpha_zero() -> None:
    scheduler = DDIMScheduler.from_pretrained(PACKAGE / "sd" / "scheduler")
    scheduler.set_timesteps(25)
    assert scheduler.timesteps[0] == 999
    assert scheduler.alphas_cumprod[999] > 1e-3


@shipped
def test_a_package_unpacks_to_what_exports_to_it(tmp_path: Path) -> None:
    cache, run, again = tmp_path / "cache", tmp_path / "run", tmp_path / "made" / "higfa_pocket"
    history = unpack(PACKAGE, cache, run)
    assert export(cache, run, again) == history["denoiser"]["step"]
    for part in ("sd/unet", "sd/text_encoder", "sd/vae", "controlnet"):
        (name,) = [path.name for path in (PACKAGE / part).glob("*.safetensors")]
        before, after = (load_file(folder / part / name) for folder in (PACKAGE, again))
        assert before.keys() == after.keys()
        for key, value in before.items():
            # the encoder is made anew from its basis, which knows it to float16
            loose = {"atol": 2e-3, "rtol": 2e-3} if key.startswith("encoder.") else {}
            np.testing.assert_allclose(after[key], value, err_msg=key, **({"rtol": 0} | loose))
    with pytest.raises(FileExistsError, match=r"denoiser\.pt: would be replaced"):
        unpack(PACKAGE, cache, run)
