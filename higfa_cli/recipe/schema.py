"""The recipe: one frozen, validated object that passes through the whole program.

Every key has a description; the documentation and the editor schema are made from them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from higfa_cli.recipe.placeholders import WORDS, slip

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
# The bounds are far above what is of use: they stop slips and jokes before memory does.
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Side = Annotated[int, Field(ge=1, le=8192)]
Percentage = Annotated[str, Field(pattern=r"^(100|\d{1,2}(\.\d+)?)%$")]
Layout = Literal[
    "imagefolder",
    "fgvc-aircraft",
    "cub",
    "stanford-cars",
    "stanford-dogs",
    "flowers102",
    "oxford-pets",
    "dtd",
]


class Section(BaseModel):
    """A group of recipe keys: immutable, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Data(Section):
    """Where the user's photos are and how they are split."""

    layout: Layout = Field(
        "imagefolder",
        description="On-disk layout: class folders, or a public dataset as its authors pack it.",
    )
    root: str = Field(
        description="Dataset folder, relative to the recipe; `pocket:NAME`: of higfa-pocket."
    )
    split_file: str | None = Field(
        None,
        description="CSV with columns path,class,split (written by `higfa init`), relative to "
        "the recipe; without it `root` must hold train/ (and val/, test/) folders.",
    )
    class_words: str | None = Field(
        None,
        description="YAML or JSON file: class name -> words for prompts; relative to the recipe, "
        "`words:NAME` (shipped), or `pocket:NAME`. Every class must be in it. Without it the class "
        "name is used.",
    )
    crop_bottom: int = Field(
        0,
        ge=0,
        description="Rows cut off the bottom of every photo before anything else "
        "(FGVC-Aircraft's carry a 20-pixel banner).",
    )
    shots: Count | None = Field(
        None, description="Keep only this many training images per class, drawn with the seed."
    )
    max_bad: Annotated[int, Field(ge=0)] | Percentage = Field(
        "10%",
        description="Most photos that may be rejected and left out before stage `contours` stops: "
        "a number, or a percentage of all photos found. `0` (`--strict`): none.",
    )


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


class Contours(Section):
    """Stage `contours`: edges of training photos, and their geometric transforms."""

    extractor: Literal["canny", "soft"] = Field(
        "canny", description="`canny`: thin binary edges; `soft`: graded gradient-magnitude edges."
    )
    size: Side = Field(64, description="Side of the square contour image, pixels.")
    blur: NonNegative = Field(0.8, description="Gaussian blur before the extractor, pixels (std).")
    canny_low: NonNegative = Field(
        50.0, description="Canny's lower hysteresis threshold, 0-255 units."
    )
    canny_high: NonNegative = Field(120.0, description="Canny's upper hysteresis threshold.")
    per_image: Count = Field(1, description="M: transformed contours per source image.")
    splits: tuple[Literal["train", "val", "test"], ...] = Field(
        ("train",),
        description="Splits whose photos may give contours; other than train is on request.",
    )
    transforms: Transforms = Field(default_factory=Transforms)


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
    batch_size: Count = Field(32, description="Images per optimiser step.")
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


class TextStrength(Section):
    """s_T, the text guidance strength."""

    scale: NonNegative = Field(4.0, description="S_T: fixed strength before the switch.")
    floor: NonNegative = Field(1.0, description="f_T: strength that the modulation falls back to.")


class ContourStrength(Section):
    """s_C, the contour guidance strength."""

    scale: NonNegative = Field(1.5, description="S_C: fixed strength before the switch.")
    floor: NonNegative = Field(1.0, description="f_C: strength that the modulation falls back to.")


class Classifier(Section):
    """s_K, the classifier guidance, and how confidence modulates all three strengths."""

    scale: NonNegative = Field(
        1.0,
        description="S_K. At 0 the guide is still read and modulates text and contour; "
        "`switch: 1` turns it off.",
    )
    gamma: NonNegative = Field(1.0, description="Exponent: s_K = S_K (1 - p)^gamma.")
    confidence: Literal["probability", "margin"] = Field(
        "probability", description="p_y, or the margin p_y - max over other classes, clipped at 0."
    )
    modulation: Literal["constant", "rising", "falling"] = Field(
        "rising",
        description="a(p): 1; p^power (text and contour yield as p falls); or (1-p)^power "
        "(they yield as p rises).",
    )
    power: Positive = Field(1.0, description="Exponent of a(p).")
    gradient: Literal["x0", "x_t"] = Field(
        "x0", description="`x0`: eps held fixed (cheap); `x_t`: exact, through the denoiser."
    )
    read: Literal["conditional", "composed"] = Field(
        "conditional",
        description="Which prediction the guide reads: plain conditional or composed.",
    )
    grad_norm: Literal["none", "rms"] = Field(
        "rms", description="`rms`: each image's gradient scaled to the rms of its eps."
    )
    switch: Fraction = Field(
        0.7, description="tau: progress u = i/N at which the guide switches on (1: never)."
    )
    switch_sigma: Fraction | None = Field(
        None, description="tau as a noise level instead: the guide is on where sigma <= this."
    )

    @property
    def consulted(self) -> bool:
        """Whether any step may consult the guide (`switch: 1` keeps it off)."""
        return self.switch_sigma is not None or self.switch < 1


