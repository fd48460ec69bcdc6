"""A stage's folder as the tests of artifacts fill it."""

from __future__ import annotations

from pathlib import Path

from higfa_cli.artifacts.atomic import write_text
from higfa_cli.artifacts.run_record import StageInputs, StageRun, stage_run
from higfa_cli.recipe.schema import Recipe

RECIPE = Recipe.model_validate(
    {"name": "t", "data": {"root": "d"}, "model": {"base": "m", "controlnet": "c"}}
)
INPUTS = StageInputs({"version": 1, "sampling": {"steps": 25}}, {"data/train": "aa"})


def names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def finish(directory: Path, inputs: StageInputs = INPUTS, **files: str) -> None:
    with stage_run(directory, inputs, RECIPE) as run:
        write_files(run, files)


def write_files(run: StageRun, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = run.directory / "images" / name
        write_text(path, text)
        run.output(path)
