"""Every path of a workspace; no other module spells one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from higfa_cli.artifacts.class_folders import class_dir

# In every stage's folder.
RECORD = "run.json"
RESOLVED = "recipe.resolved.yaml"
# Rows of pictures beside them, in the folder of `synthesize` or in one of the user's.
METADATA = "metadata.jsonl"
# Beside a stage's folder: what it held of other inputs.
EARLIER = ".earlier"


class Below:
    """A path below the folder that it is asked of.

    `writes`: what a finished run leaves there, for people, with <placeholders>; the path itself
    unless given.
    """

    def __init__(self, name: str, *writes: str, part: bool = False) -> None:
        self.name = name
        self.writes = () if part else writes or (name,)

    def __get__(self, folder: Folder, owner: type) -> Path:
        return folder.directory / self.name


@dataclass(frozen=True)
class Folder:
    directory: Path

    @classmethod
    def written(cls) -> tuple[str, ...]:
        paths = [value for value in vars(cls).values() if isinstance(value, Below)]
        return tuple(name for path in paths for name in path.writes)

    def name(self, path: Path) -> str:
        """A file of the folder as records and rows name it."""
        return path.relative_to(self.directory).as_posix()


class StageFolder(Folder):
    record = Below(RECORD)

    @property
    def writes(self) -> tuple[str, ...]:
        """What a finished run leaves, for people: names below the folder, with <placeholders>."""
        return (RECORD, RESOLVED, *self.written())


class ContoursFolder(StageFolder):
    images = Below("images", "images/<class>/<photo>-<k>.png")
    manifest = Below("manifest.jsonl")
    rejected = Below("rejected.jsonl")
    sheet = Below("sheet.png")  # To look at: photo, contour, moved contour.

    def image(self, class_folder: str, stem: str, index: int) -> Path:
        return self.images / class_folder / f"{stem}-{index}.png"


class GuideFolder(StageFolder):
    checkpoint = Below("guide.safetensors")
    calibration = Below("calibration.json")
    history = Below("history.jsonl")


class SynthesizeFolder(StageFolder):
    plan = Below("plan.json")  # What all who draw have in common.
    items = Below("plan.jsonl")  # The pictures of the plan.
    images = Below("images", "images/<class>/<id>.png")
    metadata = Below(f"images/{METADATA}")
    traces = Below("traces", "traces/batch-<n>.jsonl")
    failed = Below("failed.jsonl", part=True)
    sources = Below("sources", part=True)

    def source(self, picture: str) -> Path:
        """The photo whose contour a picture has; of the gallery's alone."""
        return self.sources / f"{picture}.png"

    def trace(self, batch: int) -> Path:
        """Of one batch; written last, so a batch with a trace is whole."""
        return self.traces / f"batch-{batch:05d}.jsonl"

    def all_traces(self) -> list[Path]:
        """Of the batches that are whole, in their order."""
        return sorted(self.traces.glob("batch-*.jsonl"))


class FilterFolder(StageFolder):
    selection = Below("selection.jsonl")


class TrainingFolder(Folder):
    """One training of an arm."""

    model = Below("model.safetensors")
    history = Below("history.jsonl")
    result = Below("fit.json")
    predictions = Below("predictions.csv")


class DownstreamFolder(StageFolder):
    results = Below("results.json")
    arms = Below("arms", *(f"arms/<arm>/seed-<s>/{name}" for name in TrainingFolder.written()))

    def training(self, arm: str, seed: int) -> TrainingFolder:
        return TrainingFolder(self.arms / class_dir(arm) / f"seed-{seed}")

    def all_predictions(self) -> list[Path]:
        """Of every arm and seed, in the order of their paths."""
        return sorted(self.arms.glob("*/*/predictions.csv"))


class ReportFolder(StageFolder):
    page = Below("report.html")
    markdown = Below("report.md")
    csv = Below("results.csv")
    latex = Below("results.tex")


F = TypeVar("F", bound=StageFolder)


class At(Generic[F]):
    """The folder of a stage in the workspace that it is asked of."""

    def __init__(self, folder: type[F], name: str, of_arms: bool = False) -> None:
        self._folder, self._name, self._of_arms = folder, name, of_arms

    def __get__(self, ws: Workspace, owner: type) -> F:
        return self._folder(ws.root / self._name / (ws.arm_name if self._of_arms else ""))


@dataclass(frozen=True)
class Workspace:
    """The folder of one recipe's artifacts."""

    root: Path
    arm_name: ClassVar[str] = "<arm>"
    contours = At(ContoursFolder, "contours")
    guide = At(GuideFolder, "finetune-guide")
    downstream = At(DownstreamFolder, "train-downstream")
    report = At(ReportFolder, "report")

    @property
    def stages(self) -> dict[str, StageFolder]:
        """Stage -> its folder, in the order in which they run; each arm's for those of arms."""
        arm = self.arm("<arm>")
        before, after = (self.contours, self.guide), (self.downstream, self.report)
        folders = (*before, arm.synthesize, arm.filter, *after)
        return {self.name(folder.directory).partition("/")[0]: folder for folder in folders}

    @property
    def previews(self) -> Path:
        """Sheets of `synthesize --preview` and `--sweep`; no stage reads them."""
        return self.root / "previews"

    def arm(self, name: str) -> ArmWorkspace:
        """With the pictures of one arm."""
        return ArmWorkspace(self.root, name)

    def name(self, path: Path) -> str:
        """A file or folder of the workspace as a stage's inputs name it."""
        return path.relative_to(self.root).as_posix()


@dataclass(frozen=True)
class ArmWorkspace(Workspace):
    """The folder of one recipe's artifacts, with the pictures of one arm."""

    arm_name: str  # type: ignore[misc]

    synthesize = At(SynthesizeFolder, "synthesize", of_arms=True)
    filter = At(FilterFolder, "filter", of_arms=True)

    @property
    def preview_pace(self) -> Path:
        """How long a picture of the arm's last preview took."""
        return self.previews / f"pace-{self.arm_name}.json"
