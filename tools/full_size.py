"""The true architectures, with random weights, through higfa's own loader and loop on a CPU.

    python -m tools.full_size --family sd --folder DIR
    python -m tools.full_size --family sdxl --folder DIR --size 512 --dtype bfloat16 --tiny

Builds the public configuration once in DIR (5 GB for sd, 9 GB for sdxl in bfloat16), loads it with
`from_pretrained`, draws two steps of which one is guided, and compares two steps without guide with
diffusers' stock pipeline. Prints JSON: finite, seconds, largest difference in 1/255, and the memory
that the process took beside the figure that `models/footprint.py` computes. The comparison is made
in float32 only. The weights are noise: nothing is said about pictures.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import timm
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from higfa_cli.method.guidance import Guidance, TextStrength
from higfa_cli.models.architecture import architecture
from higfa_cli.models.classifier import Classifier, ClassifierSpec
from higfa_cli.models.diffusion import DiffusionModel, seeded_noise
from higfa_cli.models.draw import draw
from higfa_cli.models.footprint import guided_step
from higfa_cli.recipe.classifiers import Guide
from higfa_cli.recipe.drawing import Model
from tests.support import tiny
from tests.support.recipes import drawing_recipe, load_model

IDS = {
    "sd": (
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "lllyasviel/control_v11p_sd15_canny",
        "madebyollin/taesd",
    ),
    "sdxl": (
        "stabilityai/stable-diffusion-xl-base-1.0",
        "diffusers/controlnet-canny-sdxl-1.0",
        "madebyollin/taesdxl",
    ),
}
PROMPT, NEGATIVE, SEED = "a photo of a small aircraft", "blurry", 7
GUIDE_SIZE, CLASSES = 224, 100


def build(family: str, folder: Path, dtype: torch.dtype) -> None:
    """Save model, ControlNet and tiny autoencoder with random weights, unless they are there."""
    if (folder / "done").exists():
        return
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    model, controlnet, small = IDS[family]
    known = architecture(
        Model(base=model, controlnet=controlnet, gradient_autoencoder=small), Path()
    )
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    tokenizer = tiny.make_tokenizer(folder / "vocabulary")
    control = diffusers.ControlNetModel.from_config(known.controlnet)
    # Zero at construction, so that the contour would have no effect.
    opened = (control.controlnet_down_blocks, control.controlnet_cond_embedding.conv_out)
    for parameter in (p for module in opened for p in module.parameters()):
        torch.nn.init.normal_(parameter, std=0.02)
    control.save_pretrained(folder / "controlnet")
    del control
    diffusers.AutoencoderTiny.from_config(known.gradient_vae).save_pretrained(folder / "tiny")
    encoders = [
        (CLIPTextModel if index == 0 else CLIPTextModelWithProjection)(
            CLIPTextConfig(
                **{k: v for k, v in config.items() if k not in ("architectures", "model_type")}
            )
        )
        for index, config in enumerate(known.text_encoders)
    ]
    parts: dict[str, Any] = {
        "vae": diffusers.AutoencoderKL.from_config(known.vae),
        "text_encoder": encoders[0],
        "tokenizer": tokenizer,
        "unet": diffusers.UNet2DConditionModel.from_config(known.network),
        "scheduler": diffusers.DDIMScheduler.from_config(known.scheduler),
    }
    if family == "sdxl":
        second = {"text_encoder_2": encoders[1], "tokenizer_2": tokenizer}
        pipe: Any = diffusers.StableDiffusionXLPipeline(**parts, **second, add_watermarker=False)
    else:
        checker = {"safety_checker": None, "feature_extractor": None}
        pipe = diffusers.StableDiffusionPipeline(**parts, **checker, requires_safety_checker=False)
    pipe.save_pretrained(folder / "sd")
    torch.set_default_dtype(torch.float32)
    (folder / "done").touch()


class PeakMemory:
    """The most that this process holds while the block runs, bytes."""

    def __enter__(self) -> PeakMemory:
        self.process, self.most, self.running = psutil.Process(), 0, True
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while self.running:
            self.most = max(self.most, self.process.memory_info().rss)
            time.sleep(0.02)

    def __exit__(self, *_: object) -> None:
        self.running = False
        self.thread.join()


def make_guide() -> Classifier:
    """A random ResNet-50."""
    half, names = (0.5, 0.5, 0.5), tuple(f"class {i}" for i in range(CLASSES))
    network = timm.create_model("resnet50", num_classes=CLASSES)
    return Classifier(network, ClassifierSpec("resnet50", names, GUIDE_SIZE, half, half))


def largest_difference(
    model: DiffusionModel, folder: Path, family: str, contour: torch.Tensor
) -> float:
    """Ours without guide against the stock pipeline on the same modules, in 1/255."""
    from diffusers import StableDiffusionControlNetPipeline, StableDiffusionXLControlNetPipeline

    guidance = Guidance(composition="joint", text=TextStrength(7.5)).switched(1.0)
    ours = draw(model, None, guidance, [PROMPT], NEGATIVE, contour, [0], [SEED])[0].pixels
    assert ours is not None
    extra = {"safety_checker": None, "feature_extractor": None} if family == "sd" else {}
    stock = (
        StableDiffusionControlNetPipeline if family == "sd" else StableDiffusionXLControlNetPipeline
    )
    pipe = stock.from_pretrained(
        folder / "sd",
        unet=model.network,
        controlnet=model.controlnet,
        vae=model.autoencoder.vae,
        dtype=model.network.dtype,
        **extra,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = model.solver(model.sampling.steps).scheduler
    noise = seeded_noise([SEED], model.latent_shape, model.device)
    theirs = pipe(
        [PROMPT],
        image=contour.expand(-1, 3, -1, -1),
        negative_prompt=[NEGATIVE],
        latents=noise.to(model.network.dtype),
        num_inference_steps=model.sampling.steps,
        guidance_scale=7.5,
        output_type="np",
    ).images[0]
    return float(np.abs(ours / 255 - theirs).max() * 255)


def main() -> None:
    """Build, draw, compare, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--family", choices=sorted(IDS), required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--tiny", action="store_true", help="tiny autoencoder for the gradient")
    asked = parser.parse_args()
    folder = asked.folder / f"{asked.family}-{asked.dtype}"
    build(asked.family, folder, getattr(torch, asked.dtype))
    recipe = drawing_recipe(
        folder / "sd",
        folder / "controlnet",
        asked.size,
        gradient_autoencoder=str(folder / "tiny") if asked.tiny else None,
        dtype=asked.dtype,
        steps=2,
        scheduler="dpm++2m",
        text={"scale": 7.5},
        classifier={"switch": 0.5},
        memory={"gradient_checkpointing": True},
    ).model_copy(update={"guide": Guide(backbone="resnet50", image_size=GUIDE_SIZE)})
    computed = guided_step(architecture(recipe.model, Path()), recipe, 1)
    before = psutil.Process().memory_info().rss
    contour = (torch.rand(1, 1, asked.size, asked.size) > 0.95).float()
    with PeakMemory() as memory:
        model = load_model(recipe, [PROMPT, NEGATIVE])
        started = time.perf_counter()
        drawn = draw(
            model, make_guide(), recipe.guidance, [PROMPT], NEGATIVE, contour, [3], [SEED]
        )[0]
        seconds = time.perf_counter() - started
    found: dict[str, Any] = {
        "family": asked.family,
        "size": asked.size,
        "dtype": asked.dtype,
        "error": drawn.error,
        "guide": {key: drawn.trace[key][-1] for key in ("p", "grad_norm")},
        "seconds": round(seconds, 1),
        "computed_gib": round(computed.peak / 2**30, 2),
        "process_gib": round((memory.most - before) / 2**30, 2),
    }
    if asked.dtype == "float32":  # The stock pipeline keeps its latents in the model's precision.
        found["difference_255"] = round(largest_difference(model, folder, asked.family, contour), 3)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
