"""The train-downstream stage, predict and export, on small real pictures."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from higfa_cli.artifacts.artifact import write_model, write_rows
from higfa_cli.artifacts.atomic import read_json, write_json
from higfa_cli.artifacts.results import ArmResult, ArmRun, Results, SplitCounts
from higfa_cli.artifacts.run_record import StageInputs, stage_run
from higfa_cli.artifacts.stage_state import stage_state
from higfa_cli.artifacts.workspace import DownstreamFolder
from higfa_cli.data.dataset import load_dataset
from higfa_cli.errors import UserError
from higfa_cli.models.classifier import load_classifier
from higfa_cli.recipe.schema import Recipe
from higfa_cli.stages import train_downstream
from higfa_cli.stages.arms import choose_arms, left_out
from higfa_cli.stages.context import Context, Silent
from higfa_cli.stages.inputs import downstream_inputs
from higfa_cli.trained.export import export
from higfa_cli.trained.predict import best_model, predict
from higfa_cli.training import held_out
from tests.support.shapes import CLASSES, SIZE, selection_row, write_class_folders


def context(base: Path, **downstream: Any) -> Context:
    values = {
        "backbone": "test_resnet",
        "pretrained": False,
        "image_size": SIZE,
        "epochs": 2,
        "batch_size": 8,
        "learning_rate": 3e-3,
        "seeds": [0, 1],
        **downstream,
    }
    recipe = Recipe.model_validate(
        {
            "name": "tiny",
            "data": {"root": "data"},
            "model": {"base": "none", "controlnet": "none"},
            "run": {"device": "cpu"},
            "downstream": values,
        }
    )
    return Context(recipe=recipe, base=base, workspace=base / "run", progress=Silent())


def write_data(base: Path, splits: tuple[str, ...] = ("train", "val", "test")) -> None:
    for seed, split in enumerate(splits):
        write_class_folders(base / "data" / split, 5, seed)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """A finished run with three arms; tests only read it."""
    base = tmp_path_factory.mktemp("done")
    write_data(base)
    own = write_class_folders(base / "run/synthesize/higfa/images", 5, 7)
    (own / "metadata.jsonl").write_text("")
    # The filter keeps four of the five pictures of each class.
    names = [path.relative_to(own).as_posix() for path in own.rglob("*.png")]
    rows = [selection_row(name, kept=not name.endswith("/0.png")) for name in names]
    write_rows(base / "run/filter/higfa/selection.jsonl", rows)
    write_class_folders(base / "other", 3, 8, CLASSES[:2])
    ctx = context(base, epochs=3)
    train_downstream.run(ctx, synthetic=[f"diffmix={base / 'other'}"])
    return ctx


def test_results_hold_every_arm_at_the_same_budget(done: Context) -> None:
    results = read_json(done.stage_dir("train-downstream") / "results.json")
    arms = {arm["name"]: arm for arm in results["arms"]}
    assert list(arms) == ["real", "real+higfa", "real+diffmix"]
    assert arms["real"]["synthetic"] is None
    assert arms["real+higfa"]["synthetic"] == "synthesize/higfa/images"
    assert arms["real+diffmix"]["synthetic"] == str((done.base / "other").resolve())
    assert [arm["synthetic_images"] for arm in results["arms"]] == [0, 16, 6]
    assert arms["real+diffmix"]["missing_classes"] == list(CLASSES[2:])
    assert results["counts"] == {"train": 20, "val": 20, "test": 20}
    assert (results["chosen_by"], results["classes"]) == ("val", list(CLASSES))
    runs = [run for arm in results["arms"] for run in arm["runs"]]
    assert [run["seed"] for run in runs] == [0, 1] * 3
    assert {(run["steps"], run["images_seen"]) for run in runs} == {(9, 72)}
    assert all(run["replaced"] == 0 for run in arms["real"]["runs"])
    assert all(run["replaced"] > 0 for run in arms["real+higfa"]["runs"])


def test_predictions_agree_with_results_and_checkpoint(done: Context) -> None:
    stage = done.stage_dir("train-downstream")
    dataset = load_dataset(done.recipe.data, done.base, done.recipe.seed)
    for arm in read_json(stage / "results.json")["arms"]:
        for run in arm["runs"]:
            folder = DownstreamFolder(stage).training(arm["name"], run["seed"]).directory
            with (folder / "predictions.csv").open(newline="") as handle:
                rows = list(csv.DictReader(handle))
            assert [row["key"] for row in rows] == [s.key for s in dataset.of("test")]
            hits = [row["true"] == row["predicted"] for row in rows]
            assert run["test_accuracy"] == pytest.approx(sum(hits) / len(hits))
            assert run["test_macro_f1"] == pytest.approx(_macro_f1(rows), abs=1e-6)
            assert (
                load_classifier(folder / "model.safetensors").spec.temperature == run["temperature"]
            )


def _macro_f1(rows: list[dict[str, str]]) -> float:
    scores = []
    for name in CLASSES:
        true = sum(row["true"] == name for row in rows)
        said = sum(row["predicted"] == name for row in rows)
        both = sum(row["true"] == row["predicted"] == name for row in rows)
        scores.append(2 * both / (true + said))  # true is never 0 here
    return sum(scores) / len(scores)


def test_finished_run_is_fresh_and_keeps_its_arms(done: Context, tmp_path: Path) -> None:
    stage = done.stage_dir("train-downstream")
    assert stage_state(stage, downstream_inputs(done)).kind == "fresh"
    assert [arm.name for arm in choose_arms(done)][-1] == "real+diffmix"
    write_class_folders(tmp_path / "more", 1, 0)
    other = downstream_inputs(done, synthetic=[str(tmp_path / "more")])
    state = stage_state(stage, other)
    assert state.kind == "stale"
    assert any("real+diffmix" in reason for reason in state.reasons)


def test_best_model_goes_by_validation(done: Context, tmp_path: Path) -> None:
    def arm(name: str, *pairs: tuple[float, float]) -> ArmResult:
        return ArmResult(
            name=name,
            synthetic=None,
            synthetic_images=0,
            missing_classes=(),
            runs=tuple(
                ArmRun(
                    seed=seed,
                    best_epoch=1,
                    val_accuracy=val,
                    temperature=1.0,
                    replaced=0.0,
                    steps=1,
                    images_seen=8,
                    seconds=1.0,
                    test_accuracy=test,
                    test_macro_f1=test,
                )
                for seed, (val, test) in enumerate(pairs)
            ),
        )

    ctx = replace(done, workspace=tmp_path)
    with pytest.raises(UserError, match="run `higfa train-downstream`"):
        best_model(ctx)
    arms = (arm("real", (0.95, 0.1), (0.1, 0.99)), arm("real+x", (0.6, 0.0), (0.8, 0.0)))
    results = Results(
        arms=arms,
        classes=CLASSES,
        chosen_by="val",
        test="read once",
        counts=SplitCounts(train=1, val=1, test=1),
    )
    stage = ctx.stage_dir("train-downstream")
    write_model(stage / "results.json", results)
    wanted = stage / "arms/real+x/seed-1/model.safetensors"
    with pytest.raises(UserError, match="missing"):
        best_model(ctx)
    wanted.parent.mkdir(parents=True)
    wanted.touch()
    assert best_model(ctx) == wanted


def test_predict_gives_ordered_probabilities_of_the_checkpoint(done: Context) -> None:
    model = best_model(done)
    folder = done.base / "data/test/red disc"
    rows = predict(model, [folder / "0.png", folder / "1.png"], top=9, device="cpu")
    assert [row["image"] for row in rows] == [str(folder / "0.png"), str(folder / "1.png")]
    for row in rows:
        values = [one["probability"] for one in row["top"]]
        assert {one["class"] for one in row["top"]} == set(CLASSES)
        assert values == sorted(values, reverse=True) and sum(values) == pytest.approx(1, abs=1e-5)
    stage = done.stage_dir("train-downstream")
    with (model.parent / "predictions.csv").open(newline="") as handle:
        told = {row["key"]: row for row in csv.DictReader(handle)}["test/red disc/0.png"]
    assert stage in model.parents
    assert rows[0]["top"][0]["class"] == told["predicted"]
    assert rows[0]["top"][0]["probability"] == pytest.approx(float(told["confidence"]), abs=1e-5)
    assert len(predict(model, [folder / "0.png"], top=2, device="cpu")[0]["top"]) == 2
    with pytest.raises(UserError, match=r"none\.png"):
        predict(model, [folder / "none.png"], device="cpu")
    with pytest.raises(UserError, match="at least one"):
        predict(model, [], device="cpu")


def test_export_safetensors_is_the_checkpoint(done: Context, tmp_path: Path) -> None:
    model = best_model(done)
    result = export(model, tmp_path / "out", "safetensors")
    names = sorted(Path(name).name for name in result["files"])
    assert names == ["labels.json", "model.safetensors", "preprocessing.json"]
    assert (tmp_path / "out/model.safetensors").read_bytes() == model.read_bytes()
    assert read_json(tmp_path / "out/labels.json") == list(CLASSES)
    about = read_json(tmp_path / "out/preprocessing.json")
    assert about["image_size"] == SIZE and about["mean"] == [0.5, 0.5, 0.5]


def test_export_onnx_equals_torch(done: Context, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = best_model(done)
    result = export(model, tmp_path, "onnx")
    assert result["largest_difference_from_torch"] <= 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    guide = load_classifier(model)
    for count in (1, 5):
        images = torch.rand(count, 3, SIZE, SIZE)
        (found,) = session.run(["probabilities"], {"images": images.numpy()})
        wanted = guide.logits(images * 2 - 1).softmax(1).detach().numpy()
        assert found.shape == (count, len(CLASSES))
        assert np.allclose(found, wanted, atol=1e-4)
    assert np.ptp(found) > 0


def test_export_errors(done: Context, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        export(best_model(done), tmp_path / "file", "onnx")
    with pytest.raises(UserError, match="unknown"):
        export(best_model(done), tmp_path, "pt")  # type: ignore[arg-type]


def test_no_pictures_is_an_error_that_names_the_command(tmp_path: Path) -> None:
    write_data(tmp_path)
    ctx = context(tmp_path)
    expected = r"`higfa synthesize` first, give --synthetic DIR, or .* with --arm real"
    with pytest.raises(UserError, match=expected):
        downstream_inputs(ctx)
    with pytest.raises(UserError, match="is not a folder"):
        downstream_inputs(ctx, synthetic=["a=nowhere"])
    write_class_folders(tmp_path / "a" / "x", 1, 0)
    write_class_folders(tmp_path / "b" / "x", 1, 0)
    with pytest.raises(UserError, match=r"two arms are called real\+x"):
        downstream_inputs(ctx, synthetic=[str(tmp_path / "a/x"), str(tmp_path / "b/x")])
    with pytest.raises(UserError, match="no such arm; arms are real"):
        downstream_inputs(ctx, arms=["real+y"])
    for name in ("higfa", "real+higfa"):
        with pytest.raises(UserError, match="run `higfa synthesize` first"):
            downstream_inputs(ctx, arms=[name])


def test_folder_whose_name_holds_an_equals_sign(tmp_path: Path) -> None:
    folder = write_class_folders(tmp_path / "a=b", 1, 0)
    names = [arm.name for arm in choose_arms(context(tmp_path), [str(folder), f"c={folder}"])]
    assert names == ["real", "real+a=b", "real+c"]


def test_unknown_class_folder_leaves_nothing_behind(tmp_path: Path) -> None:
    write_data(tmp_path)
    write_class_folders(tmp_path / "new", 1, 0)
    (tmp_path / "new" / "green disc").mkdir()
    ctx = context(tmp_path)
    with pytest.raises(UserError, match="`green disc` is no class"):
        train_downstream.run(ctx, synthetic=[str(tmp_path / "new")])
    assert not ctx.workspace.exists()


def test_without_val_and_test_the_results_say_so(tmp_path: Path) -> None:
    write_data(tmp_path, ("train",))
    ctx = context(tmp_path, seeds=[0], epochs=1)
    train_downstream.run(ctx, arms=["real"])
    stage = ctx.stage_dir("train-downstream")
    results = read_json(stage / "results.json")
    assert results["chosen_by"] == held_out.HELD_OUT
    assert results["counts"] == {"train": 16, "val": 4, "test": 0}
    run = results["arms"][0]["runs"][0]
    assert run["test_accuracy"] is None and run["test_macro_f1"] is None
    assert run["val_accuracy"] is not None and "no test split" in results["test"]
    assert not list(stage.rglob("predictions.csv"))


def test_held_out_part_is_stratified_and_spares_single_photos(tmp_path: Path) -> None:
    write_data(tmp_path, ("train",))
    for number in range(1, 5):
        (tmp_path / "data/train/red disc" / f"{number}.png").unlink()
    dataset = load_dataset(context(tmp_path).recipe.data, tmp_path, 0)
    chosen = held_out.hold_out(dataset, 0)
    assert sorted(s.cls for s in chosen.chooses) == [CLASSES[0], CLASSES[1], CLASSES[3]]
    assert {s.key for s in chosen.train}.isdisjoint(s.key for s in chosen.chooses)
    assert len(chosen.train) + len(chosen.chooses) == len(dataset.of("train"))


@pytest.mark.fault("stop", "training interrupted")
def test_interrupted_run_resumes_and_ends_the_same(tmp_path: Path) -> None:
    write_data(tmp_path)
    ctx = context(tmp_path, epochs=1)
    train_downstream.run(ctx, arms=["real"])
    stage = ctx.stage_dir("train-downstream")
    first = _without_time(stage)
    kept = stage / "arms/real/seed-0/model.safetensors"
    stamp = kept.stat().st_mtime_ns
    record = read_json(stage / "run.json")
    write_json(stage / "run.json", record | {"status": "failed"})
    shutil.rmtree(stage / "arms/real/seed-1")
    train_downstream.run(ctx, arms=["real"])
    assert kept.stat().st_mtime_ns == stamp
    assert _without_time(stage) == first
    state = stage_state(stage, downstream_inputs(ctx, arms=["real"]))
    assert state.kind == "fresh"


def _without_time(stage: Path) -> list[dict[str, Any]]:
    runs = read_json(stage / "results.json")["arms"][0]["runs"]
    return [{key: value for key, value in run.items() if key != "seconds"} for run in runs]


def test_an_arm_that_is_not_drawn_is_named(done: Context) -> None:
    chosen = choose_arms(done)
    assert left_out(done, chosen) == ("text+contour",)
    assert [arm.name for arm in chosen] == ["real", "real+higfa", "real+diffmix"]


def test_arms_of_the_last_run_do_not_vanish(tmp_path: Path) -> None:
    ctx = context(tmp_path)
    record = ctx.ws.downstream.record
    gone = tmp_path / "gone"
    arms = {"real": None, "real+other": str(gone)}
    with stage_run(record.parent, StageInputs({"arms": arms}, {}), ctx.recipe):
        pass
    with pytest.raises(UserError, match=r"real\+other of the last run: .*gone is gone"):
        choose_arms(ctx)
    assert [arm.name for arm in choose_arms(ctx, arms=["real"])] == ["real"]
    gone.mkdir()
    assert [arm.name for arm in choose_arms(ctx)] == ["real", "real+other"]
    record.write_text("{ broken")
    assert [a.name for a in choose_arms(ctx, arms=["real"])] == ["real"]
