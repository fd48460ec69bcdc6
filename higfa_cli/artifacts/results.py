"""What trainings give: of the guide, and of the downstream comparison."""

from __future__ import annotations

from math import exp, lgamma, log, log1p
from typing import Annotated, Literal

from pydantic import Field

from higfa_cli.artifacts.artifact import Artifact, Count, Several
from higfa_cli.text import plural

# Two-sided 95 %.
_TAIL = 0.025


def at_chance(accuracy: float, count: int, classes: int) -> bool:
    """Whether guessing is right on as many of `count` photos too often to be told apart.

    That is, whether the exact 95 % interval of the accuracy holds 1 / classes, or lies below it.
    """
    if count == 0 or classes < 2:
        return False
    hits, chance = round(accuracy * count), 1 / classes
    terms = (
        lgamma(count + 1)
        - lgamma(k + 1)
        - lgamma(count - k + 1)
        + k * log(chance)
        + (count - k) * log1p(-chance)
        for k in range(hits, count + 1)
    )
    return sum(map(exp, terms)) > _TAIL


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


def few_photos(fitted: float, temperature: float, photos: int) -> str:
    """What to say of a temperature that was drawn towards 1."""
    few = plural(photos, "photo")
    return f"temperature {temperature:.2f}: {few} said {fitted:.2f}, and so few count little"


class Calibration(Artifact, remedy="run `higfa finetune-guide --force`"):
    """The guide's temperature, and how far its confidence can be believed.

    `overall`: at the levels where it steers; `reconstructed`: photos decoded without noise.
    `classes`: how many; 0 where that was not noted. `fitted`: what the photos said, where they are
    too few for the temperature to follow. `own_confidence`: the mean probability that clean photos
    are given in their class, and the lower end of its 95 % interval.
    """

    source: Literal["val", "cross-validation"]
    temperature: float
    fitted: float | None = None
    levels: Several[LevelAssessment]
    overall: Assessment
    reconstructed: Assessment
    clean: Assessment
    classes: Count = 0
    own_confidence: Several[float] = ()

    @property
    def worthless(self) -> str | None:
        """What to say where the guide does no better than guessing; None where it does."""
        # All levels show the same photos, which alone count.
        photos, accuracy = self.clean.count, min(self.clean.accuracy, self.overall.accuracy)
        if at_chance(accuracy, photos, self.classes):
            what = f"is right on {accuracy:.1%} of {photos:,} held-out photos, no better than"
        elif self.own_confidence and self.own_confidence[1] <= 1 / self.classes:
            what = f"gives {photos:,} held-out photos {self.own_confidence[0]:.1%} in their class, "
            what += "no more than in any other by"
        else:
            return None
        return (
            f"The guide {what} chance ({1 / self.classes:.1%}): it steers pictures by noise; "
            "train it longer (guide.epochs), from pretrained weights or on more photos"
        )


class TrainingRow(Artifact, remedy="run `higfa train-downstream --force`"):
    """One training.

    `replaced`: the mean share of real photos that new pictures stood in for; `temperature` rests
    on so many `temperature_photos`.
    """

    seed: int
    best_epoch: Count
    val_accuracy: float | None
    temperature: float
    temperature_photos: Count = 0
    replaced: float
    steps: Count
    images_seen: Count
    seconds: float


class ArmRun(TrainingRow):
    """A training with what its checkpoint did on the test photos; None without a test split.

    `test_ece`: expected calibration error, and the ends of its 95 % interval.
    """

    test_accuracy: float | None
    test_macro_f1: float | None
    test_ece: Several[float] | None = None


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

    def at_chance(self, arm: ArmResult) -> bool:
        """Whether an arm does no better on the test photos than guessing."""
        tested = [run.test_accuracy for run in arm.runs if run.test_accuracy is not None]
        mean = sum(tested) / max(len(tested), 1)
        return bool(tested) and at_chance(mean, self.counts.test, len(self.classes))

    @property
    def worthless(self) -> str | None:
        """What to say where no arm does better than guessing; None where one does."""
        if not all(map(self.at_chance, self.arms)):
            return None
        return (
            f"No arm is better than chance ({1 / len(self.classes):.1%}) on {self.counts.test:,} "
            "test photos, so their differences say nothing; train longer (downstream.epochs), "
            "from pretrained weights or on more photos"
        )

    @property
    def has_test(self) -> bool:
        return self.counts.test > 0
