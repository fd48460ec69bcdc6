"""Sections of drawing: what the model is, how it is sampled, how many pictures, and where."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from higfa_cli.recipe.section import Count, Fraction, NonNegative, Section

#: Part of the memory, free once the weights are loaded, that an automatic batch may take.
AUTOMATIC_SHARE = 0.5


class Model(Section):
    """What denoises: every key may change every picture."""

    base: str = Field(description="Stable-Diffusion folder, hub id, or `pocket:sd`.")
    controlnet: str = Field(description="ControlNet folder, hub id, or `pocket:controlnet`.")
    revision: str | None = Field(None, description="Hub revision of `base`.")
    controlnet_revision: str | None = Field(None, description="Hub revision of `controlnet`.")
    variant: str | None = Field(
        None, description="Weight file variant of `base` and `controlnet`, e.g. fp16."
    )
    gradient_autoencoder: str | None = Field(
        None,
        description="AutoencoderTiny (folder or hub id) that decodes for the guide instead of the "
        "model's own autoencoder: much less memory. The pictures are still the model's own.",
    )
    gradient_autoencoder_revision: str | None = Field(
        None, description="Hub revision of `gradient_autoencoder`."
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Precision of the denoiser; autoencoder and guide stay in float32."
    )
    tiling: bool = Field(
        False,
        description="Decode large pictures in overlapping tiles: less memory, other pictures.",
    )


class Sampling(Section):
    """How a picture is sampled from the model."""

    scheduler: Literal["ddim", "euler", "dpm++2m", "flow-euler"] = Field(
        "ddim", description="The solver; `flow-euler`: of models that are trained by flow matching."
    )
    steps: Annotated[int, Field(ge=1, le=10_000)] = Field(25, description="N: denoising steps.")
    conditioning_scale: NonNegative = Field(
        1.0, description="Multiplies the ControlNet residuals; not the guidance strength s_C."
    )
    conditioning_interval: tuple[Fraction, Fraction] = Field(
        (0.0, 1.0),
        description="Part [start, end] of the run in which the ControlNet is consulted; outside it "
        "e(c_T,c_C) is e(c_T).",
    )

    @field_validator("conditioning_interval")
    @classmethod
    def _ordered(cls, interval: tuple[float, float]) -> tuple[float, float]:
        if interval[0] > interval[1]:
            raise ValueError("write [start, end] with start <= end")
        return interval


class Pictures(Section):
    """How many pictures stage `synthesize` draws."""

    per_contour: Count = Field(
        1,
        description="Replicas per transformed contour (own seed each): classes have pictures as "
        "they have photos.",
    )
    per_class: Count | None = Field(
        None,
        description="In its place: so many pictures of every class, spread over its photos; a "
        "contour is used again, with another seed, where there are fewer.",
    )
    total_per_class: Count | None = Field(
        None,
        description="In its place: as many pictures as bring a class's training photos to this "
        "total, so that rare classes get most; a class of as many photos gets none.",
    )
    gallery: int = Field(
        8,
        ge=0,
        description="Pictures also drawn with text alone, for the report's gallery.",
    )

    def of(self, contours: int, photos: int, classes: int = 1) -> int:
        """Pictures of a class (or several alike) with so many contours and training photos."""
        if self.per_class is not None:
            return classes * self.per_class
        if self.total_per_class is not None:
            return max(0, classes * self.total_per_class - photos)
        return contours * self.per_contour

    @model_validator(mode="after")
    def _one_number(self) -> Pictures:
        counts = (None if self.per_contour == 1 else 1, self.per_class, self.total_per_class)
        if sum(count is not None for count in counts) > 1:
            raise ValueError(
                "give one of `per_contour`, `per_class` and `total_per_class`; set the others to "
                "1 (per_contour) or null"
            )
        return self


class Memory(Section):
    """Room against time on the device; pictures change by rounding at most."""

    cpu_offload: bool = Field(
        False,
        description="Keep denoiser and ControlNet in main memory while the autoencoder works "
        "(not with `guidance.classifier.gradient: x_t`).",
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the guidance gradient instead of keeping them."
    )
    slicing: bool = Field(False, description="Decode one picture of the batch at a time.")
    channels_last: bool = Field(False, description="Channels-last layout of the convolutions.")
    compile: bool = Field(
        False, description="torch.compile the denoiser's repeated blocks (`--compile`)."
    )


class Run(Section):
    """Where the work is done, and how it is parted: nothing that is asked for depends on it."""

    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps.")
    batch_size: Count | Literal["auto"] = Field(
        16,
        description="Pictures per batch (part of the plan); `auto` tries a guided step on the "
        "device once, before the plan is written.",
    )
    local_files_only: bool = Field(
        False, description="Never ask the hub: a file that is not here is an error."
    )
    memory: Memory = Field(default_factory=Memory)

    def parting(self) -> dict[str, object]:
        """The keys that pictures depend on, by rounding; not where the work and the files are."""
        return self.model_dump(mode="json", exclude={"device", "local_files_only"})
