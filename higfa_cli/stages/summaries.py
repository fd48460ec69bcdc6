"""What commands tell of their work: the objects that `--json` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypedDict


class ContoursSummary(TypedDict):
    """`edge_fraction`: min, mean and max; `photos`: found = accepted + rejected."""

    stage: str
    directory: str
    classes: int
    splits: dict[str, int]
    sources: int
    images: int
    edge_fraction: dict[str, float]
    photos: Mapping[str, object]
    rejected: dict[str, int]
    rejected_list: str


class GuideSummary(TypedDict):
    """Accuracies and calibration errors on photos that the network was not trained on."""

    stage: str
    guide: str
    backbone: str
    classes: int
    photos: int
    noised: int
    steps: int
    best_epoch: int
    seconds: float
    epoch_selected_by: str
    calibrated_on: str
    temperature: float
    accuracy_clean: float
    accuracy_noised: float
    ece_noised_before: float
    ece_noised_after: float
    levels: list[Mapping[str, object]]


class FilterSummary(TypedDict):
    """`rejected`: reason -> pictures; `classes_without`: those of which no picture is left."""

    selection: str
    pictures: int
    kept: int
    rejected: Mapping[str, int]
    classes_without: list[str]


class ArmSummary(TypedDict):
    """Means over an arm's seeds; None where one of them has no value."""

    arm: str
    synthetic_images: int
    seeds: int
    val_accuracy: float | None
    test_accuracy: float | None
    test_macro_f1: float | None


class DownstreamSummary(TypedDict):
    """`chosen_by`: which photos chose the checkpoints; `counts`: photos by split."""

    stage: str
    results: str
    chosen_by: str
    test: str
    counts: Mapping[str, object]
    arms: list[ArmSummary]


class ReportSummary(TypedDict):
    """The verdict, in a word and in a sentence."""

    verdict: str
    sentence: str
    arms: int
    page: str


class StepRow(TypedDict):
    """One stage of a run; `summary` is empty where it was skipped."""

    stage: str
    action: Literal["ran", "skipped"]
    seconds: float
    directory: str
    summary: Mapping[str, object]


class StatusRow(TypedDict):
    """`blocked`: running the stage now would fail at once; `arms`: of each, where it has some."""

    stage: str
    state: Literal["fresh", "stale", "partial", "missing"]
    reasons: list[str]
    blocked: bool
    directory: str
    arms: dict[str, str]


class IntendedRow(TypedDict):
    """`fail`: what the stage reads is not there, and no earlier one of the run would make it."""

    stage: str
    action: Literal["run", "skip", "fail", "not reached"]
    reasons: list[str]
