"""Models as people have them: recognised, named, and with a remedy that works."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest

from higfa_cli.data.layouts.common import Split
from higfa_cli.errors import UserError
from higfa_cli.forecast.doctor import _dtype
from higfa_cli.forecast.findings import Findings
from higfa_cli.forecast.model_files import FOLDER, missing_files
from higfa_cli.init import project
from higfa_cli.models.architecture import check_model
from higfa_cli.models.machine import Device
from higfa_cli.models.text import unread_placeholders
from higfa_cli.recipe.drawing import Model
from higfa_cli.recipe.keys import recipe_keys
from higfa_cli.recipe.load import load_recipe
from higfa_cli.recipe.refs import resolve_ref
from higfa_cli.recipe.schema import Recipe
from higfa_cli.stages.context import make_context
from higfa_cli.stages.recipe_checks import check_room
from tests.support.people_models import OF_BASE, OF_CONTROLNET
from tests.support.photo_project import higfa
from tests.support.recipes import drawing_recipe
from tests.support.shapes import write_class_folders


def tokenizer(*words: str) -> SimpleNamespace:
    return SimpleNamespace(get_vocab=lambda: dict.fromkeys(words, 0))


@pytest.mark.fault(
    "models",
    "a prompt names an embedding, a LoRA or a weight that the model does not know",
    "doctor and the stage say that its letters are read, and what to do",
)
@pytest.mark.parametrize(
    ("prompt", "unread"),
    [
        ("a photo of a <wren>", ["<wren>"]),
        ("a <tit> and a <wren>", ["<tit>"]),
        ("a bird <lora:feathers:0.8>", ["<lora:feathers:0.8>"]),
        ("a (red:1.3) bird", ["(red:1.3)"]),
        ("embedding:easynegative, blur", ["embedding:easynegative"]),
        ("a photo of a [V] bird", ["[V]"]),
        ("a bird in 4 < 5 (really: yes)", []),
        ("a photo of a great tit", []),
    ],
)
def test_placeholders_that_are_no_tokens(prompt: str, unread: list[str]) -> None:
    expected = [word for word in unread if "wren" not in word]
    assert unread_placeholders([tokenizer("<wren>")], [prompt]) == expected
    assert set(unread) <= set(unread_placeholders([tokenizer("<wren>"), tokenizer()], [prompt]))


@pytest.mark.fault(
    "models",
    "a recipe names a single file, an adapter, an embedding, a training's checkpoint, a part",
    "one line says what it is and how a whole folder is made of it",
)
@pytest.mark.parametrize("kind", OF_BASE)
def test_what_is_in_the_place_of_a_model(tmp_path: Path, kind: str) -> None:
    check_said(tmp_path, "base", *OF_BASE[kind])


@pytest.mark.parametrize("kind", OF_CONTROLNET)
def test_what_is_in_the_place_of_a_controlnet(tmp_path: Path, kind: str) -> None:
    check_said(tmp_path, "controlnet", *OF_CONTROLNET[kind])


def check_said(
    folder: Path, key: str, make: Callable[[Path], Path], words: tuple[str, ...]
) -> None:
    """The stages' check and doctor's list say the same."""
    place = str(make(folder))
    refs = {"base": "pocket:sd", "controlnet": "pocket:controlnet", key: place}
    with pytest.raises(UserError) as caught:
        check_model(drawing_recipe(refs["base"], refs["controlnet"]), folder)
    assert str(caught.value).startswith(f"model.{key} `{place}` is ")
    (lost,) = [lost for lost in missing_files(Model(**refs), folder) if lost.key == f"model.{key}"]
    assert lost.file == FOLDER
    for word in words:
        assert word in str(caught.value), str(caught.value)
        assert word in lost.remedy, lost.remedy


def test_a_whole_model_is_none_of_them(tmp_path: Path) -> None:
    check_model(drawing_recipe("pocket:sd", "pocket:controlnet"), tmp_path)
    with pytest.raises(UserError, match=r"here without fp16 files; leave model\.variant out"):
        check_model(drawing_recipe("pocket:sd", "pocket:controlnet", variant="fp16"), tmp_path)


def changed_pocket(folder: Path, file: str, **changes: object) -> Path:
    """The pocket's model with some keys of one configuration changed."""
    place = resolve_ref("pocket:sd", folder)
    assert isinstance(place, Path)
    shutil.copytree(place, folder / "sd")
    path = folder / "sd" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder / "sd"


