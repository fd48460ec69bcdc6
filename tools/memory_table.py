"""Write docs/memory.md: GPU memory of a guided step, computed without weights and without a GPU.

python -m tools.memory_table            write it (some minutes)
python -m tools.memory_table --check    exit 1 where it is not what would be written
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from higfa_cli.forecast import estimate
from higfa_cli.models.architecture import architecture
from higfa_cli.models.footprint import Footprint, guided_step
from higfa_cli.recipe.drawing import Memory
from higfa_cli.recipe.load import load_recipe, override_recipe
from higfa_cli.recipe.schema import Recipe

PAGE = Path(__file__).resolve().parent.parent / "docs" / "memory.md"
GIB = 2**30
BATCHES = (1, 2, 4)
GUIDE_SIZE = 224
#: What the context, cuDNN's workspaces and fragmentation are allowed, GiB.
ALLOWANCE = estimate.ALLOWANCE / GIB
CARD = 24
#: Recipe -> the tiny autoencoder made for its model.
MODELS = {"aircraft-sdxl": "madebyollin/taesdxl", "aircraft-sd15": "madebyollin/taesd"}
DEFAULT = "full, checkpointed"
#: Row -> recipe keys; TINY stands for the model's own tiny autoencoder.
TINY = "tiny"
CHECKPOINTING, SLICING = "run.memory.gradient_checkpointing", "run.memory.slicing"
OFFLOAD, TILING = "run.memory.cpu_offload", "model.tiling"
GRADIENTS: Mapping[str, Mapping[str, Any]] = {
    "full": {},
    DEFAULT: {CHECKPOINTING: True},
    "tiny": {TINY: True},
    "tiny, checkpointed": {TINY: True, CHECKPOINTING: True},
}
SAVINGS: Mapping[str, Mapping[str, Any]] = {
    "full, checkpointed, `slicing`": {CHECKPOINTING: True, SLICING: True},
    "full, checkpointed, `tiling`": {CHECKPOINTING: True, TILING: True},
    "full, checkpointed, `cpu_offload`": {CHECKPOINTING: True, OFFLOAD: True},
    "full, checkpointed, `cpu_offload`, `slicing`": {
        CHECKPOINTING: True,
        OFFLOAD: True,
        SLICING: True,
    },
    "tiny, `slicing`": {TINY: True, SLICING: True},
    "tiny, `cpu_offload`, `slicing`": {TINY: True, OFFLOAD: True, SLICING: True},
}

HEAD = """# Memory

GPU memory of one guided step of the true models, computed without weights and without a GPU:
the real classes run the real sampling loop on tensors that have shapes but no content
(`higfa_cli/models/footprint.py`). `higfa doctor` computes the same for your recipe.
This page is made by `python -m tools.memory_table`.

All numbers are GiB (2^30 bytes) and are the largest sum of live tensors, weights included:
denoiser and ControlNet in bfloat16, autoencoders and a ResNet-50 guide at {guide} px in float32,
`composition: three_term`. The text encoders are gone by then. Where the last decoding of the
finished pictures, always by the full autoencoder, needs more than the guided step, the number is
that one.

**Add about {allowance} GiB** for what such a computation cannot see: the CUDA context, cuDNN's
workspaces, and the allocator's fragmentation. That allowance is a guess, not a measurement: no
GPU was at hand. `batch_size: auto` tries a guided step on your own device. `channels_last` and
`compile` are taken to change nothing, and attention to run in a fused kernel that never holds its
scores, as torch's do on CUDA in these precisions and sizes.

`full`: the guide's gradient runs back through the model's own autoencoder. `checkpointed`:
`run.memory.gradient_checkpointing: true`. `tiny`: `model.gradient_autoencoder` names an
AutoencoderTiny. `x0` and `x_t`: `guidance.classifier.gradient`.
"""


def recipe_of(name: str, row: Mapping[str, Any], gradient: str) -> Recipe:
    """The recipe with a row's keys in the place of its own memory keys."""
    values: dict[str, Any] = {f"run.memory.{key}": False for key in Memory.model_fields}
    values |= {"guidance.classifier.gradient": gradient, "model.gradient_autoencoder": None}
    values |= {"model.gradient_autoencoder_revision": None}
    if row.get(TINY):
        values["model.gradient_autoencoder"] = MODELS[name]
    values |= {key: value for key, value in row.items() if key != TINY}
    return override_recipe(load_recipe(name).recipe, values)


