"""Files from strangers: checkpoints, model folders. Nothing in them runs; one line says no."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from higfa_cli.errors import UserError
from higfa_cli.models.backbones import METADATA_KEY, build_network, create_backbone
from higfa_cli.models.classifier import ClassifierSpec, load_classifier, save_classifier
from higfa_cli.recipe.classifiers import Downstream, Guide
from tests.support import tiny
from tests.support.hostile import BACKBONE, SMALL, Canary, assert_inert, higfa, photo
from tests.support.recipes import drawing_recipe, load_model

SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".zip", "", ".safetensors", ".SAFETENSORS")


@pytest.fixture
def canary(tmp_path: Path) -> Canary:
    return Canary(tmp_path)


def one_line(error: pytest.ExceptionInfo[UserError], *parts: object) -> str:
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message
    return message


# --- checkpoints ------------------------------------------------------------------------------


@pytest.mark.fault("hostile", "pickled weights and models", "refused, not opened")
@pytest.mark.parametrize("kind", ["plain", "torch"])
@pytest.mark.parametrize("key", ["guide.weights", "downstream.weights"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_pickled_weights_are_not_opened(
    tmp_path: Path, canary: Canary, suffix: str, key: str, kind: str
) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(canary.pickled(kind))
    section = {"guide.weights": Guide, "downstream.weights": Downstream}[key]
    training = section(**SMALL, weights=path.name)
    with pytest.raises(UserError) as caught:
        create_backbone(training, 3, tmp_path, 0, key.split(".")[0])
    one_line(caught, key, path, "safetensors")
    assert not canary.dead


@pytest.mark.fault("hostile", "pickled weights and models")
@pytest.mark.parametrize("command", ["predict", "export"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_pickled_models_are_not_opened(
    tmp_path: Path, canary: Canary, suffix: str, command: str
) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(canary.pickled("torch"))
    rest = [photo(tmp_path / "a.png")] if command == "predict" else ["--out", tmp_path / "out"]
    flags = [] if command == "predict" else ["--format", "safetensors"]
    code, printed = higfa(command, "--model", path, *flags, *rest)
    assert code == 1
    assert printed.count(b"\n") == 1 and b"safetensors" in printed
    assert not canary.dead and not (tmp_path / "out").exists()


def test_the_canary_is_alive(canary: Canary) -> None:
    """What the other tests rest on: a reader that opens pickles would touch it."""
    import pickle

    with pytest.raises(Exception, match=r"\w"):
        pickle.loads(canary.pickled())["state_dict"].no_such_attribute  # noqa: B018
    assert canary.dead


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "guide.safetensors"
    network = build_network(BACKBONE, 3, 32)
    save_classifier(
        path, network, ClassifierSpec(BACKBONE, ("a", "b", "c"), 32, (0.5,) * 3, (0.5,) * 3)
    )
    assert load_classifier(path).spec.classes == ("a", "b", "c")
    return path


def header(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    content = json.loads(data[8 : 8 + length])
    text = json.dumps(change(content) or content).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def about(**changes: Any) -> Callable[[Path], None]:
    """higfa's own metadata with other values; `None` takes a key out."""

    def change(content: dict[str, Any]) -> None:
        own = json.loads(content["__metadata__"][METADATA_KEY]) | changes
        own = {key: value for key, value in own.items() if value is not None}
        content["__metadata__"][METADATA_KEY] = json.dumps(own)

    return lambda path: header(path, change)


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        own = {METADATA_KEY: json.dumps(vars_of(path))}
        content = load_file(path)
        change(content)
        save_file(content, path, metadata=own)

    return apply


def vars_of(path: Path) -> Any:
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(json.loads(data[8 : 8 + length])["__metadata__"][METADATA_KEY])


def raw(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data) and None


def first(content: dict[str, torch.Tensor]) -> str:
    return next(name for name, value in content.items() if value.ndim == 4)


def metadata_text(text: str) -> Callable[[Path], None]:
    return lambda path: header(path, lambda h: h["__metadata__"].update({METADATA_KEY: text}))


def overlapping(content: dict[str, Any]) -> None:
    names = [name for name in content if name != "__metadata__"]
    content[names[0]]["data_offsets"] = content[names[1]]["data_offsets"]


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


