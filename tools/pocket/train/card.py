"""The model card, written from the training logs."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from diffusers import AutoencoderTiny, ControlNetModel, UNet2DConditionModel
from safetensors.torch import load_file

from tools.pocket.train.checkpoint import load_checkpoint, read_log
from tools.pocket.train.networks import parameter_count
from tools.pocket.train.unpack import HISTORY

CARD = """# higfa-pocket: a small text-to-aircraft latent diffusion model with a contour ControlNet

Licence: GPL-2.0-or-later (trained on pictures rendered from GPL-2.0-or-later aircraft models; see
ATTRIBUTION.md). Made to run the HiGFA pipeline on two CPU cores. It draws {side} px side views of
airliners and nothing else, and is no substitute for a large model.

## Use

```python
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from higfa_pocket import ROOT

controlnet = ControlNetModel.from_pretrained(ROOT / "controlnet", use_safetensors=True)
pipeline = StableDiffusionControlNetPipeline.from_pretrained(
    ROOT / "sd", controlnet=controlnet, safety_checker=None, use_safetensors=True
)
image = pipeline("a photo of a Boeing 737-800 airliner", image=contour).images[0]
```

`contour`: white edges on black, {side} x {side}. v-prediction, 25 DDIM steps, guidance scale 4.

## Parts

| part | class | parameters |
| --- | --- | --- |
| text encoder | CLIPTextModel, hidden 128, 2 layers | {text:,} |
| denoiser | UNet2DConditionModel, {channels} channels | {unet:,} |
| contour | ControlNetModel | {controlnet:,} |
| autoencoder | AutoencoderTiny, f8, {latents} latent channels | {vae:,} |

`backbone.safetensors` (`pocket:backbone`): timm's regnetx_002 without its head, trained on the same
pictures with the names of families only ("Boeing 737"); what ImageNet weights are to real photos.

The encoder is a closed-form PCA of 8x8x3 patches, partially whitened (std to the power 0.6); only
the decoder is trained. The noise schedule is Stable Diffusion's with 80 further levels, down to an
alpha of 0.01.

## Training

- Pictures: {pictures:,} of the `web` pool in {copies} augmented copies, noisy captions;
  {held:,} pictures of held-out airlines kept aside for the figures below.
- Denoiser and ControlNet jointly: {steps:,} steps, {seen:,} pictures seen, {hours:.1f} hours of
  wall time, on 2 CPU cores shared with other work where nothing else is said. 12 % caption dropout,
  50 % contour dropout, AdamW, rates that fall to nothing, averaged weights.
{notes}
- Decoder: {decoder_steps:,} steps, {decoder_seen:,} pictures seen, {decoder_minutes:.0f} minutes.

Again, from the repository's root (each trainer goes on from its checkpoint; to go on from these
weights, run `python -m tools.pocket.train.unpack --package pocket/higfa_pocket --cache CACHE
--run RUN` before `prepare`, and leave `words` out):

```
python tools/pocket/render.py --pool web --out WEB --per-class 2000
python -m tools.pocket.train.prepare --web WEB --cache CACHE
python -m tools.pocket.train.words --web WEB --cache CACHE
python -m tools.pocket.train.decoder --cache CACHE --out RUN --minutes 20
OMP_NUM_THREADS=1 python -m tools.pocket.train.denoiser --cache CACHE --out RUN
python -m tools.pocket.train.redraw --cache CACHE --run RUN
python -m tools.pocket.train.polish --cache CACHE --out RUN --backbone BACKBONE
python -m tools.pocket.train.export --cache CACHE --run RUN --package pocket/higfa_pocket
python -m tools.pocket.sheet --pocket pocket/higfa_pocket --out SHEET
```

## Measured

- Reconstruction of held-out airlines: {psnr}.
- Denoising loss on held-out airlines: {losses}.
{overlap}

## Limits

docs/instruments.md says how often a drawing shows the asked variant. Text alone draws worse
aircraft than text with a contour. Lettering and small markings are not drawn.
"""


def _last(rows: list[dict[str, Any]], key: str) -> dict[str, Any] | None:
    return next((row for row in reversed(rows) if key in row), None)


def denoiser_figures(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The log's newest losses on held-out airlines; empty where none is logged."""
    held = _last(rows, "with_contour")
    return {} if held is None else {key: held[key] for key in ("with_contour", "text_only")}


