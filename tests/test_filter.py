"""The stage `filter`, and what training and report make of it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from higfa_cli.artifacts.atomic import read_json
from higfa_cli.artifacts.class_folders import class_dir
from higfa_cli.artifacts.rows import PICTURE_FAULTS
from higfa_cli.cli.app import app
from higfa_cli.data.images import encode_png, read_image
from higfa_cli.errors import UserError
from higfa_cli.models.classifier import load_classifier
from higfa_cli.recipe.load import load_recipe
from higfa_cli.stages import filter as stage
from higfa_cli.stages import pipeline
from higfa_cli.stages.arms import choose_arms
from higfa_cli.stages.context import Context, make_context
from higfa_cli.stages.inputs import downstream_inputs, filter_inputs
from higfa_cli.training.synthetic import list_synthetic
from tests.support.filter_project import (
    COPY,
    MIRRORED,
    ONE_COLOUR,
    OTHER,
    REPLICAS,
    changed,
    rows_of,
    write_guide,
    write_project,
)
from tests.support.shapes import CLASSES, SIZE, write_class_folders


@pytest.fixture(scope="module")
def synthesized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("filter"))


@pytest.fixture
def ctx(synthesized: Path, tmp_path: Path) -> Context:
    """A copy of the project with nothing filtered yet."""
    base = tmp_path / "project"
    shutil.copytree(synthesized, base)
    return make_context(load_recipe(str(base / "tiny.yaml")), base / "run")


def test_copies_mirror_images_and_single_colours_are_caught(ctx: Context) -> None:
    strict = changed(ctx, duplicate=0.99)
    before = sorted(path.name for path in ctx.ws.arm("higfa").synthesize.directory.rglob("*"))
    summary = pipeline.step(strict, "filter")["summary"]["higfa"]
    rows = rows_of(ctx)
    assert len(rows) == len(CLASSES) * 2 * REPLICAS
    for label in range(len(CLASSES)):
        assert rows[f"{label}-0-{COPY}"]["reasons"] == ["duplicate"]
        assert rows[f"{label}-0-{COPY}"]["duplicate"] == 1.0
        assert rows[f"{label}-0-{MIRRORED}"]["reasons"] == ["duplicate"]
        one_colour = rows[f"{label}-0-{ONE_COLOUR}"]
        assert (one_colour["reasons"], one_colour["std"]) == (["constant"], 0.0)
        assert one_colour["duplicate"] == 0.0
        others = [rows[f"{label}-0-{OTHER}"], *(rows[f"{label}-1-{i}"] for i in range(REPLICAS))]
        assert all(row["kept"] and row["reasons"] == [] for row in others)
        assert all(row["duplicate"] < 0.99 and row["std"] > 2 for row in others)
    assert all(row["confidence"] is None and row["rank"] is None for row in rows.values())
    counts = read_json(ctx.workspace / "filter/higfa/run.json")["counts"]
    assert (counts["pictures"], counts["kept"]) == (32, 20)
    assert counts["rejected"] == dict.fromkeys(PICTURE_FAULTS, 0) | {"duplicate": 8, "constant": 4}
    assert counts["kept_by_class"] == dict.fromkeys(CLASSES, 5)
    assert (summary["kept"], summary["classes_without"]) == (20, [])
    assert (
        sorted(path.name for path in ctx.ws.arm("higfa").synthesize.directory.rglob("*")) == before
    )


def test_without_the_key_duplicates_are_measured_and_kept(ctx: Context) -> None:
    pipeline.step(ctx, "filter")
    copy = rows_of(ctx)[f"0-0-{COPY}"]
    assert (copy["kept"], copy["duplicate"]) == (True, 1.0)


def test_changed_threshold_filters_again_and_draws_nothing(ctx: Context) -> None:
    pipeline.step(ctx, "filter")
    other = changed(ctx, duplicate=0.99)
    states = {row["stage"]: row for row in pipeline.status(other)}
    assert states["contours"]["state"] == states["synthesize"]["state"] == "fresh"
    assert states["filter"]["reasons"] == ["filter.duplicate: null -> 0.99"]
    assert pipeline.step(other, "filter")["action"] == "ran"
    assert pipeline.step(other, "filter")["action"] == "skipped"
    assert pipeline.state(other, "synthesize").kind == "fresh"
    # Other pictures make the selection stale.
    victim = ctx.ws.arm("higfa").synthesize.directory / "images" / class_dir(CLASSES[0]) / "0-0.png"
    victim.write_bytes(encode_png(np.zeros((SIZE, SIZE, 3), np.uint8)))
    assert pipeline.state(other, "filter").reasons == ("synthesize/higfa must run again first",)


def test_the_guide_decides_on_finished_pictures(ctx: Context) -> None:
    write_guide(ctx)
    stage.run(changed(ctx, top_k=len(CLASSES)), ["higfa"])
    rows = rows_of(ctx)
    guide = load_classifier(ctx.workspace / "finetune-guide/guide.safetensors")
    images = ctx.ws.arm("higfa").synthesize.directory / "images"
    for row in rows.values():
        image = torch.from_numpy(read_image(images / row["file_name"])).permute(2, 0, 1)[None]
        probabilities = guide.probabilities(image)[0]
        target = CLASSES.index(row["class"])
        assert row["confidence"] == pytest.approx(float(probabilities[target]), abs=1e-5)
        assert row["rank"] == probabilities.argsort(descending=True).tolist().index(target) + 1
    values = sorted(row["confidence"] for row in rows.values())
    middle = (values[15] + values[16]) / 2
    stage.run(changed(ctx, confidence=middle), ["higfa"])["higfa"]
    kept = {name: row["kept"] for name, row in rows_of(ctx).items()}
    assert kept == {
        name: row["confidence"] > middle and row["std"] > 2 for name, row in rows.items()
    }
    stage.run(changed(ctx, top_k=1, constant=0), ["higfa"])["higfa"]
    kept = {name: row["kept"] for name, row in rows_of(ctx).items()}
    assert kept == {name: row["rank"] == 1 for name, row in rows.items()}
    assert 0 < sum(kept.values()) < 32


def test_best_of_keeps_one_of_each_photo(ctx: Context) -> None:
    write_guide(ctx)
    stage.run(changed(ctx, best_of=REPLICAS), ["higfa"])["higfa"]
    rows = rows_of(ctx)
    for label in range(len(CLASSES)):
        for number in range(2):
            group = [rows[f"{label}-{number}-{replica}"] for replica in range(REPLICAS)]
            passed = [row for row in group if row["reasons"] != ["constant"]]
            (kept,) = [row for row in group if row["kept"]]
            assert kept["confidence"] == max(row["confidence"] for row in passed)
            assert all(row["reasons"] == ["best_of"] for row in passed if row is not kept)


def test_guide_is_an_input_where_it_is_used(ctx: Context) -> None:
    """Neither the sampler nor a key: then an old guide on disk cannot make the filter stale."""
    guide = "finetune-guide/guide.safetensors"
    write_guide(ctx)
    assert guide not in filter_inputs(ctx.arm("higfa")).files
    stage.run(ctx, ["higfa"])
    assert {row["confidence"] for row in rows_of(ctx).values()} == {None}
    files = filter_inputs(changed(ctx, best_of=2).arm("higfa")).files
    assert {guide, "data/train"} < files.keys()
    assert "data/test" not in files


def test_keys_that_need_a_guide_say_so(ctx: Context) -> None:
    expected = r"^filter\.confidence, filter\.top_k: .* is missing; run `higfa finetune-guide`"
    with pytest.raises(UserError, match=expected):
        stage.run(changed(ctx, confidence=0.5, top_k=3), ["higfa"])["higfa"]
    assert not ctx.ws.arm("higfa").filter.directory.exists()


def test_guide_of_other_classes_is_refused(ctx: Context) -> None:
    write_guide(ctx, ("a", "b"))
    with pytest.raises(UserError, match="the guide's 2 classes are not the data's 4"):
        stage.run(changed(ctx, top_k=1), ["higfa"])["higfa"]
    assert not ctx.ws.arm("higfa").filter.directory.exists()


def test_all_rejected_names_the_keys_and_leaves_the_measures(ctx: Context) -> None:
    expected = (
        r"leaves none of 32 pictures of higfa: filter\.duplicate 0\.01 rejects \d+, "
        r"filter\.constant 255\.0 rejects 32; loosen these keys"
    )
    with pytest.raises(UserError, match=expected):
        pipeline.step(changed(ctx, duplicate=0.01, constant=255), "filter")
    assert len(rows_of(ctx)) == 32
    state = pipeline.state(changed(ctx, duplicate=0.01, constant=255), "filter")
    assert state.kind == "partial" and "leaves none of 32" in state.reasons[0]
    assert pipeline.step(ctx, "filter")["summary"]["higfa"]["kept"] == 28


def test_no_pictures_yet_or_none_drawn(ctx: Context) -> None:
    metadata = ctx.workspace / "synthesize/higfa/images/metadata.jsonl"
    metadata.write_text("")
    with pytest.raises(UserError, match=r"lists no picture.*failed\.jsonl"):
        stage.run(ctx, ["higfa"])["higfa"]
    metadata.unlink()
    with pytest.raises(UserError, match="run `higfa synthesize` first"):
        filter_inputs(ctx.arm("higfa"))


def test_class_without_pictures_is_named(ctx: Context) -> None:
    said: list[str] = []

    class Noting(type(ctx.progress)):  # type: ignore[misc]
        def note(self, message: str) -> None:
            said.append(message)

    images = ctx.ws.arm("higfa").synthesize.directory / "images" / class_dir(CLASSES[3])
    for path in images.iterdir():
        Image.new("RGB", (SIZE, SIZE), "red").save(path)
    summary = stage.run(replace(ctx, progress=Noting()), ["higfa"])["higfa"]
    assert summary["classes_without"] == [CLASSES[3]]
    assert f"no picture is left of 1 classes ({CLASSES[3]})" in said[0]
    assert (
        read_json(ctx.workspace / "filter/higfa/run.json")["counts"]["kept_by_class"][CLASSES[3]]
        == 0
    )


def test_training_sees_only_what_is_kept(ctx: Context) -> None:
    strict = changed(ctx, duplicate=0.99)
    with pytest.raises(UserError, match="run `higfa filter` first"):
        downstream_inputs(strict)
    assert [arm.name for arm in choose_arms(strict, arms=["real"])] == ["real"]
    stale = pipeline.state(strict, "train-downstream")
    assert stale.kind == "missing" and "higfa filter" in stale.reasons[0]
    pipeline.step(strict, "filter")
    _, arm = choose_arms(strict)
    assert arm.folder is not None
    listing = list_synthetic(arm.folder, CLASSES, (), arm.kept())
    kept = [row["file_name"] for row in rows_of(ctx).values() if row["kept"]]
    assert len(kept) == 20
    assert sorted(p.relative_to(arm.folder).as_posix() for p in listing.paths) == sorted(kept)
    files = downstream_inputs(strict).files
    assert {"filter/higfa/selection.jsonl", "synthesize/higfa/images/metadata.jsonl"} < files.keys()
    # The stage reads the filter: stale selection, stale training.
    with pytest.raises(UserError, match="train-downstream reads filter/higfa, which is stale"):
        pipeline.run_stage(changed(ctx, duplicate=0.5), "train-downstream")


def test_training_depends_on_the_choice_and_not_on_its_measures(ctx: Context) -> None:
    stage.run(changed(ctx, duplicate=0.99), ["higfa"])
    before = downstream_inputs(ctx).files
    stage.run(changed(ctx, duplicate=0.995), ["higfa"])
    assert downstream_inputs(ctx).files == before
    stage.run(ctx, ["higfa"])
    assert downstream_inputs(ctx).files != before


def test_outside_pictures_are_not_filtered(ctx: Context, tmp_path: Path) -> None:
    folder = write_class_folders(tmp_path / "outside", 3, 4)
    stage.run(ctx, ["higfa"])["higfa"]
    _, drawn, outside = choose_arms(ctx, [f"outside={folder}"])
    assert drawn.kept() is not None
    assert outside.kept() is None
    assert list(outside.files()) == ["synthetic/real+outside"]


def test_kept_pictures_that_cannot_train_are_an_error(ctx: Context) -> None:
    images = ctx.ws.arm("higfa").synthesize.directory / "images"
    with pytest.raises(
        UserError, match=r"none of the 1 pictures of .* that passed the filter may train"
    ):
        list_synthetic(images, CLASSES, (), {"gone.png"})


def test_from_the_command_line_to_the_report(ctx: Context) -> None:
    flags = ["--workspace", str(ctx.workspace), "--set", "filter.duplicate=0.99", "--quiet"]
    recipe = str(ctx.base / "tiny.yaml")

    def higfa(*arguments: str) -> str:
        result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == 0, result.output
        return result.stdout

    dry = json.loads(higfa("filter", recipe, *flags, "--dry-run", "--json"))
    assert dry["kind"] == "missing" and "selection.jsonl" in dry["arms"]["higfa"]["writes"]
    assert not ctx.ws.arm("higfa").filter.directory.exists()
    out = higfa("filter", recipe, *flags)
    assert "kept: 20" in out
    higfa("train-downstream", recipe, *flags)
    results = read_json(ctx.workspace / "train-downstream/results.json")
    counts = {arm["name"]: arm["synthetic_images"] for arm in results["arms"]}
    assert counts == {"real": 0, "real+higfa": 20}
    higfa("report", recipe, *flags)
    sentence = (
        "The filter kept 20 of 32 drawn pictures and left 12 out of training: "
        "8 too close to the source photo, 4 nearly uniform."
    )
    for name in ("report.html", "report.md"):
        text = (ctx.workspace / "report" / name).read_text(encoding="utf-8")
        assert sentence in text
        assert "correlation with the source photo" in text
    rows = json.loads(
        higfa("run", recipe, *flags, "--from", "filter", "--until", "filter", "--json")
    )
    assert [(row["stage"], row["action"]) for row in rows["stages"]] == [("filter", "skipped")]