BROKEN: dict[str, Callable[[Path], None]] = {
    "empty": raw(b""),
    "seven-bytes": raw(b"1234567"),
    "zip": raw(b"PK\x03\x04" + bytes(2000)),
    "html": raw(b"<!doctype html><script>alert(1)</script>" * 50),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-100]) and None,
    "header-of-8-exabytes": raw(struct.pack("<Q", 2**63) + bytes(100)),
    "header-past-the-end": raw(struct.pack("<Q", 5000) + b"{}"),
    "header-not-json": raw(struct.pack("<Q", 8) + b"notjson!" + bytes(8)),
    "header-nested": raw(struct.pack("<Q", 100_000) + b"[" * 100_000),
    "overlapping-tensors": lambda path: header(path, overlapping),
    "unknown-dtype": lambda path: header(
        path, lambda h: h[next(n for n in h if n != "__metadata__")].update(dtype="OBJECT")
    ),
    "directory": directory,
    "pipe": pipe,
    "metadata-nested": metadata_text("[" * 100_000),
    "metadata-not-json": metadata_text("{"),
    "metadata-list": metadata_text("[1]"),
    "metadata-long-number": metadata_text('{"image_size": ' + "9" * 5000 + "}"),
    "no-classes": about(classes=[]),
    "classes-missing": about(classes=None),
    "more-classes-than-outputs": about(classes=["a", "b", "c", "d"]),
    "fewer-classes-than-outputs": about(classes=["a", "b"]),
    "classes-a-text": about(classes="abc"),
    "classes-numbers": about(classes=[1, 2, 3]),
    "classes-twice": about(classes=["a", "a", "b"]),
    "size-infinite": about(image_size=float("inf")),
    "size-huge": about(image_size=10**9),
    "size-negative": about(image_size=-1),
    "std-zero": about(std=[0, 1, 1]),
    "mean-nan": about(mean=[float("nan"), 0, 0]),
    "mean-of-two": about(mean=[0, 0]),
    "temperature-zero": about(temperature=0),
    "temperature-infinite": about(temperature=float("inf")),
    "temperature-nan": about(temperature=float("nan")),
    "backbone-of-a-hub": about(backbone="hf-hub:stranger/model"),
    "backbone-of-a-folder": about(backbone="local-dir:/tmp"),
    "backbone-a-module": about(backbone="os.system"),
    "other-network": about(backbone="test_convnext.r160_in1k"),
    "nan": tensors(lambda t: t[first(t)].view(-1)[0].fill_(float("nan"))),
    "infinity": tensors(lambda t: t[first(t)].view(-1)[0].fill_(float("inf"))),
    "wrong-shape": tensors(lambda t: t.update({first(t): torch.zeros(1, 1, 1, 1)})),
    "missing-tensor": tensors(lambda t: t.pop(first(t))),
    "extra-tensor": tensors(lambda t: t.update({"../../x": torch.zeros(1)})),
    "complex": tensors(lambda t: t.update({first(t): t[first(t)].to(torch.complex64)})),
}


@pytest.mark.fault("hostile", "checkpoints that are broken or lie", "one line")
@pytest.mark.parametrize("case", BROKEN)
def test_broken_checkpoints_are_one_line(tmp_path: Path, checkpoint: Path, case: str) -> None:
    path = Path(shutil.copy(checkpoint, tmp_path / "x.safetensors"))
    BROKEN[case](path)
    with pytest.raises(UserError) as caught:
        load_classifier(path)
    message = one_line(caught)
    assert str(path) in message or "timm has no model" in message
    code, printed = higfa("predict", "--model", path, photo(tmp_path / "a.png"))
    assert (code, printed.count(b"\n")) == (1, 1)
    assert_inert(printed)


# --- model folders ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    tiny.make_model(folder)
    tiny.make_tiny_autoencoder(folder)
    load(folder)
    return folder


def load(folder: Path) -> None:
    recipe = drawing_recipe(
        folder / "sd",
        folder / "controlnet",
        size=32,
        gradient_autoencoder=str(folder / "tiny-vae"),
    )
    load_model(recipe, ["a photo"], folder)


def index(**changes: Any) -> Callable[[Path, Canary], None]:
    return lambda folder, canary: configure(folder / "sd/model_index.json", changes)


def configure(path: Path, changes: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def pickles_only(part: str, name: str) -> Callable[[Path, Canary], None]:
    def change(folder: Path, canary: Canary) -> None:
        for weights in (folder / part).glob("*.safetensors"):
            weights.unlink()
        (folder / part / name).write_bytes(canary.pickled("torch"))

    return change


def disguised(part: str) -> Callable[[Path, Canary], None]:
    def change(folder: Path, canary: Canary) -> None:
        for weights in (folder / part).glob("*.safetensors"):
            weights.write_bytes(canary.pickled("torch"))

    return change


def sharded(shard: str) -> Callable[[Path, Canary], None]:
    def change(folder: Path, canary: Canary) -> None:
        unet = folder / "sd/unet"
        names = list(load_file(unet / "diffusion_pytorch_model.safetensors"))
        (unet / "diffusion_pytorch_model.safetensors").unlink()
        content = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, shard)}
        path = unet / "diffusion_pytorch_model.safetensors.index.json"
        path.write_text(json.dumps(content))
        (unet / shard).resolve().write_bytes(canary.pickled("torch"))

    return change


