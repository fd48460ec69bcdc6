"""Rows of contours and of pictures, as one stage writes and another reads them."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator

from higfa_cli.artifacts.artifact import Artifact, Several

Pair = Annotated[tuple[float, float], Field(strict=False)]
Index = Annotated[int, Field(ge=0)]
# Beyond what single precision holds, and far from where sums overflow.
Traced = Annotated[float, Field(ge=-1e39, le=1e39)]

Split = Literal["train", "val", "test"]
ImageFault = Literal[
    "missing", "empty", "not-an-image", "truncated", "damaged", "too-large", "unsupported-mode"
]
# `odd-name`: not one line of UTF-8 text. `too-small`: data.crop_bottom leaves nothing of it.
# `box-outside`: its box (data.boxes) does.
# EdgeFault: gives no contour, but can still train.
EdgeFault = Literal["no-edges", "few-edges", "many-edges"]
PhotoFault = Literal[ImageFault, "odd-name", "too-small", "box-outside", EdgeFault]
PHOTO_FAULTS: tuple[PhotoFault, ...] = get_args(PhotoFault)
PictureFault = Literal["confidence", "top_k", "best_of", "duplicate", "constant"]
PICTURE_FAULTS: tuple[PictureFault, ...] = get_args(PictureFault)


class TransformRecord(Artifact, remedy="run `higfa contours --force`"):
    """Everything needed to redo a contour's transform.

    Lengths are fractions of the picture's side, x right and y down. A point is flipped,
    stretched, rotated, scaled and shifted about the centre, then put in perspective, then warped.

    Attributes:
        rotation: degrees, counter-clockwise as seen.
        corners: shifts of the top left, top right, bottom right and bottom left corner.
        stretch: width grows by this factor against height.
        elastic: shifts of the 4 x 4 thin-plate knots, row by row; () for no warp.
    """

    flip: bool
    rotation: float
    scale: float
    dx: float
    dy: float
    corners: Annotated[Several[Pair], Field(min_length=4, max_length=4)]
    stretch: float
    elastic: Several[Pair]

    @field_validator("elastic")
    @classmethod
    def _all_knots_or_none(cls, shifts: tuple[Pair, ...]) -> tuple[Pair, ...]:
        if len(shifts) not in (0, 16):
            raise ValueError(f"needs 16 knots or none, not {len(shifts)}")
        return shifts


class ContourRow(Artifact, remedy="run `higfa contours --force`"):
    """One contour: its file below the stage's folder, the photo (`source`) and the transform."""

    file_name: str
    cls: str = Field(alias="class")
    class_id: Index
    source: str
    source_sha256: str
    split: Split
    index: Index
    transform: TransformRecord
    edge_fraction: float
    sha256: str


class RejectedRow(Artifact, remedy="run `higfa contours --force`"):
    """One photo that was left out; `key` is byte for byte, `path` the same for people, escaped.

    `state`: what the file was (`data.rejected.file_state`).
    """

    key: str
    path: str
    cls: str = Field(alias="class")
    split: Split
    reason: PhotoFault
    detail: str
    state: str

    def __str__(self) -> str:
        return f"{self.path} ({self.reason})"

    @property
    def unusable(self) -> bool:
        """Whether no stage can read it; one without fitting edges can still train."""
        return self.reason not in get_args(EdgeFault)


class Planned(Artifact, remedy="run `higfa synthesize --force`"):
    """A picture as it was planned.

    Attributes:
        id: 16 hex digits of the seed; names the file.
        source: dataset key of the photo whose contour is used.
        contour: the contour's file below the contours stage's folder.
        replica: counts all pictures of one source photo from 0.
        seed: of the initial noise; from (recipe seed, class, source, replica) alone.
        file_name: relative to the images folder.
    """

    id: str
    cls: str = Field(alias="class")
    class_id: Index
    source: str
    source_sha256: str
    contour: str
    transform: TransformRecord
    replica: Index
    seed: Index
    prompt: str
    negative: str
    batch: Index
    file_name: str


class PlanItem(Planned):
    contour_sha256: str


class LastStrengths(Artifact):
    """The strengths at a picture's last step; None where it had none (out of memory)."""

    text: float | None
    contour: float | None
    classifier: float | None


class PictureRow(Planned):
    """One picture that was drawn, or failed (`error` says why, and there is no file)."""

    strengths: LastStrengths
    confidence: float | None
    effective_batch: int
    status: Literal["ok", "failed"]
    error: str | None
    sha256: str | None


class TraceRow(Artifact, remedy="run `higfa synthesize --force`"):
    """One picture step by step; `p` and `grad_norm` are None before the switch.

    No lists where it was never drawn.
    """

    id: str
    error: str | None
    effective_batch: int
    u: Several[Traced] = ()
    sigma: Several[Traced] = ()
    s_text: Several[Traced | None] = ()
    s_contour: Several[Traced | None] = ()
    s_classifier: Several[Traced | None] = ()
    p: Several[Traced | None] = ()
    grad_norm: Several[Traced | None] = ()


class PlanFile(Artifact, remedy="start again with --force"):
    """What all who draw one plan must have in common; `threads`: of each process."""

    batch_size: Annotated[int, Field(ge=1, le=1_000_000)]
    probed: bool
    pictures: int
    device: str
    threads: Annotated[int, Field(ge=1, le=4096)]
    dtype: str


class SelectionRow(Artifact, remedy="run `higfa filter --force`"):
    """Whether a picture may train, and what was measured on it (`data.filter_rules.Measured`)."""

    file_name: str
    id: str
    cls: str = Field(alias="class")
    source: str
    replica: Index
    kept: bool
    reasons: Several[PictureFault]
    confidence: float | None
    rank: int | None
    duplicate: float
    std: float
