"""Section `contours`: edges and their geometric transforms."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from higfa_cli.recipe.section import Count, Fraction, NonNegative, Positive, Section


class Transforms(Section):
    """Geometric transforms of a contour. Warps that can change the class are off by default."""

    flip: Fraction = Field(0.5, description="Probability of a left-right flip.")
    rotation: NonNegative = Field(8.0, le=180.0, description="Largest rotation, degrees.")
    scale: tuple[Positive, Positive] = Field(
        (0.85, 1.1), description="Range of the isotropic scale factor."
    )
    translation: Fraction = Field(0.06, description="Largest shift, as a fraction of the side.")
    perspective: Fraction = Field(0.02, description="Largest corner shift, fraction of the side.")
    aspect: NonNegative = Field(
        0.03,
        le=0.03,
        description="Largest change of the aspect ratio by perspective (at most 3 %).",
    )
    anisotropic: Fraction = Field(
        0.0, description="Opt-in: largest change of width against height; can change the class."
    )
    elastic: NonNegative = Field(
        0.0,
        le=0.2,
        description="Opt-in: thin-plate warp, corner/knot shift as a fraction of the side.",
    )

    @model_validator(mode="after")
    def _ordered_scale(self) -> Transforms:
        if self.scale[0] > self.scale[1]:
            raise ValueError("scale must be [smallest, largest]")
        return self


class Edges(Section):
    """How a photo becomes edges; the guide is trained with the edges of untransformed photos."""

    extractor: Literal["canny", "soft"] = Field(
        "canny", description="`canny`: thin binary edges; `soft`: graded gradient-magnitude edges."
    )
    blur: NonNegative = Field(0.8, description="Gaussian blur before the extractor, pixels (std).")
    canny_low: NonNegative = Field(
        50.0, description="Canny's lower hysteresis threshold, 0-255 units."
    )
    canny_high: NonNegative = Field(120.0, description="Canny's upper hysteresis threshold.")


class Contours(Edges):
    """Stage `contours`: edges of training photos, and their geometric transforms."""

    per_image: Count = Field(1, description="M: transformed contours per source image.")
    splits: tuple[Literal["train", "val", "test"], ...] = Field(
        ("train",),
        description="Splits whose photos may give contours; other than train is on request.",
    )
    edge_fraction: tuple[Fraction, Fraction] = Field(
        (0.001, 0.6),
        description="Least and most part of a contour that is edge (`soft`: its mean brightness); "
        "a photo whose contour has less or more is listed, and gives none. A photo of noise alone "
        "has 0.2 to 0.4 by `canny`.",
    )
    transforms: Transforms = Field(default_factory=Transforms)

    @model_validator(mode="after")
    def _ordered_fractions(self) -> Contours:
        if self.edge_fraction[0] > self.edge_fraction[1]:
            raise ValueError("edge_fraction must be [least, most]")
        return self