class Prompts(Section):
    """What the text encoder reads."""

    templates: tuple[str, ...] = Field(
        ("a photo of a {words}",),
        min_length=1,
        description="Prompt templates; {words} is the class's words. One is drawn per picture.",
    )
    bank: str | None = Field(
        None,
        description="A prompt bank in the place of `templates`: a shipped kind of subject "
        "(aircraft, birds, cars, dogs, flowers, pets, textures), or your own YAML file: a list of "
        "templates, or a list per class; relative to the recipe.",
    )
    negative: str | None = Field(
        None,
        description="Negative prompt; empty is the unconditional prompt. Without it the bank's own "
        "is used, or none.",
    )

    @field_validator("templates")
    @classmethod
    def _name_the_class(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            if wrong := slip(template):
                raise ValueError(f'"{template}": {wrong} is no placeholder; write {WORDS}')
            if WORDS not in template:
                raise ValueError(
                    f'"{template}" has no {{words}}; write it as in "a photo of a {{words}}"'
                )
        return templates

    @model_validator(mode="after")
    def _one_source(self) -> Prompts:
        # Not `model_fields_set`: a resolved recipe, read back, names every key.
        if self.bank is not None and self.templates != type(self).model_fields["templates"].default:
            raise ValueError("give `templates` or `bank`, not both")
        return self


class Memory(Section):
    """Room against time on the device. But for `tiling`, pictures change by rounding at most."""

    cpu_offload: bool = Field(
        False,
        description="Keep denoiser and ControlNet in main memory while the autoencoder works "
        "(not with `classifier.gradient: x_t`).",
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the guidance gradient instead of keeping them."
    )
    slicing: bool = Field(False, description="Decode one picture of the batch at a time.")
    tiling: bool = Field(False, description="Decode large pictures in overlapping tiles.")
    channels_last: bool = Field(False, description="Channels-last layout of the convolutions.")
    compile: bool = Field(
        False, description="torch.compile the denoiser's repeated blocks (`--compile`)."
    )


class Synthesize(Section):
    """Stage `synthesize`: pictures drawn under text + contour + classifier guidance."""

    model: str = Field(description="Stable-Diffusion folder, hub id, or `pocket:sd`.")
    controlnet: str = Field(description="ControlNet folder, hub id, or `pocket:controlnet`.")
    revision: str | None = Field(None, description="Hub revision of `model`.")
    controlnet_revision: str | None = Field(None, description="Hub revision of `controlnet`.")
    variant: str | None = Field(
        None, description="Weight file variant of `model` and `controlnet`, e.g. fp16."
    )
    local_files_only: bool = Field(
        False, description="Never ask the hub: a file that is not here is an error."
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
    scheduler: Literal["ddim", "euler", "dpm++2m"] = Field("ddim", description="The solver.")
    steps: Annotated[int, Field(ge=1, le=10_000)] = Field(25, description="N: denoising steps.")
    size: Side = Field(64, description="Side of the square picture, pixels.")
    batch_size: Count | Literal["auto"] = Field(
        16,
        description="Pictures per batch (part of the plan); `auto` tries a guided step on the "
        "device once, before the plan is written.",
    )
    per_contour: Count = Field(1, description="Replicas per transformed contour (own seed each).")
    composition: Literal["three_term", "joint"] = Field(
        "three_term", description="How the branches combine (README, the method)."
    )
    conditioning_scale: NonNegative = Field(
        1.0, description="Multiplies the ControlNet residuals; not the guidance strength s_C."
    )
    conditioning_interval: tuple[Fraction, Fraction] = Field(
        (0.0, 1.0),
        description="Part [start, end] of the run in which the ControlNet is consulted; outside it "
        "e(c_T,c_C) is e(c_T).",
    )
    text: TextStrength = Field(default_factory=TextStrength)
    contour: ContourStrength = Field(default_factory=ContourStrength)
    classifier: Classifier = Field(default_factory=Classifier)
    prompts: Prompts = Field(default_factory=Prompts)
    memory: Memory = Field(default_factory=Memory)
    gallery: int = Field(
        8, ge=0, description="Pictures also drawn text-only and text+contour from the same seeds."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Synthesize:
        start, end = self.conditioning_interval
        if start > end:
            raise ValueError("conditioning_interval must be [start, end] with start <= end")
        if self.memory.cpu_offload and self.classifier.gradient == "x_t":
            raise ValueError(
                "memory.cpu_offload cannot go with classifier.gradient: x_t, whose gradient needs "
                "the denoiser while the autoencoder works; use gradient: x0"
            )
        return self


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


class Recipe(Section):
    """A whole experiment. Paths are relative to the recipe's own folder."""

    name: str = Field(min_length=1, description="Name shown in reports.")
    workspace: str = Field(
        "runs/{name}",
        description="Output folder, relative to the current folder; {name} is filled in.",
    )
    seed: int = Field(0, ge=0, description="Every random draw derives from this seed.")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps.")
    data: Data
    contours: Contours = Field(default_factory=Contours)
    guide: Guide = Field(default_factory=Guide)
    synthesize: Synthesize
    filter: Filter = Field(default_factory=Filter)
    downstream: Downstream = Field(default_factory=Downstream)
