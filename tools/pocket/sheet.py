"""Draw a contact sheet with the stock diffusers pipeline and measure how contours are followed.

    python -m tools.pocket.sheet --pocket pocket/higfa_pocket --out DIR [--web WEB --cache CACHE]

Writes DIR/sheet.png (rows: photo, contour, text + contour, text only; same seeds) and
DIR/sheet.json.

Edge overlap: `tools.pocket.lab.figures.edge_overlap`. The figure is the mean over pictures; the
ratio is that of text + contour to text only.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, StableDiffusionPipeline
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.pocket.lab.figures import edge_overlap
from tools.pocket.train.contours import canny
from tools.pocket.train.webdata import load_square, read_web

CLASSES = Path(__file__).with_name("classes.json")
MEASURE = "Jaccard index of Canny edges with a tolerance of one pixel"
STEPS, TEXT_SCALE, CONTOUR_SCALE = 25, 4.0, 1.0


@dataclass(frozen=True)
class Asked:
    """A photo (side, side, 3) uint8, its contour (side, side) uint8, and its class."""

    photo: np.ndarray
    contour: np.ndarray
    variant: str


def ask(path: Path, variant: str, side: int) -> Asked:
    """The photo and its contour, with the contour stage's default settings."""
    photo = load_square(path, side)
    return Asked(photo, canny(photo), variant)


def shipped_pictures(pocket: Path) -> tuple[list[tuple[Path, str]], str] | None:
    """Files and variants of the shipped test split (FGVC-Aircraft's lists), if it is there."""
    data = pocket / "data" / "aircraft"
    for lists in sorted(data.rglob("images_variant_test.txt")):
        rows = [line.split(" ", 1) for line in lists.read_text(encoding="utf-8").splitlines()]
        found = [(lists.parent / "images" / f"{name}.jpg", variant) for name, variant in rows]
        return found, "the shipped test split"
    return None


def held_out_web(web: Path, cache: Path) -> tuple[list[tuple[Path, str]], str]:
    """Files and variants of the web pool's held-out airlines."""
    hold = np.load(cache / "held_out.npy")
    found = [(p.path, p.variant) for p, out in zip(read_web(web), hold, strict=True) if out]
    return found, "held-out airlines of the web pool"


def choose(found: list[tuple[Path, str]], count: int, side: int) -> list[Asked]:
    """`count` pictures, as evenly over the classes as they come, drawn with a fixed seed."""
    order = np.random.default_rng(0).permutation(len(found))
    seen: dict[str, int] = {}
    ranked = []
    for index in order:
        variant = found[index][1]
        seen[variant] = seen.get(variant, 0) + 1
        ranked.append((seen[variant], int(index)))
    picked = sorted(index for _, index in sorted(ranked)[:count])
    return [ask(*found[index], side) for index in picked]


def draw(pocket: Path, asked: list[Asked], seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Drawings with text + contour, and with text only, from the same seeds."""
    words = json.loads(CLASSES.read_text(encoding="utf-8"))
    controlnet = ControlNetModel.from_pretrained(
        pocket / "controlnet", use_safetensors=True, local_files_only=True
    )
    with_contour = StableDiffusionControlNetPipeline.from_pretrained(
        pocket / "sd",
        controlnet=controlnet,
        safety_checker=None,
        use_safetensors=True,
        local_files_only=True,
    )
    parts = {k: v for k, v in with_contour.components.items() if k != "controlnet"}
    text_only = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    both: list[np.ndarray] = []
    text: list[np.ndarray] = []
    for start in range(0, len(asked), 16):
        part = asked[start : start + 16]
        common = {
            "prompt": [f"a photo of a {words[a.variant]['words']}" for a in part],
            "num_inference_steps": STEPS,
            "guidance_scale": TEXT_SCALE,
            "output_type": "np",
        }
        contours = torch.stack([torch.from_numpy(a.contour) for a in part])[:, None] / 255
        for drawings, pipeline, more in (
            (
                both,
                with_contour,
                {
                    "image": contours.expand(-1, 3, -1, -1),
                    "controlnet_conditioning_scale": CONTOUR_SCALE,
                },
            ),
            (text, text_only, {}),
        ):
            pipeline.set_progress_bar_config(disable=True)
            seeds = [
                torch.Generator().manual_seed(seed + start + number) for number in range(len(part))
            ]
            images = pipeline(**common, **more, generator=seeds).images
            drawings += [np.round(image * 255).astype(np.uint8) for image in images]
    return both, text


def compose(rows: list[list[np.ndarray]], labels: list[str], columns: int = 16) -> Image.Image:
    """Blocks of `columns` pictures; in each block one line per row, under the class names."""
    side, gap, head = rows[0][0].shape[0], 2, 12
    blocks = -(-len(labels) // columns)
    tall = head + len(rows) * (side + gap)
    sheet = Image.new("RGB", (columns * (side + gap), blocks * (tall + 6)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, label in enumerate(labels):
        left, top = number % columns * (side + gap), number // columns * (tall + 6)
        pen.text((left, top), label, fill="black")
        for line, row in enumerate(rows):
            picture = Image.fromarray(row[number]).convert("RGB")
            sheet.paste(picture, (left, top + head + line * (side + gap)))
    return sheet


def make_sheet(pocket: Path, out: Path, found: list[tuple[Path, str]], source: str) -> dict:
    """Draw, measure and write; returns what sheet.json holds."""
    side = (
        8 * json.loads((pocket / "sd/unet/config.json").read_text(encoding="utf-8"))["sample_size"]
    )
    asked = choose(found, 64, side)
    both, text = draw(pocket, asked, seed=1000)
    rows = [[a.photo for a in asked], [a.contour for a in asked], both, text]
    out.mkdir(parents=True, exist_ok=True)
    compose(rows, [a.variant for a in asked]).save(out / "sheet.png")
    figures: dict = {"measure": MEASURE, "images": len(asked), "source": source}
    figures |= {"steps": STEPS, "text_scale": TEXT_SCALE, "conditioning_scale": CONTOUR_SCALE}
    for name, drawings in (("text_contour", both), ("text_only", text)):
        pairs = [edge_overlap(d, a.contour) for d, a in zip(drawings, asked, strict=True)]
        overlap, f1 = np.mean(pairs, axis=0)
        figures[name] = {"overlap": round(float(overlap), 4), "f1": round(float(f1), 4)}
    figures["ratio"] = figures["text_contour"]["overlap"] / figures["text_only"]["overlap"]
    figures["photo"] = round(
        float(np.mean([edge_overlap(a.photo, a.contour)[0] for a in asked])), 4
    )
    (out / "sheet.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return figures


def main() -> None:
    """Read the command line, draw, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pocket", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--web", type=Path, help="web pool, where the pocket ships no test split")
    parser.add_argument("--cache", type=Path, help="the trainer's cache of that pool")
    arguments = parser.parse_args()
    shipped = shipped_pictures(arguments.pocket)
    if shipped is None:
        if arguments.web is None or arguments.cache is None:
            parser.error("the pocket holds no data/aircraft test split: give --web and --cache")
        shipped = held_out_web(arguments.web, arguments.cache)
    print(json.dumps(make_sheet(arguments.pocket, arguments.out, *shipped), indent=1))


if __name__ == "__main__":
    main()
