"""Sections of the classifiers: the guide, what it rejects, and the one the user came for."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from higfa_cli.errors import UserError
from higfa_cli.recipe.section import Count, Fraction, NonNegative, Positive, Section, Side

#: The remedy where pretrained weights cannot be had.
OTHER_START = "set `{key}.weights` to a local .safetensors file, or `{key}.pretrained: false`"


def not_pretrained(backbone: str, key: str) -> UserError:
    """timm has no weights of the network of section `key`."""
    remedy = OTHER_START.format(key=key)
    return UserError(f"timm has no pretrained weights for {backbone}; {remedy}")


class Training(Section):
    """How a classifier is trained (guide and downstream alike)."""

    backbone: str = Field("resnet18", description="Any timm model name.")
    pretrained: bool = Field(
        True, description="Start from timm's pretrained weights (hub download)."
    )
    weights: str | None = Field(
        None,
        description="A local .safetensors file (or `pocket:backbone`) to start from instead of a "
        "download.",
    )
    image_size: Side = Field(224, description="Side of the classifier's input, pixels.")
    epochs: Count = Field(30, description="Passes over the training set.")
    batch_size: int = Field(
        32, ge=2, le=1_000_000, description="Images per optimiser step: two or more."
    )
    learning_rate: Positive = Field(
        1e-3, description="Peak learning rate (AdamW, cosine, warm-up)."
    )
    weight_decay: NonNegative = Field(0.05, description="AdamW weight decay.")
    label_smoothing: Fraction = Field(0.1, description="Cross-entropy label smoothing.")
    augment: Literal["none", "light", "randaugment", "cutmix"] = Field(
        "light", description="Traditional augmentation: flip + crop, RandAugment, or CutMix on top."
    )


class Guide(Training):
    """Stage `finetune-guide`: the classifier whose gradient and confidence steer the sampler."""

    label_smoothing: Fraction = Field(
        0.0, description="Label smoothing; no temperature mends the confidence that it caps."
    )
    noised_fraction: Fraction = Field(
        0.5,
        description="Part of each batch taken from noised, denoised and decoded training images.",
    )
    noised_per_image: Count = Field(
        2, description="Noised versions prepared per training image, at levels of the guided steps."
    )
    folds: int = Field(
        3, ge=2, description="Stratified folds for calibration where there is no validation split."
    )


class Filter(Section):
    """Which drawn pictures training may use. Rejected ones stay on disk with their reasons."""

    confidence: Fraction = Field(
        0.0, description="Lowest probability that the guide may give the target class (0: any)."
    )
    top_k: Count | None = Field(
        None, description="The target class must be among the guide's k most likely ones."
    )
    best_of: Count = Field(
        1,
        description="Of every N pictures of one source photo keep the one of which the guide is "
        "surest (1: all).",
    )
    duplicate: Positive | None = Field(
        None,
        le=1.0,
        description="Reject a picture whose thumbnail correlates at least this much with its "
        "source photo's, mirrored or not.",
    )
    constant: NonNegative = Field(
        2.0,
        description="Reject a nearly uniform picture: standard deviation below this, 0-255 units.",
    )


class Downstream(Training):
    """Stage `train-downstream`: the classifier the user came for, without and with pictures."""

    replacement: Fraction = Field(
        0.4, description="Probability that a real training sample is replaced by a synthetic one."
    )
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="One training per seed.")
