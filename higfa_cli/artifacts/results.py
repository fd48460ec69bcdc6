"""What trainings give: of the guide, and of the downstream comparison."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from higfa_cli.artifacts.artifact import Artifact, Count, Several


class EpochRow(Artifact):
    """`run` names the training where a file holds several."""

    run: str | None = None
    epoch: Count
    loss: float
    learning_rate: float
    replaced: float
    val_accuracy: float | None = None
    val_loss: float | None = None


class Assessment(Artifact):
    """Accuracy, and expected calibration error before and after the temperature, of one set."""

    count: Count
    accuracy: float
    ece_before: float
    ece_after: float


class LevelAssessment(Assessment):
    sigma: float
    progress: float


class Calibration(Artifact, remedy="run `higfa finetune-guide --force`"):
    """The guide's temperature, and how far its confidence can be believed.

    `overall`: at the levels where it steers; `reconstructed`: photos decoded without noise.
    """

    source: Literal["val", "cross-validation"]
    temperature: float
    levels: Several[LevelAssessment]
    overall: Assessment
    reconstructed: Assessment
    clean: Assessment


class TrainingRow(Artifact, remedy="run `higfa train-downstream --force`"):
    """One training; `replaced`: the mean share of real photos that new pictures stood in for."""

    seed: int
    best_epoch: Count
    val_accuracy: float | None
    temperature: float
    replaced: float
    steps: Count
    images_seen: Count
    seconds: float


class ArmRun(TrainingRow):
    """A training with what its checkpoint did on the test photos; None without a test split."""

    test_accuracy: float | None
    test_macro_f1: float | None


class ArmResult(Artifact):
    """The trainings of one arm; `synthetic`: where its new pictures are, None for photos alone."""

    name: str
    synthetic: str | None
    synthetic_images: Count
    missing_classes: Several[str]
    runs: Annotated[Several[ArmRun], Field(min_length=1)]


class SplitCounts(Artifact):
    train: Count
    val: Count
    test: Count


class Results(Artifact, remedy="run `higfa train-downstream --force`"):
    """What the downstream trainings gave; `chosen_by`: which photos chose the checkpoints.

    `notes`: what is wrong with the photos.
    """

    arms: Annotated[Several[ArmResult], Field(min_length=1)]
    classes: Several[str]
    chosen_by: str
    test: str
    counts: SplitCounts
    notes: Several[str] = ()

    @property
    def has_test(self) -> bool:
        return self.counts.test > 0
