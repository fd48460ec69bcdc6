"""The filter: measures and rules by hand, the stage, and what training and report make of it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from higfa_cli.artifacts.artifact import write_rows
from higfa_cli.artifacts.atomic import read_json, read_jsonl, write_bytes
from higfa_cli.artifacts.class_folders import class_dir
from higfa_cli.artifacts.records import FilterCounts, SynthesisCounts
from higfa_cli.artifacts.rows import PICTURE_FAULTS
from higfa_cli.artifacts.run_record import stage_run
from higfa_cli.cli.app import app
from higfa_cli.data.filter_rules import (
    Measured,
    decide,
    rank_of,
    source_correlation,
    source_thumbnail,
    spread,
    thumbnail,
)
from higfa_cli.data.images import encode_png, fit_square, read_image
from higfa_cli.errors import UserError
from higfa_cli.models.backbones import create_backbone
from higfa_cli.models.classifier import ClassifierSpec, load_classifier, save_classifier
from higfa_cli.recipe.classifiers import Filter, Guide
from higfa_cli.recipe.load import load_recipe, override_recipe
from higfa_cli.recipe.strict_yaml import dump_yaml
from higfa_cli.report import wording
from higfa_cli.stages import filter as stage
from higfa_cli.stages import pipeline
from higfa_cli.stages.arms import choose_arms
from higfa_cli.stages.context import Context, make_context
from higfa_cli.stages.inputs import (
    downstream_inputs,
    filter_inputs,
    guide_keys,
    synthesize_inputs,
)
from higfa_cli.training.synthetic import list_synthetic
from tests.support.shapes import CLASSES, SIZE, picture_row, shape, write_class_folders

# --- rules ------------------------------------------------------------------------------------


def picture(**values: Any) -> Measured:
    """A picture that no rule of this file rejects, but for `values`."""
    good = {"source": "a", "replica": 0, "confidence": 0.9, "rank": 1, "duplicate": 0.2, "std": 40}
    return Measured(**{**good, **values})


@pytest.mark.parametrize(
    ("rules", "values", "reasons"),
    [
        ({}, {"confidence": 0.0, "rank": 9, "duplicate": 1.0}, ()),
        ({"confidence": 0.5}, {"confidence": 0.5}, ()),
        ({"confidence": 0.5}, {"confidence": 0.49}, ("confidence",)),
        ({"top_k": 2}, {"rank": 2}, ()),
        ({"top_k": 2}, {"rank": 3}, ("top_k",)),
        ({"duplicate": 0.9}, {"duplicate": 0.89}, ()),
        ({"duplicate": 0.9}, {"duplicate": 0.9}, ("duplicate",)),
        ({"constant": 2.0}, {"std": 2.0}, ()),
        ({"constant": 2.0}, {"std": 1.99}, ("constant",)),
        ({"constant": 0.0}, {"std": 0.0}, ()),
        (
            {"confidence": 0.5, "top_k": 1, "duplicate": 0.9, "best_of": 3},
            {"confidence": 0.1, "rank": 4, "duplicate": 0.95, "std": 0.5},
            ("confidence", "top_k", "duplicate", "constant"),
        ),
    ],
)
def test_a_rule_alone(
    rules: dict[str, Any], values: dict[str, Any], reasons: tuple[str, ...]
) -> None:
    assert decide([picture(**values)], Filter(**rules)) == [reasons]


def test_best_of_goes_by_replica_and_by_photo() -> None:
    pictures = [
        picture(source="b", replica=1, confidence=0.3),
        picture(source="a", replica=3, confidence=0.8),
        picture(source="a", replica=0, confidence=0.6),
        picture(source="a", replica=1, confidence=0.7),
        picture(source="a", replica=2, confidence=0.8),
        picture(source="a", replica=4, confidence=0.1),
    ]
    # Of a: 0 and 1, then 2 and 3 (equally sure: the first), then 4 alone. Of b: 1 alone.
    lost = decide(pictures, Filter(best_of=2))
    assert lost == [(), ("best_of",), ("best_of",), (), (), ()]
    # Of a: 0, 1, 2, then 3 and 4.
    lost = decide(pictures, Filter(best_of=3))
    assert lost == [(), (), ("best_of",), ("best_of",), (), ("best_of",)]


def test_best_of_chooses_among_those_that_pass_the_other_rules() -> None:
    pictures = [
        picture(replica=0, confidence=0.99, duplicate=0.97),
        picture(replica=1, confidence=0.6),
        picture(replica=2, confidence=0.7),
        picture(replica=3, confidence=0.2),
    ]
    found = decide(pictures, Filter(best_of=4, duplicate=0.9, confidence=0.5))
    assert found == [("duplicate",), ("best_of",), (), ("confidence",)]


def test_rules_that_need_the_guide() -> None:
    assert guide_keys(Filter(duplicate=0.9, constant=9)) == ()
    everything = Filter(confidence=0.1, top_k=3, best_of=2)
    assert guide_keys(everything) == ("filter.confidence", "filter.top_k", "filter.best_of")
    blind = [picture(confidence=None, rank=None, replica=i) for i in range(2)]
    assert decide(blind, Filter()) == [(), ()]
    for rules in ({"confidence": 0.1}, {"top_k": 3}, {"best_of": 2}):
        with pytest.raises(ValueError, match="not measured"):
            decide(blind, Filter(**rules))


# --- measures ---------------------------------------------------------------------------------


def test_rank_by_hand() -> None:
    probabilities = np.array([0.1, 0.4, 0.4, 0.1])
    assert [rank_of(probabilities, index) for index in range(4)] == [3, 1, 1, 3]


def test_spread_by_hand() -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[..., 0] = 255
    assert spread(picture) == 0.0  # one colour, whichever it is
    picture[:2, :, 0] = 245  # 5 either way in one channel of three: sqrt(25 / 3)
    assert spread(picture) == pytest.approx(5 / 3**0.5, abs=1e-6)
    grey = np.repeat(np.array([[0, 20]], np.uint8)[..., None], 3, axis=2)
    assert spread(grey) == 10.0


def test_correlation_by_hand() -> None:
    one, other = np.array([[1, 2, 3]], np.uint8), np.array([[1, 3, 2]], np.uint8)
    assert source_correlation(one, other) == 0.5  # deviations -1 0 1 and -1 1 0: 1 / sqrt(2 * 2)
    assert source_correlation(one, one) == 1.0
    assert source_correlation(one, np.array([[3, 2, 1]], np.uint8)) == 1.0  # mirrored
    dip, hill = np.array([[3, 1, 3]], np.uint8), np.array([[1, 3, 1]], np.uint8)
    assert source_correlation(dip, hill) == -1.0
    flat = np.full((1, 3), 7, np.uint8)
    assert source_correlation(flat, one) == source_correlation(one, flat) == 0.0
    assert source_correlation(flat, flat) == 0.0


def test_thumbnails_are_grey_antialiased_and_keep_the_aspect() -> None:
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[::2] = 255
    found = thumbnail(stripes)
    assert found.shape == (32, 32) and found.dtype == np.uint8
    assert np.abs(found[2:-2].astype(int) - 127).max() <= 2  # no moiré
    green = np.zeros((64, 64, 3), np.uint8)
    green[..., 1] = 100
    assert (thumbnail(green) == 59).all()  # Rec. 601 luma: 0.587
    photo = np.random.default_rng(0).integers(0, 255, (50, 80, 3)).astype(np.uint8)
    assert (source_thumbnail(photo, 64) == thumbnail(fit_square(photo, 64))).all()


# --- the stage --------------------------------------------------------------------------------

REPLICAS = 4
# The pictures of each first photo, replica by replica: an exact copy of it, its mirror image, one
# colour, another picture of the class. Second photos have other pictures only.
COPY, MIRRORED, ONE_COLOUR, OTHER = range(4)


def drawn(photo: np.ndarray, replica: int, label: int, rng: np.random.Generator) -> np.ndarray:
    made = {
        COPY: photo,
        MIRRORED: photo[:, ::-1],
        ONE_COLOUR: np.full_like(photo, (200, 30, 60)),
        OTHER: shape(label, rng),
    }
    return np.ascontiguousarray(made[replica])


def write_drawn(ctx: Context) -> None:
    """A finished `synthesize` with real contours before it: its pictures are made here."""
    inputs = synthesize_inputs(ctx.arm("higfa"))
    rng = np.random.default_rng(5)
    rows = []
    with stage_run(ctx.ws.arm("higfa").synthesize.directory, inputs, ctx.recipe) as run:
        images = run.directory / "images"
        for label, cls in enumerate(CLASSES):
            for number in range(2):
                source = f"train/{class_dir(cls)}/{number}.png"
                photo = fit_square(read_image(ctx.base / "photos" / source), SIZE)
                for replica in range(REPLICAS):
                    kind = OTHER if number else replica
                    name = f"{class_dir(cls)}/{number}-{replica}.png"
                    write_bytes(images / name, encode_png(drawn(photo, kind, label, rng)))
                    run.output(images / name)
                    rows.append(
                        picture_row(
                            file_name=name,
                            id=f"{label}-{number}-{replica}",
                            cls=cls,
                            class_id=label,
                            source=source,
                            replica=replica,
                        )
                    )
        write_rows(images / "metadata.jsonl", rows)
        run.output(images / "metadata.jsonl")
        run.counts = SynthesisCounts(
            images=len(rows),
            failed=0,
            failures={},
            smallest_batch=1,
            drawn_now=len(rows),
            seconds=1.0,
            seconds_per_image=1.0,
            denoiser_evaluations_per_image=1,
            guide_evaluations_per_image=1,
            batch_size=1,
            dtype="float32",
            peak_device_memory=None,
        )


def write_guide(ctx: Context, classes: tuple[str, ...] = CLASSES) -> None:
    """An untrained guide: what it says is arbitrary, but always the same."""
    settings = Guide(backbone="test_resnet", pretrained=False, image_size=SIZE)
    backbone = create_backbone(settings, len(classes), ctx.base, 0, "guide")
    # Spread out: an untrained head is too undecided to tell pictures apart.
    spec = ClassifierSpec(backbone.name, classes, SIZE, backbone.mean, backbone.std, 0.02)
    folder = ctx.stage_dir("finetune-guide")
    save_classifier(folder / "guide.safetensors", backbone.network, spec, {})


@pytest.fixture(scope="module")
def synthesized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose contours are real and whose pictures are made in code; the guide is off."""
    base = tmp_path_factory.mktemp("filter")
    write_class_folders(base / "photos/train", 2, 0)
    for split, seed in (("val", 1), ("test", 2)):
        write_class_folders(base / "photos" / split, 1, seed)
    classifier = {"backbone": "test_resnet", "pretrained": False, "image_size": SIZE}
    tree = {
        "name": "tiny",
        "data": {"root": "photos"},
        "contours": {"per_image": REPLICAS, "extractor": "soft"},
        "size": SIZE,
        "model": {"base": "some/model", "controlnet": "some/controlnet"},
        "guidance": {"classifier": {"switch": 1.0}},
        "pictures": {"gallery": 0},
        "arms": {"higfa": {}},
        "run": {"device": "cpu"},
        "downstream": {**classifier, "epochs": 1, "batch_size": 8, "seeds": [0]},
    }
    (base / "tiny.yaml").write_text(dump_yaml(tree), encoding="utf-8")
    ctx = make_context(load_recipe(str(base / "tiny.yaml")), base / "run")
    pipeline.step(ctx, "contours")
    write_drawn(ctx)
    return base