@pytest.mark.fault(
    "models",
    "a model for inpainting, upscaling, depth or instructions",
    "one line in doctor, in the dry run and in the stage",
)
@pytest.mark.parametrize("channels", [9, 8, 7, 5])
def test_models_that_read_more_than_noise(tmp_path: Path, channels: int) -> None:
    model = changed_pocket(tmp_path, "unet/config.json", in_channels=channels)
    with pytest.raises(UserError, match="use a text-to-image model"):
        check_model(drawing_recipe(model, "pocket:controlnet"), tmp_path)


@pytest.mark.fault(
    "costly",
    "a scheduler whose first step gives infinity",
    "refused by doctor, the dry run and the first second of a run",
)
def test_zero_signal_needs_v(tmp_path: Path) -> None:
    file = "scheduler/scheduler_config.json"
    model = changed_pocket(tmp_path, file, rescale_betas_zero_snr=True, prediction_type="epsilon")
    recipe = drawing_recipe(model, "pocket:controlnet")
    with pytest.raises(UserError, match="ratio of zero, which needs a model that predicts v"):
        check_model(recipe, tmp_path)
    config = json.loads((model / file).read_text())
    (model / file).write_text(json.dumps(config | {"prediction_type": "v_prediction"}))
    check_model(recipe, tmp_path)


@pytest.mark.parametrize("dry", [["--dry-run"], []])
def test_a_run_ends_before_its_first_stage(tmp_path: Path, dry: list[str]) -> None:
    model = changed_pocket(
        tmp_path,
        "scheduler/scheduler_config.json",
        rescale_betas_zero_snr=True,
        prediction_type="epsilon",
    )
    words = ["run", "pocket", "--set", f"model.base={model}", "--workspace", str(tmp_path / "w")]
    said = higfa(*words, *dry, exit_code=1)
    assert "signal-to-noise ratio of zero" in said.stderr and not (tmp_path / "w").exists()


@pytest.mark.fault(
    "models",
    "a classifier's name as the hub has it, or with a tag that timm has not",
    "one line with timm's own name, or with the tags that exist",
)
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hf-hub:timm/resnet18.a1_in1k", "write timm's name, resnet18.a1_in1k"),
        ("hf_hub:timm/resnet18.a1_in1k", "write timm's name, resnet18.a1_in1k"),
        ("timm/resnet18.a1_in1k", "write timm's name, resnet18.a1_in1k"),
        ("https://huggingface.co/timm/resnet18", "write timm's name, resnet18"),
        ("resnet18.old_tag", "followed by .a1_in1k or .a2_in1k"),
        ("resnet18.A1_in1k", "followed by .a1_in1k or .a2_in1k"),
        ("renset18", "did you mean `resnet18"),
    ],
)
def test_names_of_classifiers(name: str, said: str) -> None:
    from higfa_cli.models.backbones import check_name

    check_name("resnet18")
    check_name("resnet18.a1_in1k")
    with pytest.raises(UserError) as caught:
        check_name(name)
    assert said in str(caught.value)