def decoder_figures(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The log's newest PSNR on held-out airlines by latent noise; empty where none is logged."""
    return {str(row["noise"]): row["held_out_psnr"] for row in rows if "held_out_psnr" in row}


# What training.json says of a checkpoint, from which unpack.py makes one again, and of its log.
HISTORY_KEYS = {
    "denoiser": (("step", "seen", "seconds"), denoiser_figures),
    "decoder": (("step", "seen", "seconds"), decoder_figures),
}


def _psnr_line(by_noise: dict[str, float]) -> str:
    if not by_noise:
        return "not measured yet"
    return ", ".join(f"{v:.1f} dB with latent noise {k}" for k, v in by_noise.items())


def _loss_line(held: dict[str, float]) -> str:
    if not held:
        return "not measured yet"
    return f"{held['with_contour']:.4f} with contours, {held['text_only']:.4f} without"


def _overlap_line(sheet: dict[str, Any] | None) -> str:
    if sheet is None:
        return ""
    return (
        f"- Edge overlap ({sheet['measure']}), {sheet['images']} contours of {sheet['source']}: "
        f"{sheet['text_contour']['overlap']:.3f} with text and contour, "
        f"{sheet['text_only']['overlap']:.3f} with text alone, ratio {sheet['ratio']:.2f}. "
        f"As F1 of the same edges: {sheet['text_contour']['f1']:.3f} and "
        f"{sheet['text_only']['f1']:.3f}."
    )


def write_history(run: Path, place: Path) -> dict[str, Any]:
    """Update training.json from checkpoints and logs; returns it. Its notes a person writes.

    Held-out figures stay as they are where a trainer has logged none since it was unpacked.
    """
    history = json.loads(place.read_text(encoding="utf-8")) if place.is_file() else {"notes": []}
    for name, (keys, figures) in HISTORY_KEYS.items():
        state, log = load_checkpoint(run / f"{name}.pt"), run / f"{name}.jsonl"
        found = figures(read_log(log)) if log.is_file() else {}
        kept = history.get(name, {}).get("held_out", {})
        about = {key: round(state[key]) for key in keys}
        history[name] = about | {"held_out": found or kept}
    place.write_text(json.dumps(history, indent=1) + "\n", encoding="utf-8")
    return history


def write_card(cache: Path, run: Path, package: Path, sheet: dict[str, Any] | None) -> None:
    """Write training.json and MODEL_CARD.md beside `package`, which holds the exported folders."""
    history = write_history(run, package.parent / HISTORY)
    notes, denoiser, decoder = (history[name] for name in ("notes", "denoiser", "decoder"))
    unet = UNet2DConditionModel.from_pretrained(package / "sd" / "unet")
    vae = AutoencoderTiny.from_pretrained(package / "sd" / "vae")
    text = load_file(package / "sd" / "text_encoder" / "model.safetensors")
    hold = np.load(cache / "held_out.npy")
    contours = np.load(cache / "contours.npy", mmap_mode="r")
    card = CARD.format(
        side=contours.shape[-1],
        text=sum(value.numel() for value in text.values()),
        channels=tuple(unet.config.block_out_channels),
        unet=parameter_count(unet),
        controlnet=parameter_count(ControlNetModel.from_pretrained(package / "controlnet")),
        latents=vae.config.latent_channels,
        vae=parameter_count(vae),
        pictures=len(hold),
        copies=contours.shape[1],
        held=int(hold.sum()),
        notes="\n".join(textwrap.fill(f"- {n}", 99, subsequent_indent="  ") for n in notes),
        steps=denoiser["step"],
        seen=denoiser["seen"],
        hours=denoiser["seconds"] / 3600,
        decoder_steps=decoder["step"],
        decoder_seen=decoder["seen"],
        decoder_minutes=decoder["seconds"] / 60,
        psnr=_psnr_line(decoder["held_out"]),
        losses=_loss_line(denoiser["held_out"]),
        overlap=_overlap_line(sheet),
    )
    (package.parent / "MODEL_CARD.md").write_text(card, encoding="utf-8")
