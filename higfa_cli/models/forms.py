"""What people have in the place of a model's folder: named, with the way to a folder of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from higfa_cli.errors import UserError
from higfa_cli.models.families import FAMILIES, family_of
from higfa_cli.models.trusted import INDEX, UNUSED

_WEIGHTS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
_OTHER_RUNTIMES = (".onnx", ".msgpack", ".tflite", ".gguf", ".mlmodelc", ".mlpackage")
_LARGEST_HEADER = 100_000_000
_LORA = re.compile(r"(^|[._])(lora|hada|lokr|oft)[._]", re.IGNORECASE)
_EMBEDDING = {"emb_params", "clip_l", "clip_g", "*"}
_ADD = "load its model with diffusers, {}, `save_pretrained(NEW)`, and set model.base to NEW"
# A part's weights -> the variant in their name.
_VARIANT = re.compile(
    r"(?:diffusion_pytorch_model|model)(?:\.(\w+))?(?:-\d+-of-\d+)?\.safetensors$"
)
_LORA_FILE = re.compile(r"(?<![a-z])lora", re.IGNORECASE)


def check_form(place: Path, name: str, variant: str | None = None) -> None:
    """Raise UserError where a file or folder is not what its key asks for but something known.

    `name` is how messages call it, beginning with the recipe key; `variant` is the recipe's.
    """
    key = name.split()[0]
    single = key != "model.base"
    form = _file(place, key) if place.is_file() else _folder(place, key, single)
    if form is None:
        form = _other_variant([place] if single else _parts(place), variant)
    if form is not None:
        what, remedy = form
        raise UserError(f"{name} is {what}; {remedy.replace('KEY', key)}")


def _parts(place: Path) -> list[Path]:
    return [path for path in place.iterdir() if path.is_dir() and path.name not in UNUSED]


def _other_variant(folders: Iterable[Path], variant: str | None) -> tuple[str, str] | None:
    names = [{path.name for path in folder.glob("*.safetensors")} for folder in folders]
    here = [{m[1] for m in map(_VARIANT.match, files) if m} for files in names]
    every = set[str | None]().union(*here)
    # diffusers reads plain parts beside one of the variant, but never the other way round.
    if variant is None and (
        others := [part - {None} for part in here if part and None not in part]
    ):
        name = sorted(map(str, others[0]))[0]
        return f"here as {name} files alone", f"set model.variant: {name}"
    if variant is not None and every and variant not in every:
        return (
            f"here without {variant} files",
            "leave model.variant out, or save it with diffusers: "
            f"`save_pretrained(NEW, variant={variant!r})`",
        )
    return None


def _file(path: Path, key: str) -> tuple[str, str] | None:
    names = _tensor_names(path)
    if any(map(_LORA.search, names)) or _LORA_FILE.search(path.name):
        return _adapter(path)
    if _EMBEDDING & names or any(name.startswith("<") for name in names):
        return _embedding(path)
    if path.name == INDEX:
        return "a file of the folder that is wanted", f"set KEY to {path.parent}"
    if path.suffix.lower() not in _WEIGHTS:
        return f"a file ({path.name})", "give a model's folder, or its hub id"
    if key == "model.gradient_autoencoder":
        return "a file", "give the folder or hub id of an AutoencoderTiny, as madebyollin/taesd"
    loader = _loader(names, key == "model.controlnet")
    return (
        "a single-file checkpoint",
        "turn it into a folder with diffusers: "
        f"`{loader}.from_single_file({str(path)!r}).save_pretrained({path.stem!r})`, and set KEY "
        "to that folder",
    )


def _folder(place: Path, key: str, single: bool) -> tuple[str, str] | None:
    wanted = "config.json" if single else INDEX
    names = {path.name for path in place.iterdir()}
    if wanted in names:
        return _whole(place) if not single else None
    files = [place / name for name in sorted(names) if name.endswith(_WEIGHTS)]
    if "adapter_config.json" in names or any(_LORA_FILE.search(path.name) for path in files):
        return _adapter(place)
    if any(path.name.startswith("learned_embeds") for path in files):
        return _embedding(place)
    inner = sorted(path.parent for path in place.glob(f"*/{wanted}"))
    inner = [path for path in inner if not single or path.name.startswith("controlnet")]
    inner += sorted(path.parent for path in place.glob(f"snapshots/*/{wanted}"))
    if inner:
        return "the folder above the one that is wanted", f"set KEY to {inner[0]}"
    if single and INDEX in names:
        return "a whole model", "name it in model.base, and here the folder of one network"
    for family in () if single else FAMILIES.values():
        part = family.network
        # With the other parts beside it the index alone is missing.
        if (place / part).is_dir() and not (place / "vae").is_dir():
            call = f"{part}={family.network_class}.from_pretrained({str(place / part)!r})"
            return (
                f"a training's checkpoint, its {part} alone",
                "load its model by "
                f"`from_pretrained(MODEL, {call})`, `save_pretrained(NEW)`, and set KEY to NEW",
            )
    if steps := sorted(name for name in names if re.fullmatch(r"checkpoint-\d+", name)):
        return (
            f"the output of a training that has not ended ({steps[-1]})",
            "let it end, or save its parts as a whole folder with diffusers",
        )
    if any(name.startswith(("random_states", "optimizer", "trainer_state")) for name in names):
        return (
            "the state of a training, to be resumed",
            "save its network as a whole folder with diffusers' `save_pretrained`",
        )
    return _leftover(place, names, files, key)


def _leftover(
    place: Path, names: Iterable[str], files: list[Path], key: str
) -> tuple[str, str] | None:
    """Of a folder in which nothing has a name that means something."""
    if others := sorted(name for name in names if name.endswith(_OTHER_RUNTIMES)):
        return (
            f"made for another runtime ({others[0]})",
            "give the model in diffusers' layout with .safetensors weights",
        )
    config = place / "config.json"
    if config.is_file():
        content = _json(config.read_bytes())
        name = str(content.get("_class_name") or content.get("model_type") or "single network")
        if name.startswith("ControlNet"):
            return f"a `{name}`", "name it in model.controlnet"
        return f"one part of a model (`{name[:40]}`)", "give the whole folder, with " + INDEX
    # Under diffusers' own name it is a part whose configuration is missing.
    single = [path for path in files if not _VARIANT.match(path.name)]
    return _file(single[0], key) if single else None


def _whole(place: Path) -> tuple[str, str] | None:
    index = _json((place / INDEX).read_bytes())
    try:
        family = family_of(str(index.get("_class_name")))
    except UserError:
        return None
    lacking = next(iter(family.text_encoders)) not in family.encoders(index)
    if lacking or index.get("requires_aesthetics_score"):
        return "a refiner, which only finishes pictures", "name the base model that it refines"
    return None


def _adapter(place: Path) -> tuple[str, str]:
    call = f"`load_lora_weights({str(place)!r})`, `fuse_lora()`"
    return "a LoRA adapter, no model", "merge it: " + _ADD.format(call)


def _embedding(place: Path) -> tuple[str, str]:
    call = f"`load_textual_inversion({str(place)!r})`"
    return "an embedding (textual inversion), no model", _ADD.format(call)


def _loader(names: Iterable[str], controlnet: bool) -> str:
    """The class that reads a single file, by the names of its tensors."""
    text = " ".join(names)
    fitting = [family for family in FAMILIES.values() if family.tensors in text]
    family = max(fitting, key=lambda family: len(family.tensors))
    return family.controlnet_class if controlnet else family.pipeline.replace("ControlNet", "")


def _tensor_names(path: Path) -> set[str]:
    """Names of the tensors of a safetensors file, from its header; none of another file."""
    if path.suffix != ".safetensors":
        return set()
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = _json(file.read(length)) if length <= _LARGEST_HEADER else {}
    return set(header) - {"__metadata__"}


def _json(data: bytes) -> dict[str, object]:
    """A JSON object; empty for anything else."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
