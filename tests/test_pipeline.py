"""The order of the stages: what is fresh, what is refused, what comes next."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from higfa_cli.artifacts.atomic import write_text
from higfa_cli.artifacts.fingerprint import hash_listing, hash_tree
from higfa_cli.artifacts.run_record import StageInputs, stage_run
from higfa_cli.artifacts.stage_state import stage_state
from higfa_cli.errors import UserError
from higfa_cli.recipe.load import load_recipe
from higfa_cli.stages import pipeline, table
from higfa_cli.stages.context import Context, make_context
from higfa_cli.stages.inputs import synthesize_inputs
from higfa_cli.stages.table import stage_of
from tests.support.plain_project import changed, write_plain_project
from tests.support.stage_folder import finish


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    return write_plain_project(tmp_path)


def pretend_synthesized(ctx: Context) -> None:
    """A finished record of `synthesize` with its real inputs, without drawing."""
    inputs = synthesize_inputs(ctx.arm("higfa"))
    with stage_run(ctx.ws.arm("higfa").synthesize.directory, inputs, ctx.recipe) as run:
        write_text(run.directory / "cost.json", "{}")
        run.output(run.directory / "cost.json")


def test_workspace_of_the_recipe(
    ctx: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = load_recipe("recipe.yaml")
    assert make_context(loaded).workspace == tmp_path / "runs" / "small%2Fone"
    assert make_context(loaded).stage_dir("report").name == "report"


def test_status_of_nothing(ctx: Context) -> None:
    rows = pipeline.status(ctx)
    assert [row["stage"] for row in rows] == list(pipeline.NAMES)
    assert {row["state"] for row in rows} == {"missing"}
    assert rows[0]["reasons"] == ["not run yet"]
    assert "contours" in rows[2]["reasons"][0]
    assert table.next_command(rows, "r.yaml") == "higfa contours r.yaml"
    assert not ctx.workspace.exists()


def test_without_the_data_doctor_comes_next(ctx: Context) -> None:
    rows = pipeline.status(changed(ctx, data__root="gone"))
    assert all(row["blocked"] for row in rows)
    assert table.next_command(rows, "r.yaml") == "higfa doctor r.yaml"
    assert table.next_stage(rows, "r.yaml") == "higfa contours r.yaml"


def test_what_a_run_would_do(ctx: Context) -> None:
    def actions(of: Context, *ends: str) -> list[str]:
        return [row["action"] for row in pipeline.intended(of, *ends)]

    assert actions(ctx) == ["run"] * 6
    assert actions(ctx, "synthesize") == ["fail"] + ["not reached"] * 3
    assert actions(changed(ctx, data__root="gone"))[:2] == ["fail", "not reached"]
    assert not ctx.workspace.exists()
    list(pipeline.iter_stages(ctx, last="contours"))
    assert actions(ctx, "contours", "finetune-guide") == ["skip", "run"]
    assert actions(replace(ctx, force=True), "contours", "contours") == ["run"]


def test_run_skip_force(ctx: Context) -> None:
    (row,) = pipeline.iter_stages(ctx, last="contours")
    assert (row["stage"], row["action"], row["summary"]["images"]) == ("contours", "ran", 4)
    (row,) = pipeline.iter_stages(ctx, last="contours")
    assert (row["action"], row["summary"]) == ("skipped", {})
    (row,) = pipeline.iter_stages(replace(ctx, force=True), last="contours")
    assert row["action"] == "ran"


def test_parameter_changed_then_output_deleted(ctx: Context) -> None:
    list(pipeline.iter_stages(ctx, last="contours"))
    more = changed(ctx, contours__per_image=2)
    state = pipeline.state(more, "contours")
    assert (state.kind, state.reasons) == ("stale", ("contours.per_image: 1 -> 2",))
    list(pipeline.iter_stages(more, last="contours"))
    assert pipeline.state(more, "contours").kind == "fresh"
    victim = ctx.stage_dir("contours") / "images" / "A320" / "0-1.png"
    victim.unlink()
    state = pipeline.state(more, "contours")
    assert (state.kind, state.reasons) == ("partial", ("images/A320/0-1.png is gone",))
    list(pipeline.iter_stages(more, last="contours"))
    assert victim.is_file()


def test_changed_photo_makes_stale(ctx: Context, tmp_path: Path) -> None:
    list(pipeline.iter_stages(ctx, last="contours"))
    photo = tmp_path / "photos" / "train" / "A320" / "0.png"
    photo.touch()
    assert pipeline.state(ctx, "contours").kind == "fresh"
    Image.new("RGB", (40, 30), "red").save(photo)
    state = pipeline.state(ctx, "contours")
    reason = "data/train has other content: train/A320/0.png changed"
    assert (state.kind, state.reasons) == ("stale", (reason,))


@pytest.mark.fault(
    "files", "a photo, a label or a part of a model changed", "`status` names the files that did"
)
def test_status_names_what_changed_of_many_files(ctx: Context, tmp_path: Path) -> None:
    list(pipeline.iter_stages(ctx, last="contours"))
    photos = tmp_path / "photos" / "train"

    def reason() -> str:
        (text,) = pipeline.status(replace(ctx))[0]["reasons"]
        return text.removeprefix("data/train has other content: ")

    shutil.copy(photos / "A320" / "0.png", photos / "A321" / "9.png")
    assert reason() == "train/A321/9.png is new"
    (photos / "A320" / "1.png").rename(photos / "A321" / "1b.png")
    assert reason() == "train/A320/1.png is gone, train/A321/1b.png is new, train/A321/9.png is new"
    Image.new("RGB", (40, 30), "red").save(photos / "A320" / "0.png")
    assert reason().startswith("train/A320/0.png changed, ") and reason().endswith(" and 1 more")


@pytest.mark.fault("files", "a photo, a label or a part of a model changed")
def test_a_label_and_a_part_of_a_model_are_named(tmp_path: Path) -> None:
    odd = os.fsdecode(b"b\xff.png")
    rows = [["a.png", "tit", "train", "11"], [odd, "tit", "train", "22"]]
    before = StageInputs({}, {"data/train": hash_listing(rows)})
    rows[1][1] = "wren"
    relabelled = StageInputs({}, {"data/train": hash_listing(rows)})
    (tmp_path / "model" / "unet").mkdir(parents=True)
    for text in ("one", "two"):
        (tmp_path / "model" / "unet" / "config.json").write_text(text)
        was, now = relabelled, StageInputs({}, {"model.base": hash_tree(tmp_path / "model")})
        if text == "one":
            finish(tmp_path / "m", now)
    state = stage_state(tmp_path / "m", now)
    assert state.reasons == ("model.base has other content: unet/config.json changed",)
    finish(tmp_path / "s", before)
    (reason,) = stage_state(tmp_path / "s", was).reasons
    assert reason == "data/train has other content: b\\udcff.png changed"
    # A record of before such notes, and a listing that nobody has taken here.
    assert stage_state(tmp_path / "s", StageInputs({}, {"data/train": "bb"})).kind == "stale"


def test_a_long_value_is_not_printed(tmp_path: Path) -> None:
    counts = {"pictures": list(range(100)), "steps": 4}
    finish(tmp_path / "s", StageInputs({"drawn": counts}, {}))
    state = stage_state(tmp_path / "s", StageInputs({"drawn": {"pictures": [1], "steps": 5}}, {}))
    assert state.reasons == ("drawn.pictures has other content", "drawn.steps: 4 -> 5")


def test_upstream_makes_downstream_stale(ctx: Context) -> None:
    list(pipeline.iter_stages(ctx, last="contours"))
    pretend_synthesized(ctx)
    assert pipeline.state(ctx, "synthesize").kind == "fresh"
    more = changed(ctx, contours__per_image=2)
    state = pipeline.state(more, "synthesize")
    assert (state.kind, state.reasons) == ("stale", ("contours must run again first",))
    with pytest.raises(UserError, match=r"contours, which is stale \(contours\.per_image: 1 -> 2"):
        pipeline.run_stage(more, "synthesize")
    list(pipeline.iter_stages(more, last="contours"))
    state = pipeline.state(more, "synthesize")
    assert state.reasons == ("contours/manifest.jsonl has other content",)
    # Back to the first parameters: the same contours again, to the byte.
    list(pipeline.iter_stages(ctx, last="contours"))
    assert pipeline.state(ctx, "synthesize").kind == "fresh"


def test_stage_whose_input_went_is_stale_not_missing(ctx: Context) -> None:
    list(pipeline.iter_stages(ctx, last="contours"))
    pretend_synthesized(ctx)
    (ctx.stage_dir("contours") / "manifest.jsonl").unlink()
    assert pipeline.state(ctx, "synthesize").kind == "stale"


def test_describe_writes_nothing(ctx: Context) -> None:
    found = pipeline.describe(ctx, "contours")
    assert (found["kind"], found["present_outputs"]) == ("missing", 0)
    assert list(found["inputs"]) == ["data/train"]
    assert not ctx.workspace.exists()


def test_what_contours_says_it_writes_is_what_it_writes(ctx: Context) -> None:
    list(pipeline.iter_stages(ctx, last="contours"))
    written = {p.name for p in ctx.stage_dir("contours").iterdir()}
    said = {name.split("/")[0] for name in pipeline.describe(ctx, "contours")["writes"]}
    assert written == said


def test_results_of_the_last_command_line_may_be_reported(ctx: Context) -> None:
    small = changed(
        ctx,
        downstream__backbone="resnet10t",
        downstream__pretrained=False,
        downstream__image_size=32,
        downstream__epochs=1,
        downstream__seeds=[0],
    )
    pipeline.run_stage(small, "train-downstream", arms=["real"])
    assert pipeline.state(small, "train-downstream", arms=["real"]).kind == "fresh"
    # By the recipe alone something is missing, and `status` says so ...
    state = pipeline.state(small, "train-downstream")
    assert state.kind == "stale" and "higfa synthesize" in state.reasons[0]
    row = pipeline.status(small)[4]
    waiting = "real: trained; other arms wait for pictures, drawn and filtered"
    assert (row["state"], row["reasons"]) == ("partial", [waiting])
    # ... but what was asked for may be reported.
    pipeline.run_stage(small, "report")
    assert pipeline.state(small, "report").kind == "fresh"
    other = changed(small, downstream__epochs=2)
    with pytest.raises(UserError, match="report reads train-downstream, which is stale"):
        pipeline.run_stage(other, "report")


def test_unknown_stage(ctx: Context) -> None:
    with pytest.raises(UserError, match="there is no stage `contour`"):
        stage_of("contour")
