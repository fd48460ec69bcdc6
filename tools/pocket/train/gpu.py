"""A few minutes on a borrowed GPU: denoiser, then decoder, from a pack; ready at any hour.

    python -m tools.pocket.train.gpu --pack PACK --out OUT --minutes 7 --polish 3 \\
        --backbone pocket/higfa_pocket/backbone.safetensors
    python -m tools.pocket.train.gpu --collect OUT --pack PACK --run RUN

One process. PACK is what pack.py wrote. OUT receives shards of the averaged weights every two
minutes, gpu.jsonl, held-out losses, and drawn.png (held-out contours, photos, drawings); nothing
else, because little may come back. `--collect` makes trainers' checkpoints of OUT's shards. On a
GPU the step is one CUDA graph: at these sizes an eager step waits for its own kernel launches
nearly all of its time.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderTiny
from PIL import Image
from torch import Tensor
from transformers import CLIPTokenizer

from tools.pocket.lab.likeness import BANDS, band_powers
from tools.pocket.train import polish
from tools.pocket.train.autoencoder import PatchBasis, build_autoencoder
from tools.pocket.train.checkpoint import append_log, load_checkpoint, save_atomic
from tools.pocket.train.decoder import decode
from tools.pocket.train.denoiser import Rate, Trainer
from tools.pocket.train.graphed import Step
from tools.pocket.train.networks import LEVELS, Sizes, build_scheduler, sizes_of
from tools.pocket.train.pack import (
    averaged,
    checkpoint_of,
    read_shards,
    unpack_pictures,
    write_shards,
)
from tools.pocket.train.prepare import Cache
from tools.pocket.train.redraw import SCALE, STEPS, Painter, redraw, save_arrays, trailing

SAVE_SECONDS = 120
WARM_UP_SECONDS = 10
SHEET = 32


@dataclass(frozen=True)
class Plan:
    """Minutes of denoiser and decoder, sizes, rates, and who may help.

    `graph`: capture the step; `copies`: of every picture; `scale`: the decoder's batch, in twelves.
    """

    minutes: float
    polish: float
    batch: int = 1024
    rate: float = 1e-3
    averaged: float = 0.998
    copies: int = 8
    workers: int = 16
    redrawn: int = 4096
    scale: int = 16
    graph: bool = True


def hidden_states(trainer: Trainer) -> tuple[Tensor, Tensor]:
    """The frozen text encoder's last hidden states of every row, float16, and of the empty prompt.

    They never change: a step need not make them.
    """
    with torch.no_grad():
        encode = trainer.model.text_encoder
        parts = [encode(p.long()).last_hidden_state.half() for p in trainer.shelf.tokens.split(512)]
        return torch.cat(parts), encode(trainer.empty[None]).last_hidden_state.half()[0]


def train(trainer: Trainer, plan: Plan, out: Path) -> None:
    """Steps until the minutes are over; the rate falls with them, down to nothing."""
    words, empty = hidden_states(trainer)
    step = Step(trainer, plan.batch, plan.averaged, plan.graph)
    log = out / "gpu.jsonl"
    began = saved = logged = time.monotonic()
    while (elapsed := time.monotonic() - began) < plan.minutes * 60:
        left = 1 - elapsed / (plan.minutes * 60)
        step.fill(words, empty)
        loss = step.take(plan.rate * min(1.0, (elapsed + 0.05) / WARM_UP_SECONDS) * left)
        trainer.step_number += 1
        trainer.seen += plan.batch
        # Reading a loss waits for the GPU, which also keeps the queue of launches short.
        if step.taken % 50 == 0:
            row: dict[str, Any] = {"step": trainer.step_number, "loss": round(loss.item(), 5)}
            now = time.monotonic()
            row["img_per_s"] = round(50 * plan.batch / (now - logged))
            append_log(log, row | {"s": round(now - began)})
            logged = now
        if time.monotonic() - saved > SAVE_SECONDS:
            saved = time.monotonic()
            write_shards(trained(trainer), out, "denoiser")
    trainer.seconds += time.monotonic() - began
    append_log(log, {"step": trainer.step_number} | trainer.held_out_loss())
    write_shards(trained(trainer), out, "denoiser")


def trained(trainer: Trainer) -> dict[str, Tensor]:
    """The averaged weights."""
    return trainer.model.state_dict() | trainer.average.state_dict()


def open_trainer(
    pack: Path, cache: Path, out: Path, plan: Plan, device: torch.device, base: Sizes
) -> Trainer:
    """A trainer on the pack's weights."""
    weights = read_shards(pack, "denoiser")
    taught = {n.removeprefix("text_encoder."): v for n, v in weights.items() if "text_enc" in n}
    save_atomic({"text_encoder": taught}, cache / "text_encoder.pt")
    sizes, counts = sizes_of(weights, base), load_checkpoint(pack / "counts.pt")
    rate = Rate(plan.rate)
    trainer = Trainer(cache, out, 0, rate, plan.batch, sizes, device, 1, plan.averaged)
    trainer.model.load_state_dict(weights)
    trainer.average.load_state_dict(weights)
    for name, value in counts["denoiser"].items():
        setattr(trainer, "step_number" if name == "step" else name, value)
    return trainer


