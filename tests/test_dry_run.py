"""`higfa synthesize --dry-run` with nothing there, with photos only, and with contours."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from higfa_cli.artifacts.artifact import write_model
from higfa_cli.artifacts.records import Pace, SynthesisCounts
from higfa_cli.artifacts.run_record import StageInputs, stage_run
from higfa_cli.cli.app import app
from higfa_cli.data.layouts import layout_of
from higfa_cli.forecast.estimate import (
    count_pictures,
    seconds_per_picture,
)
from higfa_cli.recipe.builtin import builtin_names
from higfa_cli.recipe.load import load_recipe
from higfa_cli.stages.context import make_context
from higfa_cli.stages.inputs import drawing_parameters
from higfa_cli.text import duration, gib, plural
from tests.support import tiny
from tests.support.recipes import drawing_keys, write_recipe
from tests.support.shapes import write_class_folders

KEYS = {
    "images",
    "classes",
    "counted_from",
    "batches",
    "batch_size",
    "steps",
    "guided_steps",
    "denoiser_evaluations",
    "denoiser_evaluations_per_image",
    "guide_evaluations",
    "flops",
    "flops_per_image",
    "estimated_memory_bytes",
    "estimated_seconds",
    "estimated_from",
    "output",
    "arms",
    "notes",
}
QUICK = ("aircraft-sdxl", "aircraft-sd15")
PUBLIC = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
    for name in builtin_names()
    if name != "pocket-aircraft"
]


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: Path) -> Path:
    """An empty current folder and hub cache; returns the folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return tiny.make_model(tmp_path_factory.mktemp("dry"))


def tiny_recipe(folder: Path, model: tuple[Path, Path], **drawing: Any) -> Path:
    """4 classes of 3 photos, 2 contours per photo, 3 pictures per contour."""
    write_class_folders(folder / "photos" / "train", 3, 0)
    of_all = {"steps": 4, "batch_size": 5, "per_contour": 3, "classifier": {"switch": 0.5}}
    contours = {"per_image": 2, "canny_low": 10, "canny_high": 30}
    drawing = drawing_keys(**of_all | drawing)
    return write_recipe(folder / "tiny.yaml", model, contours=contours, **drawing)


def dry(*flags: str | Path) -> dict[str, Any]:
    """The answer for the arm `higfa` alone, whose numbers are then those of the whole."""
    words = ["synthesize", *map(str, flags), "--arm", "higfa", "--dry-run", "--json"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.stdout)
    (arm,) = answer["arms"].values()
    assert all(answer[key] == arm[key] for key in answer.keys() & arm.keys())
    return arm | answer


# Every public recipe draws two pictures per contour and one contour per training photo.
@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_recipe_plans_with_nothing_there(name: str, nowhere: Path) -> None:
    plan = dry("--dataset", name)
    assert plan.keys() == KEYS
    about = layout_of(load_recipe(name).recipe.data.layout)
    assert about is not None
    assert plan["counted_from"] == "published split sizes"
    assert (plan["images"], plan["classes"]) == (2 * about.sizes["train"], about.classes)
    assert (plan["batch_size"], plan["batches"]) == ("auto", None)
    # 30 steps of three branches; progress 21/30 = 0.7 is the first guided one of nine.
    assert (plan["steps"], plan["guided_steps"]) == (30, 9)
    assert plan["denoiser_evaluations_per_image"] == 90
    for whole, each in (("denoiser_evaluations", 90), ("guide_evaluations", 9)):
        assert plan[whole] == plan["images"] * each
    assert plan["flops"] == plan["flops_per_image"] * plan["images"]
    assert 10**14 < plan["flops_per_image"] < 10**16
    assert 2**31 < plan["estimated_memory_bytes"] < 24 * 2**30
    assert plan["estimated_seconds"] is None and plan["estimated_from"] is None
    assert plan["notes"] == ["time is not known before a preview or a run has measured it"]
    assert not list(nowhere.iterdir())


def counted(name: str, *overrides: str) -> int:
    return count_pictures(make_context(load_recipe(name, overrides))).images


def test_published_sizes_by_hand() -> None:
    # FGVC-Aircraft has 3334 training photos of 100 variants, CUB-200-2011 5994 of 200 birds.
    assert counted("aircraft-sdxl") == 3334 * 2 == 6668
    assert counted("cub-sdxl") == 5994 * 2 == 11988
    assert counted("cub-sdxl", "pictures.per_contour=5", "contours.per_image=3") == 5994 * 15
    assert counted("aircraft-sdxl", "contours.splits=[train,val]") == (3334 + 3333) * 2
    assert counted("aircraft-sdxl", "data.shots=5") == 5 * 100 * 2
    # 40 shots are more than there are: about 33 per variant.
    assert counted("aircraft-sdxl", "data.shots=40") == 6668


