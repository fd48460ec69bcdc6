"""Stage 5: write the averaged weights as `from_pretrained` folders (fp16) and the model card.

    python -m tools.pocket.train.export --cache CACHE --run RUN --package pocket/higfa_pocket

`sd/` is a StableDiffusionPipeline folder, `controlnet/` a ControlNetModel folder. Both are written
beside their place and renamed when complete.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, StableDiffusionPipeline
from transformers import CLIPTokenizer

from tools.pocket.train.card import write_card
from tools.pocket.train.checkpoint import load_checkpoint
from tools.pocket.train.decoder import trained_autoencoder
from tools.pocket.train.denoiser import Generator
from tools.pocket.train.networks import build_scheduler, sizes_of

MAX_BYTES = 60_000_000
MACHINE_KEYS = ("_name_or_path", "name_or_path", "tokenizer_file", "is_local", "local_files_only")


def load_trained(cache: Path, run: Path) -> tuple[StableDiffusionPipeline, ControlNetModel, int]:
    """Pipeline and ControlNet with averaged weights, and the denoiser's step."""
    tokenizer = CLIPTokenizer.from_pretrained(cache / "tokenizer", local_files_only=True)
    state = load_checkpoint(run / "denoiser.pt")
    model = Generator(sizes_of(state["model"]), tokenizer)
    model.load_state_dict(state["model"] | state["average"])
    autoencoder = trained_autoencoder(cache, run / "decoder.pt")
    decoder = load_checkpoint(run / "decoder.pt")
    autoencoder.decoder.load_state_dict(decoder["decoder"] | decoder["average"])
    pipeline = StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=model.text_encoder,
        tokenizer=tokenizer,
        unet=model.unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return pipeline, model.controlnet, state["step"]


def clean_configs(folder: Path) -> None:
    """Remove traces of the training machine, and let loaders choose float32."""
    for path in folder.rglob("*.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        if path.name == "tokenizer.json":
            continue
        for key in MACHINE_KEYS:
            config.pop(key, None)
        if config.get("_class_name") == "AutoencoderTiny":
            # written by diffusers from the decoder's channels, and warned about when read again
            config.pop("block_out_channels", None)
        if "dtype" in config:
            # transformers would otherwise compute in the stored precision, unlike diffusers
            config["dtype"] = "float32"
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)


def replace_folder(new: Path, place: Path) -> None:
    """Put the complete folder `new` where `place` is."""
    old = place.with_name(f".{place.name}-old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    new.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def weight_bytes(package: Path) -> int:
    """Bytes of all files under sd/ and controlnet/."""
    folders = (package / "sd", package / "controlnet")
    return sum(path.stat().st_size for folder in folders for path in folder.rglob("*.*"))


def export(cache: Path, run: Path, package: Path) -> int:
    """Write both folders; returns the denoiser's step. ValueError if they exceed 60 MB."""
    pipeline, controlnet, step = load_trained(cache, run)
    package.mkdir(parents=True, exist_ok=True)
    for name, model in (("sd", pipeline), ("controlnet", controlnet)):
        new = package / f".{name}-new"
        shutil.rmtree(new, ignore_errors=True)
        model.to(dtype=torch.float16)
        model.save_pretrained(new, safe_serialization=True)
        clean_configs(new)
        replace_folder(new, package / name)
    if (size := weight_bytes(package)) > MAX_BYTES:
        raise ValueError(f"{package}: {size} bytes of weights, more than {MAX_BYTES}")
    return step


def main() -> None:
    """Read the command line and export."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--package", type=Path, required=True)
    parser.add_argument("--sheet", type=Path, help="sheet.json of tools/pocket/sheet.py")
    arguments = parser.parse_args()
    step = export(arguments.cache, arguments.run, arguments.package)
    sheet: dict[str, Any] | None = None
    if arguments.sheet is not None:
        sheet = json.loads(arguments.sheet.read_text(encoding="utf-8"))
    write_card(arguments.cache, arguments.run, arguments.package, sheet)
    print(f"step {step}: {weight_bytes(arguments.package) / 1e6:.1f} MB in {arguments.package}")


if __name__ == "__main__":
    main()
