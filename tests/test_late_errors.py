"""What a stage can refuse after its first minute of work, and why it could not do so before."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from higfa_cli.errors import UserError
from higfa_cli.stages import pipeline
from tests.support.plain_project import changed, write_plain_project

PACKAGE = Path(__file__).parent.parent / "higfa_cli"
ROOMS = ("models", "init", "stages", "trained", "training")

#: Raised in the first second: before the stage's folder is opened, or while its inputs are read.
AT_ONCE = {
    "models/architecture.py": "_config architecture check_fit check_size",
    "models/backbones.py": "_no_download _unfit _with_weights check_name "
    "load_strictly read_weights",
    "models/classifier.py": "check_classes load_classifier",
    "models/device.py": "resolve_device",
    "models/fake.py": "autoencoder",
    "models/families/__init__.py": "family_of",
    "models/families/family.py": "check_scheduler",
    "models/forms.py": "check_form",
    "models/scheduler.py": "__init__ conversion",
    "models/trusted.py": "_check_shards check_folder check_index read_config",
    "stages/arm_job.py": "settle",
    "stages/arms.py": "_no_arm _parse check choose_arms",
    "stages/context.py": "_check_apart check_splits choose_names make_context",
    "stages/engines.py": "engine_of",
    "trained/export.py": "_onnx export",
    "stages/finetune_guide.py": "run",
    "init/photos.py": "_listed",
    "init/project.py": "_beside init_project",
    "stages/inputs.py": "checked_listing filter_inputs guide_path manifest_path",
    "stages/pipeline.py": "_between check_upstream",
    "stages/plan.py": "_by_class contour_rows",
    "trained/predict.py": "_photos best_model predict",
    "stages/preview.py": "sweep",
    "stages/report.py": "_read_predictions",
    "stages/report_inputs.py": "report_inputs",
    "stages/table.py": "stage_of",
    "training/room.py": "check_memory",
    "training/synthetic.py": "_label list_synthetic",
}
#: Raised later: why not before.
LATE = {
    "models/loading.py: _errors_in_one_line": "what a library finds in weights, or on the hub; "
    "files that are missing or short are doctor's",
    "models/loading.py: _gradient_autoencoder": "once more of what the weights turn out to be; of "
    "the configurations check_fit has said it",
    "stages/contours.py: _check_classes": "only the edges of all its photos show a class without",
    "stages/drawing.py: contour_path": "a contour that was changed while pictures were drawn",
    "stages/drawing.py: _too_large": "the memory that is free at that time; doctor estimates it",
    "trained/export.py: _compare": "the exported model must be there to be compared",
    "stages/filter.py: _filter": "a plan of which every picture failed",
    "stages/filter.py: _measure": "photos that went while pictures were drawn",
    "stages/filter.py: photo_thumbnail": "photos that went while pictures were drawn",
    "stages/guide_pool.py: _no_room": "only the device knows its memory; doctor estimates it",
    "init/photos.py: _leave_out_unreadable": "what init is there to look at",
    "stages/synthesize.py: _watch": "a worker was killed",
    "stages/worth.py: consented": "in `run` the guide is trained before; of one that is "
    "there, at once",
    "training/trainer.py: _train_epoch": "the loss shows itself in training",
    "training/trainer.py: fit": "of the library alone: a recipe holds a batch of two, the photos "
    "are counted before",
    "training/trainer.py: load_checkpoint": "a file that a killed training left, read at its turn",
}


def raising() -> set[str]:
    """The functions of these rooms that raise what a user sees."""
    names = set()
    for room in ROOMS:
        for path in sorted((PACKAGE / room).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            # Functions of this module that make an error for others to raise.
            for function in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)):
                made = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
                errors = {"UserError", "RecipeError", "WrongSize", "Absent"}
                if any(isinstance(c.func, ast.Name) and c.func.id in errors for c in made):
                    names.add(f"{path.relative_to(PACKAGE).as_posix()}: {function.name}")
    return names


@pytest.mark.fault(
    "costly",
    "an error that could be known before the work",
    "every error of a stage is raised in its first second, or listed with why it cannot be",
)
def test_every_error_is_early_or_says_why_not() -> None:
    at_once = {f"{path}: {name}" for path, names in AT_ONCE.items() for name in names.split()}
    assert not at_once & LATE.keys()
    listed = at_once | LATE.keys()
    assert raising() - listed == set()
    assert listed - raising() == set()


@pytest.mark.fault(
    "costly",
    "a downstream classifier that there is not, or whose weights are not there",
    "`run` and its dry run say so before the first stage",
)
@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("downstream__backbone", "resnte18", "timm has no model `resnte18`"),
        ("downstream__backbone", "timm/resnet18", "write timm's name, resnet18"),
        ("downstream__backbone", "resnet18.never", "no weights `never` of resnet18"),
        (
            "downstream__weights",
            "w/x.safetensors",
            r"downstream\.weights .*x.safetensors does",
        ),
        ("downstream__weights", "w/x.pth", r"downstream\.weights .*is not a \.safetensors"),
    ],
)
def test_the_last_classifier_is_known_before_the_first_stage(
    tmp_path: Path, key: str, value: str, words: str
) -> None:
    ctx = changed(write_plain_project(tmp_path), **{key: value})
    for look in (pipeline.iter_stages, pipeline.intended):
        with pytest.raises(UserError, match=words):
            list(look(ctx, "contours", "report"))
    assert not ctx.workspace.exists()