def test_a_split_that_was_never_published_is_refused() -> None:
    result = CliRunner().invoke(
        app,
        ["synthesize", "--dataset", "cub", "--dry-run", "--set", "contours.splits=[val]"],
    )
    assert result.exit_code == 1
    assert "contours.splits asks for `val`" in result.stderr


def test_photos_without_contours(nowhere: Path, model: tuple[Path, Path]) -> None:
    plan = dry(tiny_recipe(nowhere, model))
    assert plan.keys() == KEYS
    assert plan["counted_from"] == "photos"
    # 4 classes x 3 photos x 2 contours x 3 replicas
    assert (plan["images"], plan["classes"]) == (72, 4)
    assert plan["batches"] == 15  # 14 of 5, one of 2
    assert plan["guided_steps"] == 2
    assert plan["denoiser_evaluations"] == 72 * 4 * 3
    assert plan["guide_evaluations"] == 72 * 2
    assert plan["estimated_memory_bytes"] > 10_000
    assert not (nowhere / "runs").exists()


def test_contours_give_the_plan_itself(nowhere: Path, model: tuple[Path, Path]) -> None:
    recipe = tiny_recipe(nowhere, model)
    made = CliRunner().invoke(app, ["contours", str(recipe), "--quiet"])
    assert made.exit_code == 0, made.output
    plan = dry(recipe)
    assert plan.keys() == KEYS | {"first"}
    assert (plan["counted_from"], plan["images"], plan["batches"]) == ("contours", 72, 15)
    assert [row["replica"] for row in plan["first"]] == [0, 1, 2]
    assert all(row["class"] == "blue disc" and row["batch"] == 0 for row in plan["first"])
    long = "prompts.templates=['a " + "very " * 20 + "nice {words}']"
    words = ["synthesize", str(recipe), "--dry-run", "--set", long]
    lines = CliRunner().invoke(app, words).stdout.splitlines()
    head = next(index for index, line in enumerate(lines) if line.strip() == "first:")
    assert lines[head + 1].split() == ["id", "class", "source", "prompt"]
    assert lines[head + 2].endswith(("a " + "very " * 20)[:60].rstrip() + " ...")
    automatic = dry(recipe, "--set", "run.batch_size=auto")
    assert (automatic["batch_size"], automatic["batches"]) == ("auto", None)
    # Contours of other settings do not tell how many pictures there will be.
    more = dry(recipe, "--set", "contours.per_image=4")
    assert (more["counted_from"], more["images"]) == ("photos", 144)
    assert "contours.per_image: 2 -> 4" in more["notes"][0]
    assert "first" not in more


def test_unknown_model_still_gives_the_counts(nowhere: Path, model: tuple[Path, Path]) -> None:
    plan = dry(tiny_recipe(nowhere, model), "--set", "model.base=some/model")
    assert (plan["images"], plan["batches"]) == (72, 15)
    unknown = KEYS - {"images", "classes", "counted_from", "batches", "batch_size", "steps"}
    assert all(plan[key] is None for key in unknown - {"output", "arms", "notes"})
    assert "model_index.json of `some/model` is not on this machine" in plan["notes"][0]


def test_what_was_measured_tells_the_time(nowhere: Path, model: tuple[Path, Path]) -> None:
    ctx = make_context(load_recipe(str(tiny_recipe(nowhere, model)))).arm("higfa")
    assert seconds_per_picture(ctx) is None
    parameters = drawing_parameters(ctx) | {"pictures": None, "prompts": None}
    pace = Pace(parameters=parameters, seconds=2.5, device="cpu")
    write_model(ctx.ws.preview_pace, pace)
    assert seconds_per_picture(ctx) == (2.5, "a preview on cpu")
    folder = ctx.ws.synthesize.directory
    with stage_run(folder, StageInputs(parameters, {}), ctx.recipe) as run:
        run.device = "cpu"
        run.counts = SynthesisCounts(
            images=1,
            failed=0,
            failures={},
            smallest_batch=None,
            drawn_now=1,
            seconds=1.25,
            seconds_per_image=1.25,
            denoiser_evaluations_per_image=12,
            guide_evaluations_per_image=2,
            batch_size=1,
            dtype="float32",
            peak_device_memory=None,
        )
    assert seconds_per_picture(ctx) == (1.25, "an earlier run on cpu")
    run_there = ctx.recipe.run.model_copy(update={"device": "cuda"})
    on_gpu = ctx.recipe.model_copy(update={"run": run_there})
    assert seconds_per_picture(replace(ctx, recipe=on_gpu)) is None
    sampling = ctx.recipe.sampling.model_copy(update={"steps": 5})
    slower = ctx.recipe.model_copy(update={"sampling": sampling})
    assert seconds_per_picture(replace(ctx, recipe=slower)) is None