@pytest.fixture
def ctx(synthesized: Path, tmp_path: Path) -> Context:
    """A copy of the project with nothing filtered yet."""
    base = tmp_path / "project"
    shutil.copytree(synthesized, base)
    return make_context(load_recipe(str(base / "tiny.yaml")), base / "run")


def changed(ctx: Context, **values: Any) -> Context:
    keys = {f"filter.{key}": value for key, value in values.items()}
    return replace(ctx, recipe=override_recipe(ctx.recipe, keys))


def rows_of(ctx: Context) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in read_jsonl(ctx.workspace / "filter/higfa/selection.jsonl")}


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


# --- errors -----------------------------------------------------------------------------------


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


# --- what training and report make of it ------------------------------------------------------


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


def test_sentences_by_hand() -> None:
    none = dict.fromkeys(PICTURE_FAULTS, 0)
    counts = FilterCounts(pictures=2400, kept=2400, rejected=none, kept_by_class={})
    assert wording.sentences("filter", counts=counts) == [
        "The filter kept all 2,400 drawn pictures."
    ]
    rejected = none | {"confidence": 3, "top_k": 1}
    counts = FilterCounts(pictures=9, kept=6, rejected=rejected, kept_by_class={})
    assert wording.sentences("filter", counts=counts) == [
        "The filter kept 6 of 9 drawn pictures and left 3 out of training (some for more than one "
        "reason): 3 below the guide's confidence, 1 not among the guide's first choices."
    ]
    assert set(wording.REJECTED) == set(PICTURE_FAULTS)
    assert wording.filter_rules(Filter(constant=0)) == "none"
    assert wording.filter_rules(Filter(best_of=4, top_k=2)) == (
        "among the guide's first 2, best of 4, standard deviation ≥ 2"
    )
