"""The guide classifier: backbones, checkpoints, preprocessing, and the finetune-guide stage."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from higfa_cli.artifacts.atomic import read_json, read_jsonl
from higfa_cli.artifacts.results import Calibration
from higfa_cli.artifacts.stage_state import stage_state
from higfa_cli.data.dataset import load_dataset
from higfa_cli.errors import UserError
from higfa_cli.method.protocols import Level
from higfa_cli.models.backbones import create_backbone
from higfa_cli.models.classifier import (
    Classifier,
    ClassifierSpec,
    check_classes,
    from_bytes,
    load_classifier,
    network_input,
    save_classifier,
    to_bytes,
)
from higfa_cli.recipe.classifiers import Training
from higfa_cli.recipe.load import override_recipe
from higfa_cli.recipe.schema import Recipe
from higfa_cli.stages import finetune_guide
from higfa_cli.stages.context import Context, Silent
from higfa_cli.stages.guide_pool import pool_jobs, read_photos, render
from higfa_cli.stages.inputs import guide_inputs
from higfa_cli.training.calibration import ENOUGH_PHOTOS, HeldOut, calibrate
from higfa_cli.training.trainer import predict_logits
from tests.support.recipes import load_model
from tests.support.shapes import CLASSES, SIZE, pictures, write_class_folders
from tests.support.tiny import make_model

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
CPU = torch.device("cpu")


def spec(**changes: Any) -> ClassifierSpec:
    values: dict[str, Any] = {
        "backbone": "test_resnet",
        "classes": CLASSES,
        "image_size": SIZE,
        "mean": MEAN,
        "std": STD,
        "temperature": 1.5,
    }
    return ClassifierSpec(**(values | changes))


def training(**changes: Any) -> Training:
    values: dict[str, Any] = {
        "backbone": "test_resnet",
        "pretrained": False,
        "image_size": SIZE,
    }
    return Training(**(values | changes))


@pytest.fixture(scope="module")
def guide() -> Classifier:
    backbone = create_backbone(training(), len(CLASSES), Path(), seed=0)
    generator = torch.Generator().manual_seed(0)
    # Not the initial 0 and 1: a forgotten statistic would otherwise not show.
    for name, buffer in backbone.network.named_buffers():
        if buffer.is_floating_point():
            shift = torch.rand(buffer.shape, generator=generator)
            buffer.copy_(shift + (0.5 if "var" in name else 0.0))
    return Classifier(backbone.network, spec())


def images(count: int, size: int = SIZE, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_training_and_guiding_see_the_same_network_input(guide: Classifier) -> None:
    picture = pictures(1, 0).images[:1]
    seen: list[torch.Tensor] = []
    hook = guide.network.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    backbone = replace(create_backbone(training(), 4, Path(), 0), network=guide.network)
    predict_logits(
        replace(backbone, mean=MEAN, std=STD), pictures(1, 0).select(torch.arange(1)), CPU
    )
    guide.logits(picture.to(torch.float32) / 255 * 2 - 1)
    hook.remove()
    by_hand = (picture / 255.0 - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(
        1, 3, 1, 1
    )
    for one in seen:
        assert torch.allclose(one, by_hand, atol=1e-5)
    assert len(seen) == 2


def test_bytes_round_trip() -> None:
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(to_bytes(from_bytes(every)), every)
    assert to_bytes(torch.tensor([-1.7, 2.0])).tolist() == [0, 255]


def test_logits_are_divided_by_the_temperature(guide: Classifier) -> None:
    ready = network_input(images(2), SIZE, MEAN, STD)
    assert torch.allclose(guide.logits(images(2)), guide.network(ready) / 1.5)


@pytest.mark.parametrize("size", [SIZE, 48, 20])
def test_gradient_reaches_the_picture_and_is_right(guide: Classifier, size: int) -> None:
    """Against a central difference, in float64 so that the difference is sharp."""
    exact = Classifier(load_copy(guide), guide.spec)
    exact.network.double()

    def log_p(batch: torch.Tensor) -> torch.Tensor:
        ready = network_input(batch, SIZE, MEAN, STD)
        return (exact.network(ready) / 1.5).log_softmax(1)[:, 1].sum()

    x = images(2, size).double().requires_grad_(True)
    before = x.detach().clone()
    log_p(x).backward()
    assert x.grad is not None and torch.equal(x.detach(), before)
    direction = images(2, size, seed=9).double()
    with torch.no_grad():
        slope = (log_p(x + 1e-6 * direction) - log_p(x - 1e-6 * direction)) / 2e-6
    assert float((x.grad * direction).sum()) == pytest.approx(float(slope), rel=1e-4)


def load_copy(guide: Classifier) -> torch.nn.Module:
    network = create_backbone(training(), len(CLASSES), Path(), seed=1).network
    network.load_state_dict(guide.network.state_dict())
    return network


def test_pictures_of_a_batch_do_not_see_each_other_even_in_train_mode(guide: Classifier) -> None:
    guide.train()
    batch = images(4)
    alone = torch.cat([guide.logits(one[None]) for one in batch])
    assert torch.allclose(guide.logits(batch), alone, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in guide.parameters())


def test_pictures_must_be_square(guide: Classifier) -> None:
    with pytest.raises(ValueError, match="square"):
        guide.logits(torch.zeros(1, 3, 32, 48))


def test_checkpoint_round_trip_and_equal_bytes(guide: Classifier, tmp_path: Path) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for path in (first, second):
        save_classifier(path, guide.network, guide.spec, {"stage": "test"})
    assert first.read_bytes() == second.read_bytes()
    state = torch.get_rng_state()
    again = load_classifier(first)
    assert torch.equal(torch.get_rng_state(), state)
    assert again.spec == guide.spec
    assert torch.equal(again.logits(images(3)), guide.logits(images(3)))


class _Touch:
    """A pickle that creates a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("name", ["m.pt", "m.pth", "m.bin", "m.ckpt", "m.safetensors"])