@torch.no_grad()
def draw_sheet(
    painter: Painter, cache: Cache, autoencoder: AutoencoderTiny, out: Path
) -> dict[str, float]:
    """drawn.png; returns the drawings' band powers relative to the photos'."""
    device = painter.empty.device
    rows = np.flatnonzero(cache.held_out)
    rows = rows[np.linspace(0, len(rows) - 1, min(SHEET, len(rows))).astype(int)]
    contours = torch.from_numpy(cache.contours[rows, 0])[:, None].float() / 255
    tokens = torch.from_numpy(cache.tokens[rows].astype(np.int64))
    noise = torch.randn(len(rows), *cache.latents.shape[2:], generator=torch.Generator())
    noise, tokens, shown = (part.to(device) for part in (noise, tokens, contours))
    x0 = painter.paint(noise, tokens, shown, trailing(LEVELS - 1, STEPS), SCALE)
    pictures = (decode(autoencoder, x0).clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    photos = cache.pictures[rows, 0]
    lines = [contours.mul(255).byte().expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy(), photos]
    lines.append(pictures.permute(0, 2, 3, 1).numpy())
    Image.fromarray(np.concatenate([np.concatenate(line, axis=1) for line in lines])).save(out)
    ratios = band_powers(pictures) / band_powers(torch.from_numpy(photos).permute(0, 3, 1, 2))
    return {
        f"power {low}-{high}": round(float(ratios[i]), 3) for i, (low, high) in enumerate(BANDS)
    }


def run(
    pack: Path,
    out: Path,
    backbone: Path,
    plan: Plan,
    device: torch.device,
    tokenizer_folder: Path,
    base: Sizes | None = None,
) -> None:
    """Everything: unpack, denoiser, redrawn latents, decoder, samples."""
    out.mkdir(parents=True, exist_ok=True)
    cache_folder = out / ".cache"
    began = time.monotonic()
    cache = unpack_pictures(pack, cache_folder, plan.copies, plan.workers)
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder, local_files_only=True)
    tokenizer.save_pretrained(cache_folder / "tokenizer")
    log = out / "gpu.jsonl"
    append_log(log, {"unpacked": len(cache.held_out), "s": round(time.monotonic() - began)})
    trainer = open_trainer(pack, cache_folder, out, plan, device, base or Sizes())
    train(trainer, plan, out)
    trainer.model.load_state_dict(trained(trainer))
    model = trainer.model.eval().requires_grad_(False)
    painter = Painter(model, trainer.empty[None], build_scheduler().alphas_cumprod)
    decoder = read_shards(pack, "decoder")
    if plan.polish > 0:
        arrays = redraw(cache, painter, 3 * plan.redrawn // 4, plan.redrawn // 4)
        save_arrays(cache_folder / "redrawn.npz", arrays)
        counts = load_checkpoint(pack / "counts.pt")["decoder"]
        save_atomic(checkpoint_of(decoder, "decoder", counts), cache_folder / "decoder.pt")
        diet = polish.Diet(*(plan.scale * k for k in (6, 4, 2)))
        course = polish.Course(plan.polish, diet=diet, device=device)
        polisher = polish.Trainer(cache_folder, cache_folder, backbone, course)
        polish.train(polisher)
        decoder = averaged(cache_folder / "decoder.pt", "decoder")
        counts = {k: getattr(polisher, k) for k in ("seen", "seconds")}
        append_log(log, {"decoder": counts | {"step": polisher.step_number}})
    write_shards(decoder, out, "decoder")
    basis = PatchBasis.load(cache_folder / "basis.npz")
    autoencoder = build_autoencoder(basis, len(decoder["layers.0.weight"])).to(device)
    autoencoder.decoder.load_state_dict(decoder)
    append_log(log, draw_sheet(painter, cache, autoencoder, out / "drawn.png"))
    counts = {k: getattr(trainer, k) for k in ("seen", "seconds")}
    append_log(log, {"denoiser": counts | {"step": trainer.step_number}})


def collect(came: Path, pack: Path, run_folder: Path) -> None:
    """Trainers' checkpoints of what came back; counts from its log, else from the pack."""
    counts = load_checkpoint(pack / "counts.pt")
    for line in (came / "gpu.jsonl").read_text(encoding="utf-8").splitlines():
        counts |= {k: v for k, v in json.loads(line).items() if k in counts}
    run_folder.mkdir(parents=True, exist_ok=True)
    for part in ("denoiser", "decoder"):
        weights = read_shards(came, part)
        save_atomic(checkpoint_of(weights, part, counts[part]), run_folder / f"{part}.pt")


def main() -> None:
    """Read the command line and train, or collect."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--collect", type=Path)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--backbone", type=Path)
    parser.add_argument("--tokenizer", type=Path, default=Path("pocket/higfa_pocket/sd/tokenizer"))
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--minutes", type=float, default=7)
    parser.add_argument("--polish", type=float, default=3, help="minutes of the decoder")
    parser.add_argument("--batch", type=int, default=Plan.batch)
    parser.add_argument("--rate", type=float, default=Plan.rate)
    parser.add_argument("--no-graph", action="store_true")
    asked = parser.parse_args()
    if asked.collect is not None:
        collect(asked.collect, asked.pack, asked.run)
        return
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    plan = Plan(asked.minutes, asked.polish, asked.batch, asked.rate, graph=not asked.no_graph)
    run(asked.pack, asked.out, asked.backbone, plan, asked.device, asked.tokenizer)


if __name__ == "__main__":
    main()