@pytest.mark.fault(
    "models",
    "a classifier's weights are of another input size, or a wrapper's prefix is before every name",
    "tables of positions are resampled as timm does, prefixes dropped; the rest is the file's",
)
@pytest.mark.parametrize(
    ("backbone", "sizes"),
    [
        ("test_vit", (64, 32)),
        ("test_vit2", (32, 64)),
        ("test_vit3", (64, 32)),
        ("test_vit_relpos", (64, 32)),
        ("test_resnet", (64, 32)),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod.", "model."])
def test_weights_as_people_have_them(
    tmp_path: Path, backbone: str, sizes: tuple[int, int], prefix: str
) -> None:
    import torch
    from safetensors.torch import save_file

    from higfa_cli.models.backbones import build_network, create_backbone
    from higfa_cli.recipe.classifiers import Training

    theirs, ours = sizes
    source = build_network(backbone, 7, theirs).state_dict()
    named = {prefix + name: value.contiguous() for name, value in source.items()}
    save_file(named, tmp_path / "w.safetensors")
    training = Training(backbone=backbone, weights="w.safetensors", image_size=ours)
    made = create_backbone(training, 3, tmp_path, 0).network
    for name, value in made.state_dict().items():
        if value.shape == source[name].shape:
            assert torch.equal(value, source[name]), name
        elif "pos_embed" in name:
            same = source[name].mean() - value.mean()
            assert abs(float(same)) < 0.01 and value.std() > 0
    broken = {name: value for name, value in named.items() if "weight" not in name}
    save_file(broken, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="does not fit the network"):
        create_backbone(training, 3, tmp_path, 0)


@pytest.mark.fault(
    "costly",
    "the pictures of an arm, or the photos, do not fit in memory",
    "refused before the first stage of a run and by doctor; of a given folder, by the dry run",
)
@pytest.mark.parametrize(
    ("photos", "keys", "said"),
    [
        ({"train": 340}, {"downstream": {"image_size": 2048}}, "pictures of arm higfa"),
        ({"train": 2, "test": 340}, {"downstream": {"image_size": 2048}}, "340 photos at 2048 px"),
        ({"train": 120}, {"guide": {"image_size": 2048}}, "360 noised photos at 2048 px"),
        ({"train": 4, "val": 400}, {"size": 2048}, "400 photos at 2048 px"),
    ],
)
def test_memory_is_reckoned_from_counts(
    photos: dict[Split, int], keys: dict[str, object], said: str
) -> None:
    tree = {
        "name": "t",
        "data": {"root": "d"},
        "model": {"base": "b", "controlnet": "c"},
        "arms": {"higfa": {}},
    }
    check_room(Recipe.model_validate(tree), photos, photos["train"])
    with pytest.raises(UserError, match=f"{said}.*over the limit of 4 GB; lower") as caught:
        check_room(Recipe.model_validate(tree | keys), photos, photos["train"])
    for key in re.findall(r"\b(?:guide|downstream|data|contours|pictures)\.\w+", str(caught.value)):
        assert key in recipe_keys()


def test_an_arm_that_a_filter_thins_out_is_not_refused() -> None:
    tree = {
        "name": "t",
        "data": {"root": "d"},
        "model": {"base": "b", "controlnet": "c"},
        "arms": {"higfa": {}},
        "filter": {"best_of": 2},
        "downstream": {"image_size": 2048},
    }
    check_room(Recipe.model_validate(tree), {"train": 200, "val": 5}, 400)


@pytest.mark.fault(
    "costly",
    "a machine without a GPU",
    "init writes float32; doctor names the key that is slow here; both say what can be done",
)
@pytest.mark.parametrize(
    ("kind", "dtype", "native", "slow"),
    [
        ("cpu", "bfloat16", False, True),
        ("cpu", "bfloat16", True, False),
        ("cpu", "float16", True, True),
        ("cpu", "float32", False, False),
        ("cuda", "bfloat16", True, False),
    ],
)
def test_the_slow_key_is_named(
    tmp_path: Path, kind: Literal["cpu", "cuda"], dtype: str, native: bool, slow: bool
) -> None:
    loaded = load_recipe("pocket", [f"model.dtype={dtype}"])
    findings = Findings(
        make_context(loaded, tmp_path), device=Device(kind, kind, "x", 1, 1, native)
    )
    row = _dtype(findings)
    assert (row.status == "warning") == slow
    assert row.remedy == ("set model.dtype: float32" if slow else "")


@pytest.mark.parametrize("kind", ["cpu", "cuda", "mps"])
def test_init_writes_what_is_quick_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Literal["cpu", "cuda", "mps"]
) -> None:
    write_class_folders(tmp_path / "photos", 3, 0)
    monkeypatch.setattr(project, "device_of", lambda name: Device(kind, kind, "x"))
    result = project.init_project(tmp_path / "photos", tmp_path / "recipe.yaml")
    dtype = load_recipe(str(tmp_path / "recipe.yaml")).recipe.model.dtype
    assert dtype == ("bfloat16" if kind == "cuda" else "float32")
    said = [note for note in result["notes"] if "no GPU here" in note]
    assert bool(said) == (kind != "cuda")
    for note in said:
        assert "higfa contours" in note and "--arm real" in note