def footprint(recipe: str, row: Mapping[str, Any], gradient: str, batch: int) -> Footprint:
    """One cell."""
    changed = recipe_of(recipe, row, gradient)
    return guided_step(architecture(changed.model, Path.cwd()), changed, batch)


def number(size: int) -> str:
    """Bytes as the page shows them."""
    return f"{size / GIB:.2f}"


def line(recipe: str, name: str, row: Mapping[str, Any], gradients: tuple[str, ...]) -> str:
    """One row of a table."""
    cells = [footprint(recipe, row, g, batch) for g in gradients for batch in BATCHES]
    peaks = (number(cell.peak) for cell in cells)
    return f"| {' | '.join((name, number(cells[0].weights), *peaks))} |"


def section(recipe: str) -> str:
    """A model's two tables, and whether its default fits."""
    settings = load_recipe(recipe).recipe
    both = " | ".join(f"{g}, batch {b}" for g in ("`x0`", "`x_t`") for b in BATCHES)
    one = " | ".join(f"`x0`, batch {b}" for b in BATCHES)
    first = [line(recipe, name, row, ("x0", "x_t")) for name, row in GRADIENTS.items()]
    second = [line(recipe, name, row, ("x0",)) for name, row in SAVINGS.items()]
    peak = footprint(recipe, GRADIENTS[DEFAULT], "x0", 1).peak / GIB
    fits = "fits" if peak + ALLOWANCE <= CARD else "DOES NOT FIT"
    return "\n".join(
        (
            f"## {settings.model.base}, {settings.size} px",
            "",
            f"ControlNet `{settings.model.controlnet}`, tiny autoencoder `{MODELS[recipe]}`.",
            f"The default of `recipes/{recipe}.yaml` is *{DEFAULT}* with `x0`: {peak:.2f} GiB at",
            f"batch 1, {peak + ALLOWANCE:.2f} with the allowance, which {fits} {CARD} GiB.",
            "",
            f"| gradient's autoencoder | weights | {both} |",
            "| --- |" + " ---: |" * (1 + 2 * len(BATCHES)),
            *first,
            "",
            "Further savings (`cpu_offload` goes with `x0` only):",
            "",
            f"| keys | weights | {one} |",
            "| --- |" + " ---: |" * (1 + len(BATCHES)),
            *second,
            "",
        )
    )


def page() -> str:
    """The whole page."""
    return "\n".join((head(), *(section(recipe) for recipe in MODELS), tail()))


def head() -> str:
    """What the numbers are."""
    return HEAD.format(guide=GUIDE_SIZE, allowance=ALLOWANCE)


def tail() -> str:
    """How to read the tables."""
    return """## Reading it

- Keeping the full autoencoder's activations costs more than everything else together.
  `run.memory.gradient_checkpointing` recomputes them block by block; what is left is the last
  block, at the pictures' full size.
- `slicing` decodes one picture at a time, so that with checkpointing only one picture's last block
  is live, at any batch size. It does not lower batch 1.
- `tiling` changes nothing here: the autoencoder's tile is as large as the pictures that the model
  was trained on. It is for larger ones.
- `cpu_offload` keeps denoiser and ControlNet off the device while the autoencoder works, at the
  price of moving them over the bus in every guided step.
- A tiny autoencoder saves the most, and its gradient is another one. The pictures are still
  decoded by the model's own.
"""


def main(arguments: list[str]) -> int:
    """Write the page, or compare."""
    text = page()
    if "--check" in arguments:
        if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text:
            return 0
        print(f"{PAGE.name} is not up to date: python -m tools.memory_table", file=sys.stderr)
        return 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