def test_pickles_are_refused_untouched(tmp_path: Path, name: str) -> None:
    bomb, touched = tmp_path / name, tmp_path / "touched"
    bomb.write_bytes(pickle.dumps(_Touch(touched)))
    with pytest.raises(UserError, match="safetensors"):
        load_classifier(bomb)
    with pytest.raises(UserError, match="safetensors"):
        create_backbone(training(weights=name), 4, tmp_path, 0)
    assert not touched.exists()
    pickle.loads(bomb.read_bytes())  # the bomb is live, or the test would prove nothing
    assert touched.exists()


def test_broken_and_foreign_checkpoints(guide: Classifier, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    with pytest.raises(UserError, match="does not exist"):
        load_classifier(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="no sound higfa metadata"):
        load_classifier(path)
    save_classifier(path, guide.network, spec(classes=CLASSES[:3]))
    with pytest.raises(UserError, match="does not fit the network"):
        load_classifier(path)
    with pytest.raises(ValidationError, match="greater than 0"):
        spec(temperature=0.0)
    save_classifier(path, guide.network, guide.spec)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match="not a readable safetensors"):
        load_classifier(path)


def test_classes_must_agree(guide: Classifier) -> None:
    check_classes(guide, CLASSES)
    with pytest.raises(UserError, match=r"does not know green disc.*lack its red, square"):
        check_classes(guide, (*CLASSES[:3], "green disc"))
    with pytest.raises(UserError, match="order differs"):
        check_classes(guide, CLASSES[::-1])


def test_unknown_backbone_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"downstream\.backbone.*`resnet18x`.*resnet18"):
        create_backbone(training(backbone="resnet18x"), 4, Path(), 0, "downstream")


def test_unreachable_hub_names_model_and_remedies(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"(?s)resnet18.*guide\.weights.*pretrained: false"):
        create_backbone(training(backbone="resnet18", pretrained=True), 4, tmp_path, 0)


