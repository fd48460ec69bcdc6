"""The text of the recipe that `higfa init` writes: the keys a user edits, with comments."""

from __future__ import annotations

import json
from pathlib import Path

_TEMPLATE = """\
# Written by `higfa init`. Every key that is not here has a default: `higfa recipes schema`
# prints them all. Paths are relative to this file; results go to runs/NAME (`workspace`) in the
# folder that you run higfa from, so give every recipe a name of its own.
# The values below are untuned: a sensible start, measured on no data set.

name: @NAME@
seed: @SEED@
size: 512                 # side of contours and pictures in pixels; 1024 for SDXL

data:
  layout: imagefolder
  root: @ROOT@
  # path,class,split of every photo: edit it to move photos between splits.
  split_file: @SPLIT@
  # What the prompts call each class: worth reading through.
  class_words: @WORDS@
  # shots: 16             # keep only this many training photos per class

prompts:
  templates: ["a photo of a {words}"]
  # bank: birds           # in the place of templates: aircraft, birds, cars, dogs, flowers, pets,
  #                       # textures, or your own YAML file (docs/models.md)

contours:
  extractor: canny        # canny, or soft (graded edges; needs a ControlNet trained on such)
  blur: 1.2               # pixels; more blur leaves fewer, longer edges
  canny_low: 40
  canny_high: 100
  per_image: 2            # transformed contours per training photo
  transforms:             # nothing that changes proportions is on by default
    flip: 0.5             # 0 where left and right matter (text, asymmetric parts)
    rotation: 8           # degrees
    scale: [0.85, 1.1]

guide:                    # the classifier that steers the sampler
  backbone: resnet18      # any timm model name
  pretrained: true        # downloads timm's weights; false trains from scratch
  image_size: 224
  epochs: 30
  batch_size: 32

model:                    # `higfa doctor THIS` says what is missing here, and whether it fits
  base: stable-diffusion-v1-5/stable-diffusion-v1-5     # a hub id (downloaded) or a local folder
  revision: 451f4fe16113bff5a5d2269ed5ad43b0592e9a14    # leave out for a local folder
  controlnet: lllyasviel/control_v11p_sd15_canny
  controlnet_revision: 115a470d547982438f70198e353a921996e2e819
  # SDXL: see `higfa recipes show aircraft-sdxl`.
  dtype: bfloat16         # of the denoiser; float32 on a CPU

guidance:
  text:
    scale: 7.5
  contour:
    scale: 1.5
  classifier:
    # The right strength differs by model and guide: look at
    # `higfa synthesize THIS --sweep guidance.classifier.scale=0,0.5,1,2,4`.
    scale: 1.0

sampling:
  steps: 30

pictures:
  per_contour: 1          # pictures per contour

downstream:               # the classifier that you came for, without and with the pictures
  backbone: resnet18
  pretrained: true
  image_size: 224
  epochs: 30
  replacement: 0.4        # part of the real photos replaced by synthetic ones in training
  seeds: [0, 1, 2]

run:
  # device: auto          # auto, cpu, cuda, cuda:1, mps
  batch_size: auto        # as many pictures as fit, tried once; part of the plan
  memory:
    gradient_checkpointing: true
"""


def recipe_text(name: str, seed: int, root: str, split: Path, words: Path) -> str:
    """The recipe as YAML; `root` as the recipe shall name it, the two files by name alone."""
    values = {
        "@NAME@": _quoted(name),
        "@SEED@": str(seed),
        "@ROOT@": _quoted(root),
        "@SPLIT@": _quoted(split.name),
        "@WORDS@": _quoted(words.name),
    }
    # Line by line, so that a name which looks like a placeholder stays as it is.
    lines = []
    for line in _TEMPLATE.splitlines():
        for placeholder, value in values.items():
            if placeholder in line:
                line = line.replace(placeholder, value, 1)
                break
        lines.append(line)
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    # A JSON string is also a double-quoted YAML string.
    return json.dumps(text, ensure_ascii=False)
