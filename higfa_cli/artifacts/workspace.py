"""Every path of a workspace; no other module spells one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from higfa_cli.artifacts.class_folders import class_dir

# In every stage's folder.
RECORD = "run.json"
RESOLVED = "recipe.resolved.yaml"
# Rows of pictures beside them, in the folder of `synthesize` or in one of the user's.
METADATA = "metadata.jsonl"


class Below:
    """A path below the folder that it is asked of."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, folder: StageFolder | TrainingFolder, owner: type) -> Path:
        return folder.directory / self.name


@dataclass(frozen=True)
class StageFolder:
    """Where a stage writes."""

    directory: Path

    record = Below(RECORD)

    @property
    def writes(self) -> tuple[str, ...]:
        """What a finished run leaves, for people: names below the folder, with <placeholders>."""
        return (RECORD, RESOLVED, *(self.name(path) for path in self._outputs()))

    def name(self, path: Path) -> str:
        """A file of the folder as records and rows name it."""
        return path.relative_to(self.directory).as_posix()

    def _outputs(self) -> tuple[Path, ...]:
        return ()


class ContoursFolder(StageFolder):
    """Stage contours."""

    manifest = Below("manifest.jsonl")
    rejected = Below("rejected.jsonl")

    def image(self, class_folder: str, stem: str, index: int | str) -> Path:
        return self.directory / "images" / class_folder / f"{stem}-{index}.png"

    def _outputs(self) -> tuple[Path, ...]:
        return (self.image("<class>", "<photo>", "<k>"), self.manifest, self.rejected)


class GuideFolder(StageFolder):
    """Stage finetune-guide."""

    checkpoint = Below("guide.safetensors")
    calibration = Below("calibration.json")
    history = Below("history.jsonl")

    def _outputs(self) -> tuple[Path, ...]:
        return (self.checkpoint, self.calibration, self.history)


class SynthesizeFolder(StageFolder):
    """One arm of stage synthesize."""

    plan = Below("plan.json")  # What all who draw have in common.
    items = Below("plan.jsonl")  # The pictures of the plan.
    images = Below("images")
    metadata = Below(f"images/{METADATA}")
    failed = Below("failed.jsonl")
    traces = Below("traces")
    sources = Below("sources")

    def source(self, picture: str) -> Path:
        """The photo whose contour a picture has; of the gallery's alone."""
        return self.sources / f"{picture}.png"

    def trace(self, batch: int) -> Path:
        """Of one batch; written last, so a batch with a trace is whole."""
        return self.traces / f"batch-{batch:05d}.jsonl"

    def all_traces(self) -> list[Path]:
        """Of the batches that are whole, in their order."""
        return sorted(self.traces.glob("batch-*.jsonl"))

    def _outputs(self) -> tuple[Path, ...]:
        return (
            self.plan,
            self.items,
            self.images / "<class>" / "<id>.png",
            self.metadata,
            self.traces / "batch-<n>.jsonl",
        )


class FilterFolder(StageFolder):
    """One arm of stage filter."""

    selection = Below("selection.jsonl")

    def _outputs(self) -> tuple[Path, ...]:
        return (self.selection,)


@dataclass(frozen=True)
class TrainingFolder:
    """One training of an arm."""

    directory: Path

    model = Below("model.safetensors")
    history = Below("history.jsonl")
    result = Below("fit.json")
    predictions = Below("predictions.csv")


class DownstreamFolder(StageFolder):
    """Stage train-downstream."""

    results = Below("results.json")
    arms = Below("arms")

    def training(self, arm: str, seed: int) -> TrainingFolder:
        return TrainingFolder(self.arms / class_dir(arm) / f"seed-{seed}")

    def all_predictions(self) -> list[Path]:
        """Of every arm and seed, in the order of their paths."""
        return sorted(self.arms.glob("*/*/predictions.csv"))

    def _outputs(self) -> tuple[Path, ...]:
        training = TrainingFolder(self.arms / "<arm>" / "seed-<s>")
        return (
            self.results,
            training.model,
            training.history,
            training.result,
            training.predictions,
        )


class ReportFolder(StageFolder):
    """Stage report."""

    page = Below("report.html")
    markdown = Below("report.md")
    csv = Below("results.csv")
    latex = Below("results.tex")

    def _outputs(self) -> tuple[Path, ...]:
        return (self.page, self.markdown, self.csv, self.latex)


@dataclass(frozen=True)
class Workspace:
    """The folder of one recipe's artifacts."""

    root: Path

    @property
    def contours(self) -> ContoursFolder:
        return ContoursFolder(self.root / "contours")

    @property
    def guide(self) -> GuideFolder:
        return GuideFolder(self.root / "finetune-guide")

    def arm(self, name: str) -> ArmWorkspace:
        """With the pictures of one arm."""
        return ArmWorkspace(self.root, name)

    @property
    def downstream(self) -> DownstreamFolder:
        return DownstreamFolder(self.root / "train-downstream")

    @property
    def report(self) -> ReportFolder:
        return ReportFolder(self.root / "report")

    @property
    def stages(self) -> dict[str, StageFolder]:
        """Stage -> its folder, in the order in which they run; each arm's for those of arms."""
        arm = self.arm("<arm>")
        return {
            "contours": self.contours,
            "finetune-guide": self.guide,
            "synthesize": arm.synthesize,
            "filter": arm.filter,
            "train-downstream": self.downstream,
            "report": self.report,
        }

    @property
    def previews(self) -> Path:
        """Sheets of `synthesize --preview` and `--sweep`; no stage reads them."""
        return self.root / "previews"

    def name(self, path: Path) -> str:
        """A file or folder of the workspace as a stage's inputs name it."""
        return path.relative_to(self.root).as_posix()


@dataclass(frozen=True)
class ArmWorkspace(Workspace):
    """The folder of one recipe's artifacts, with the pictures of one arm."""

    arm_name: str

    @property
    def synthesize(self) -> SynthesizeFolder:
        return SynthesizeFolder(self.root / "synthesize" / self.arm_name)

    @property
    def filter(self) -> FilterFolder:
        return FilterFolder(self.root / "filter" / self.arm_name)

    @property
    def preview_pace(self) -> Path:
        """How long a picture of the arm's last preview took."""
        return self.previews / f"pace-{self.arm_name}.json"