def test_weights_file_is_loaded_strictly_except_the_head(tmp_path: Path) -> None:
    source = create_backbone(training(), 7, tmp_path, seed=1).network.state_dict()
    save_file(source, tmp_path / "body.safetensors")
    made = create_backbone(training(weights="body.safetensors", pretrained=True), 4, tmp_path, 0)
    state = made.network.state_dict()
    assert set(made.skipped) == {"fc.weight", "fc.bias"}
    assert all(torch.equal(state[n], source[n]) for n in source if not n.startswith("fc."))
    assert state["fc.weight"].shape[0] == 4
    missing = {name: value for name, value in source.items() if name != "conv1.0.weight"}
    save_file(missing, tmp_path / "less.safetensors")
    with pytest.raises(UserError, match=r"Missing key.*conv1\.0\.weight"):
        create_backbone(training(weights="less.safetensors"), 4, tmp_path, 0)
    save_file(source | {"other": torch.zeros(1)}, tmp_path / "more.safetensors")
    with pytest.raises(UserError, match=r"Unexpected key\(s\).*other"):
        create_backbone(training(weights="more.safetensors"), 4, tmp_path, 0)


def test_weights_of_others_bring_the_normalisation_that_timm_knows(tmp_path: Path) -> None:
    plain = create_backbone(training(backbone="resnet10t"), 4, tmp_path, seed=1)
    assert (plain.mean, plain.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    save_file(plain.network.state_dict(), tmp_path / "w.safetensors")
    made = create_backbone(training(backbone="resnet10t", weights="w.safetensors"), 4, tmp_path, 0)
    assert (made.mean, made.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_weights_of_an_own_checkpoint_bring_their_normalisation(
    guide: Classifier, tmp_path: Path
) -> None:
    save_classifier(tmp_path / "g.safetensors", guide.network, guide.spec)
    made = create_backbone(training(weights="g.safetensors"), 9, tmp_path, 0)
    assert (made.mean, made.std) == (MEAN, STD)


def test_transformers_are_built_at_the_recipe_size() -> None:
    made = create_backbone(training(backbone="test_vit", image_size=64), 4, Path(), 0)
    assert made.network(torch.zeros(1, 3, 64, 64)).shape == (1, 4)
    with pytest.raises(UserError, match="image_size"):
        create_backbone(training(backbone="test_vit", image_size=8), 4, Path(), 0)


@pytest.fixture(scope="module")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_model(tmp_path_factory.mktemp("model"))


def context(tmp_path: Path, folders: tuple[Path, Path], with_val: bool, **guide: Any) -> Context:
    write_class_folders(tmp_path / "data/train", 6, 0)
    if with_val:
        write_class_folders(tmp_path / "data/val", 3, 1)
    recipe = Recipe.model_validate(
        {
            "name": "tiny",
            "data": {"root": "data"},
            "guide": {
                "backbone": "test_resnet",
                "pretrained": False,
                "image_size": 24,
                "epochs": 2,
                "batch_size": 8,
                "noised_per_image": 2,
                "folds": 2,
                **guide,
            },
            "size": SIZE,
            "model": {"base": str(folders[0]), "controlnet": str(folders[1])},
            "sampling": {"steps": 8},
            "run": {"device": "cpu", "batch_size": 5},
            "guidance": {"classifier": {"switch": 0.5}},
        }
    )
    return Context(recipe=recipe, base=tmp_path, workspace=tmp_path / "run", progress=Silent())


def test_finetune_guide_with_validation(tmp_path: Path, model_folders: tuple[Path, Path]) -> None:
    ctx = context(tmp_path, model_folders, with_val=True)
    summary = finetune_guide.run(ctx)
    folder = ctx.stage_dir("finetune-guide")
    guide = load_classifier(folder / "guide.safetensors")
    calibration = read_json(folder / "calibration.json")
    assert guide.spec.classes == CLASSES and guide.spec.image_size == 24
    assert guide.spec.temperature == calibration["temperature"] == summary["temperature"]
    assert calibration["source"] == "val"
    assert [row["progress"] for row in calibration["levels"]] == [0.5, 0.625, 0.75, 0.875]
    sigmas = [row["sigma"] for row in calibration["levels"]]
    assert sigmas == sorted(sigmas, reverse=True)
    # Every one of the 12 validation photos at each of the 4 levels.
    assert [row["count"] for row in calibration["levels"]] == [12] * 4
    assert calibration["overall"]["count"] == 48
    assert calibration["clean"]["count"] == calibration["reconstructed"]["count"] == 12
    history = read_jsonl(folder / "history.jsonl")
    assert [row["epoch"] for row in history] == [1, 2]
    assert all(row["replaced"] == 0.5 for row in history)
    assert summary["noised"] == 24 * 3  # 2 noised and 1 reconstructed per photo
    assert stage_state(folder, guide_inputs(ctx)).kind == "fresh"


def test_finetune_guide_without_validation_cross_validates(
    tmp_path: Path, model_folders: tuple[Path, Path]
) -> None:
    ctx = context(tmp_path, model_folders, with_val=False)
    finetune_guide.run(ctx)
    folder = ctx.stage_dir("finetune-guide")
    calibration = read_json(folder / "calibration.json")
    assert calibration["source"] == "cross-validation"
    assert sum(row["count"] for row in calibration["levels"]) == 24 * 2
    assert calibration["clean"]["count"] == 24
    runs = [row["run"] for row in read_jsonl(folder / "history.jsonl")]
    assert runs == ["fold-0"] * 2 + ["fold-1"] * 2 + ["guide"] * 2
    first = (folder / "guide.safetensors").read_bytes()
    finetune_guide.run(ctx)
    assert (folder / "guide.safetensors").read_bytes() == first


def test_finetune_guide_inputs_name_what_changed(
    tmp_path: Path, model_folders: tuple[Path, Path]
) -> None:
    ctx = context(tmp_path, model_folders, with_val=True)
    before = guide_inputs(ctx)
    assert {"data/train", "data/val", "model.base"} <= before.files.keys()
    write_class_folders(tmp_path / "data/train", 6, seed=5)
    # a context lists its photos once
    after = guide_inputs(replace(ctx))
    changed = {name for name in before.files if before.files[name] != after.files[name]}
    assert changed == {"data/train"}


@pytest.mark.parametrize(
    ("key", "value", "stale"),
    [
        ("model.tiling", True, True),
        ("model.dtype", "bfloat16", True),
        ("sampling.conditioning_scale", 0.5, True),
        ("size", 64, True),
        ("contours.blur", 2.0, True),
        ("prompts.templates", ["the {words}"], True),
        ("guidance.classifier.switch", 0.7, True),
        ("guidance.classifier.scale", 3.0, False),
        ("prompts.negative", "blur", False),
        ("contours.per_image", 3, False),
        ("pictures.per_contour", 3, False),
        ("run.batch_size", 3, False),
        ("run.memory.slicing", True, False),
    ],
)
def test_the_guide_depends_on_what_its_pictures_show(
    tmp_path: Path, model_folders: tuple[Path, Path], key: str, value: object, stale: bool
) -> None:
    ctx = context(tmp_path, model_folders, with_val=True)
    other = replace(ctx, recipe=override_recipe(ctx.recipe, {key: value}))
    assert (guide_inputs(other).key != guide_inputs(ctx).key) == stale


def test_guide_that_never_guides_is_calibrated_on_reconstructions(
    tmp_path: Path, model_folders: tuple[Path, Path]
) -> None:
    ctx = context(tmp_path, model_folders, with_val=True, epochs=1)
    values = ctx.recipe.model_dump(mode="json")
    values["guidance"]["classifier"]["switch"] = 1.0
    ctx = replace(ctx, recipe=Recipe.model_validate(values))
    finetune_guide.run(ctx)
    calibration = read_json(ctx.stage_dir("finetune-guide") / "calibration.json")
    assert calibration["levels"] == []
    assert calibration["overall"] == calibration["reconstructed"]


def test_bad_guide_settings_leave_no_folder(
    tmp_path: Path, model_folders: tuple[Path, Path]
) -> None:
    ctx = context(tmp_path, model_folders, with_val=True, backbone="resnet_18")
    with pytest.raises(UserError, match="resnet18"):
        finetune_guide.run(ctx)
    assert not ctx.stage_dir("finetune-guide").exists()


def test_noised_pictures_do_not_depend_on_their_batch(
    tmp_path: Path, model_folders: tuple[Path, Path]
) -> None:
    ctx = context(tmp_path, model_folders, with_val=False)
    recipe = ctx.recipe
    dataset = load_dataset(recipe.data, tmp_path, 0)
    photos = read_photos(dataset.of("train"), dataset, recipe, tmp_path, Silent())
    model = load_model(recipe, ["", *photos.prompts], tmp_path)
    levels = finetune_guide.guided_levels(ctx, model)
    jobs = pool_jobs(photos, levels, 2, recipe.seed)
    assert len(jobs) == 24 * 3 and {level for _, level in jobs} == {None, *levels}
    per_photo = [{level for one, level in jobs if one == row} for row in range(24)]
    assert all(len(found) == 3 for found in per_photo)  # None and two different levels
    together = render(model, photos, jobs, recipe.seed, 16, Silent(), "all").images
    some = jobs[1::7]
    alone = render(model, photos, some, recipe.seed, 16, Silent(), "some").images
    difference = (together[1::7].int() - alone.int()).abs().max()
    assert int(difference) <= 1
    assert render(model, photos, jobs, recipe.seed, 16, Silent(), "all").labels.tolist() == [
        photos.samples[row].class_id for row, _ in jobs
    ]


def test_calibration_by_hand() -> None:
    """Two levels of two pictures, all at logit gap 2, three right: T = 2 / ln 3 for all."""
    high, low = Level(0, 0.5, 500, 0.6, 0.8), Level(1, 0.75, 250, 0.8, 0.6)
    held = HeldOut(
        logits=torch.tensor([[2.0, 0.0]] * 4 + [[9.0, 0.0]]),
        labels=torch.tensor([0, 0, 0, 1, 1]),
        levels=(high, low, low, high, None),
        clean_logits=torch.tensor([[1.0, 0.0]] * ENOUGH_PHOTOS),
        clean_labels=torch.tensor([0] * ENOUGH_PHOTOS),
    )
    found = calibrate(held, (high, low), "val")
    assert found.fitted is None and found.temperature == pytest.approx(2 / 1.0986123, rel=1e-6)
    assert [level.accuracy for level in found.levels] == [0.5, 1.0]
    assert [level.ece_after for level in found.levels] == pytest.approx([0.25, 0.25], abs=1e-5)
    assert found.reconstructed.accuracy == 0.0
    assert Calibration.model_validate(json.loads(json.dumps(found.plain()))) == found
    few = replace(held, clean_logits=held.clean_logits[:25], clean_labels=held.clean_labels[:25])
    drawn = calibrate(few, (high, low), "val")
    assert (drawn.fitted, drawn.temperature) == (found.temperature, found.temperature**0.25)


def test_metadata_holds_what_a_reader_needs(guide: Classifier, tmp_path: Path) -> None:
    from safetensors import safe_open

    path = tmp_path / "g.safetensors"
    save_classifier(path, guide.network, guide.spec, {"stage": "finetune-guide"})
    with safe_open(path, framework="pt") as handle:
        about = json.loads(handle.metadata()["higfa"])
    assert about["classes"] == list(CLASSES) and about["temperature"] == 1.5
    assert about["mean"] == list(MEAN) and about["image_size"] == SIZE
    assert about["version"] and about["extra"] == {"stage": "finetune-guide"}
    assert load_file(path).keys() == guide.network.state_dict().keys()
