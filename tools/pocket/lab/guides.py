"""The guide's training: noised, denoised and decoded photos beside clean ones, or clean alone.

Two parts of `tools.pocket.lab.bars`. One compares two guides along S_K; the other trains both
again with other seeds, because one training of each says little: trainings that differ in
nothing but the seed differ by points themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tools.pocket.lab import figures
from tools.pocket.lab.arms import Arm
from tools.pocket.lab.laboratory import Instruments
from tools.pocket.lab.options import Options
from tools.pocket.lab.samples import prepare
from tools.pocket.lab.scores import Score, rounded
from tools.pocket.lab.thresholds import BOTH

# S_K at which the two guides are compared, as multiples of the recipe's.
MULTIPLES = (0.25, 0.5, 1.0, 2.0)
# Trainings of each guide, with the recipe's seed and those that follow it.
TRAININGS = 3
SCALE = "guidance.classifier.scale"


def along_scales(options: Options, instruments: Instruments, split: str) -> dict[str, Any]:
    """Both guides, each trained once, at several S_K."""
    recipe = instruments.samples.ctx.recipe
    scales = [multiple * recipe.guidance.classifier.scale for multiple in MULTIPLES]
    clean = _clean_guide(options, split, recipe.seed, recipe.seed)
    pairs = [
        (
            Arm(f"noised guide, S_K {s:g}", {SCALE: s}),
            Arm(f"clean guide, S_K {s:g}", {SCALE: s}, clean),
        )
        for s in scales
    ]
    scores = _measured(instruments, pairs)
    rows = [{"scale": scale, **_against(*pair)} for scale, pair in zip(scales, scores, strict=True)]
    return {"guides": rows}


def trained_again(options: Options, instruments: Instruments, split: str) -> dict[str, Any]:
    """Both guides, trained with several seeds, at the recipe's S_K; the bar is for their mean."""
    own = instruments.samples.ctx.recipe.seed
    seeds = range(own, own + TRAININGS)
    pairs = [
        (
            Arm(f"noised guide, seed {s}", guide=_noised_guide(options, split, s, own)),
            Arm(f"clean guide, seed {s}", guide=_clean_guide(options, split, s, own)),
        )
        for s in seeds
    ]
    scores = _measured(instruments, pairs)
    kinds = zip(*scores, strict=True)
    noised, clean = (torch.stack([one.hits for one in kind]) for kind in kinds)
    return {
        "difference": rounded(figures.paired(clean, noised)),
        "resampled": BOTH,
        "trainings": [
            {"seed": seed, **_against(*pair)} for seed, pair in zip(seeds, scores, strict=True)
        ],
    }


def _noised_guide(options: Options, split: str, seed: int, own: int) -> Path | None:
    """The recipe's guide, trained with another seed; with its own it is the workspace's."""
    return None if seed == own else _trained(options, split, f"noised-seed-{seed}", seed)


def _clean_guide(options: Options, split: str, seed: int, own: int) -> Path:
    name = "clean" if seed == own else f"clean-seed-{seed}"
    return _trained(options, split, name, seed, {"guide.noised_fraction": 0.0})


def _trained(
    options: Options, split: str, name: str, seed: int, changes: Mapping[str, Any] | None = None
) -> Path:
    place = options.workspace / "guides" / name
    prepare(options.recipe, place, split, 1, {"seed": seed, **(changes or {})})
    return place / "finetune-guide" / "guide.safetensors"


def _measured(
    instruments: Instruments, pairs: Sequence[tuple[Arm, Arm]]
) -> list[tuple[Score, Score]]:
    instruments.ahead(arm for pair in pairs for arm in pair)
    return [(instruments.score(noised), instruments.score(clean)) for noised, clean in pairs]


def _against(noised: Score, clean: Score) -> dict[str, Any]:
    return {
        "noised": noised.row(),
        "clean": clean.row(),
        "difference": rounded(figures.paired(clean.hits, noised.hits)),
    }
