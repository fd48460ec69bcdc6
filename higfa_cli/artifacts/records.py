"""How stages were run: the record of a run, what it counted, and notes of runs at work."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import ConfigDict, Field, JsonValue, model_validator

from higfa_cli.artifacts.artifact import Artifact, Count, Several
from higfa_cli.artifacts.rows import PictureFault


class PhotoCounts(Artifact):
    """accepted + rejected = found."""

    found: Count
    accepted: Count
    rejected: Count


class ContourCounts(Artifact):
    """Of stage contours; `sources`: photos that gave contours."""

    images: Count
    sources: Count
    photos: PhotoCounts


class GuideCounts(Artifact):
    """Of stage finetune-guide."""

    photos: Count
    noised: Count
    steps: Count
    best_epoch: Count
    seconds: float


class SynthesisCounts(Artifact):
    """Of stage synthesize: pictures and their cost, without the gallery and loading models.

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
    """Of stage filter; a picture that is rejected for two reasons counts under both."""

    pictures: Count
    kept: Count
    rejected: dict[PictureFault, Count]
    kept_by_class: dict[str, Count]


class DownstreamCounts(Artifact):
    """Of stage train-downstream."""

    arms: Count
    trainings: Count


class ReportCounts(Artifact):
    """Of stage report."""

    arms: Count
    gallery: Count


class RecordedInputs(Artifact):
    """What a stage depended on when it ran; see `StageInputs`."""

    key: str
    parameters: dict[str, JsonValue]
    files: dict[str, str]


class RunRecord(Artifact):
    """`run.json`: how a stage was run, from what, and what came out.

    `outputs`: name below the folder -> sha256; `output_seconds`: the time that some of them took.
    """

    remedy: ClassVar[str] = "run the stage with --force"

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


class Pace(Artifact):
    """How long a picture takes: seconds on a device, with these parameters of `synthesize`."""

    remedy: ClassVar[str] = "delete it"

    parameters: dict[str, JsonValue]
    seconds: float
    device: str


class JournalRow(Artifact):
    """A finished file of a run that has not ended, and the seconds that it took if counted."""

    file_name: str
    sha256: str
    seconds: float | None = None


class LockNote(Artifact):
    """Who holds a folder; `boot` tells one start of a machine from all others.

    Open to other keys: a holder must be respected, whichever version wrote the note.
    """

    model_config = ConfigDict(extra="ignore")

    pid: int
    host: str
    boot: str = ""