def test_people_read_units(nowhere: Path, model: tuple[Path, Path]) -> None:
    recipe = tiny_recipe(nowhere, model)
    flags = ["--set", "pictures.per_contour=1000", "--dry-run"]
    shown = CliRunner().invoke(app, ["synthesize", str(recipe), *flags]).stdout
    assert "images: 24,000" in shown
    assert re.search(r"estimated memory: .*iB for 5 pictures, plus about 1.5 GiB on a GPU", shown)
    assert "_bytes" not in shown
    flags += ["--set", "run.batch_size=auto", "--device", "cuda:77"]
    shown = CliRunner().invoke(app, ["synthesize", str(recipe), *flags]).stdout
    assert "iB for 1 picture (batch size auto), plus about" in shown
    assert "estimated time: not known" in shown
    assert (gib(3 * 2**30), gib(50 * 2**20)) == ("3.0 GiB", "50 MiB")
    assert (gib(2**20), gib(2**20 - 1), gib(0)) == ("1 MiB", "less than 1 MiB", "less than 1 MiB")
    assert (plural(1, "class", "classes"), plural(2400, "class", "classes")) == (
        "1 class",
        "2,400 classes",
    )
    assert [duration(s) for s in (4.25, 42, 150, 35_280, 235_300_000)] == [
        "4.2 s", "42 s", "2 min", "9.8 h", "7.5 years",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["prompts.bank=plane"], "`plane` is neither a shipped bank"),
        (["data.class_words=words:fgvc"], "unknown reference `words:fgvc`"),
        (["data.class_words=gone.yaml"], "data.class_words: gone.yaml does not exist"),
        (["data.root=pocket:gone"], "unknown reference `pocket:gone`"),
    ],
)
def test_a_recipe_is_checked_before_anything_is_there(changes: list[str], said: str) -> None:
    flags = [word for change in changes for word in ("--set", change)]
    dry_run = ["synthesize", "--dataset", "aircraft", "--dry-run", *flags]
    for words in (dry_run, ["recipes", "check", "aircraft", *flags]):
        result = CliRunner().invoke(app, words)
        assert (result.exit_code, result.stdout) == (1, ""), result.output
        assert said in result.stderr


def test_a_size_that_the_model_cannot_draw_is_refused() -> None:
    for changes, near in ((["size=1000"], "992 or 1024"), (["size=60"], "")):
        flags = [word for change in changes for word in ("--set", change)]
        result = CliRunner().invoke(app, ["synthesize", "--dataset", "cub", "--dry-run", *flags])
        assert result.exit_code == 1 and "is not a multiple of 32" in result.stderr
        assert near in result.stderr


def test_the_same_model_is_counted_once(
    nowhere: Path, model: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = str(tiny_recipe(nowhere, model, steps=5, classifier={"switch": 1.0}))
    monkeypatch.setenv("XDG_CACHE_HOME", str(nowhere / "cache"))
    for change in ("pictures.per_contour=1", "name=other", "sampling.steps=6"):
        plan = dry(recipe, "--set", change)
    kept = sorted((nowhere / "cache/higfa").iterdir())
    assert [path.name.partition("-")[0] for path in kept].count("flops") == 2
    assert dry(recipe, "--set", change) == plan
    # What is no cache any more is worked out again.
    for path in kept:
        path.write_text("{")
    assert dry(recipe, "--set", change) == plan
    # And where nothing can be kept, nothing is.
    monkeypatch.setenv("XDG_CACHE_HOME", str(recipe))
    assert dry(recipe, "--set", change) == plan


def test_compile_is_a_recipe_key(nowhere: Path, model: tuple[Path, Path]) -> None:
    words = ["synthesize", str(tiny_recipe(nowhere, model)), "--dry-run"]
    words += ["--set", "run.memory.compile=perhaps"]
    assert CliRunner().invoke(app, words).exit_code == 2
    # The flag is the last override of that key, so that it mends the value.
    assert CliRunner().invoke(app, [*words, "--compile"]).exit_code == 0