def with_source(file: str, names: tuple[str, ...], then: Callable[[Path, Canary], None]) -> Any:
    def change(folder: Path, canary: Canary) -> None:
        (folder / file).write_text(canary.source(*names))
        then(folder, canary)

    return change


def config(file: str, **changes: Any) -> Callable[[Path, Canary], None]:
    return lambda folder, canary: configure(folder / file, changes)


CODE = {"AutoModel": "modeling.Mine", "AutoTokenizer": ["modeling.Mine", None]}
FOLDERS: dict[str, Callable[[Path, Canary], None]] = {
    "pipeline-of-its-own": with_source(
        "sd/pipeline.py",
        ("MinePipeline",),
        index(_class_name=["pipeline", "MinePipeline"]),
    ),
    "pipeline-with-a-known-name": with_source(
        "sd/pipeline.py",
        ("StableDiffusionPipeline",),
        index(_class_name=["pipeline", "StableDiffusionPipeline"]),
    ),
    "part-of-its-own": with_source(
        "sd/unet/my_unet.py", ("MyUNet",), index(unet=["my_unet", "MyUNet"])
    ),
    "part-of-its-own-trusted": with_source(
        "sd/unet/my_unet.py",
        ("MyUNet",),
        index(unet=["my_unet", "MyUNet"], trust_remote_code=True),
    ),
    "part-named-as-a-library": with_source(
        "sd/unet/diffusers.py", ("Mine",), index(unet=["diffusers.utils", "Mine"])
    ),
    "part-of-the-standard-library": index(unet=["os", "system"]),
    "part-not-text": index(unet=[{"a": 1}, 2]),
    "scheduler-in-the-current-folder": with_source(
        "here_is_evil.py", ("Mine",), index(scheduler=["here_is_evil", "Mine"])
    ),
    "text-encoder-auto-map": with_source(
        "sd/text_encoder/modeling.py",
        ("Mine",),
        config("sd/text_encoder/config.json", auto_map=CODE),
    ),
    "tokenizer-auto-map": with_source(
        "sd/tokenizer/modeling.py",
        ("Mine",),
        config("sd/tokenizer/tokenizer_config.json", auto_map=CODE),
    ),
    "unet-auto-map": with_source(
        "sd/unet/modeling.py",
        ("Mine",),
        config("sd/unet/config.json", auto_map=CODE, _class_name="Mine", trust_remote_code=True),
    ),
    "controlnet-auto-map": with_source(
        "controlnet/modeling.py", ("Mine",), config("controlnet/config.json", auto_map=CODE)
    ),
    "unet-bin": pickles_only("sd/unet", "diffusion_pytorch_model.bin"),
    "unet-ckpt": pickles_only("sd/unet", "diffusion_pytorch_model.ckpt"),
    "vae-bin": pickles_only("sd/vae", "diffusion_pytorch_model.bin"),
    "text-encoder-bin": pickles_only("sd/text_encoder", "pytorch_model.bin"),
    "controlnet-bin": pickles_only("controlnet", "diffusion_pytorch_model.bin"),
    "tiny-autoencoder-bin": pickles_only("tiny-vae", "diffusion_pytorch_model.bin"),
    "unet-disguised": disguised("sd/unet"),
    "vae-disguised": disguised("sd/vae"),
    "text-encoder-disguised": disguised("sd/text_encoder"),
    "controlnet-disguised": disguised("controlnet"),
    "tiny-autoencoder-disguised": disguised("tiny-vae"),
    "shards-are-pickles": sharded("diffusion_pytorch_model-00001.bin"),
    "shards-elsewhere": sharded("../../../elsewhere.safetensors"),
    "index-nested": lambda folder, canary: (
        (folder / "sd/model_index.json").write_text("[" * 100_000) and None
    ),
    "config-nested": lambda folder, canary: (
        (folder / "sd/unet/config.json").write_text('{"a":' * 100_000) and None
    ),
}


@pytest.mark.fault("hostile", "model folders with code", "none is run")
@pytest.mark.parametrize("case", FOLDERS)
def test_model_folders_run_no_code(
    tmp_path: Path,
    canary: Canary,
    sound_model: Path,
    case: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "a" / "model"
    shutil.copytree(sound_model, folder)
    FOLDERS[case](folder, canary)
    # As if the program had been started in the stranger's folder.
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    with pytest.raises(UserError) as caught:
        load(folder)
    assert not canary.dead
    message = one_line(caught, "model.")
    assert "safetensors" in message or case.endswith("nested")
