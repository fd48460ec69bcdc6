"""How stages were run: the record of a run, what it counted, and notes of runs at work."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue, model_validator

from higfa_cli.artifacts.artifact import Artifact, Count, Several
from higfa_cli.artifacts.rows import PictureFault


class PhotoCounts(Artifact):
    """accepted + rejected = found."""

    found: Count
    accepted: Count
    rejected: Count


class ContourCounts(Artifact):
    """`sources`: photos that gave contours."""

    images: Count
    sources: Count
    photos: PhotoCounts


class GuideCounts(Artifact):
    photos: Count
    noised: Count
    steps: Count
    best_epoch: Count
    seconds: float


class SynthesisCounts(Artifact):
    """Pictures and their cost, without the gallery and loading models.

    `failures`: reason -> pictures; `smallest_batch`: pictures that were drawn together at least;
    `peak_device_memory`: bytes.
    """

    images: Count
    failed: Count
    failures: dict[str, Count]
    smallest_batch: Count | None
    drawn_now: Count
    seconds: float
    seconds_per_image: float
    denoiser_evaluations_per_image: Count
    guide_evaluations_per_image: Count
    batch_size: Count
    dtype: str
    peak_device_memory: Count | None


class FilterCounts(Artifact):
    """A picture that is rejected for two reasons counts under both."""

    pictures: Count
    kept: Count
    rejected: dict[PictureFault, Count]
    kept_by_class: dict[str, Count]


class DownstreamCounts(Artifact):
    arms: Count
    trainings: Count


class ReportCounts(Artifact):
    arms: Count
    gallery: Count


class RecordedInputs(Artifact):
    """What a stage depended on when it ran; see `StageInputs`.

    `contents`: of `files` that stand for many, each with a short hash, so that a change has a name.
    """

    key: str
    parameters: dict[str, JsonValue]
    files: dict[str, str]
    contents: dict[str, dict[str, str]] = Field(default_factory=dict)


class RunRecord(Artifact, remedy="run the stage with --force"):
    """`run.json`: how a stage was run, from what, and what came out.

    `outputs`: name below the folder -> sha256; `output_seconds`: the time that some of them took.
    """

    status: Literal["running", "failed", "done"]
    higfa: str
    libraries: dict[str, str]
    python: str
    platform: str
    device: str
    argv: Several[str]
    pid: int
    seed: int
    started: str
    inputs: RecordedInputs
    outputs: dict[str, str] | None = None
    output_seconds: dict[str, float] = Field(default_factory=dict)
    error: str | None = None
    ended: str | None = None
    counts: dict[str, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _outputs_of_a_finished_run(self) -> RunRecord:
        if self.status == "done" and self.outputs is None:
            raise ValueError("lists no outputs")
        return self


class Pace(Artifact, remedy="delete it"):
    """How long a picture takes: seconds on a device, with these parameters of `synthesize`."""

    parameters: dict[str, JsonValue]
    seconds: float
    device: str
