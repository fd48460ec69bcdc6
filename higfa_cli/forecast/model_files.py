"""Which files a recipe's models consist of, and which are not here. Never asks the network."""

from __future__ import annotations

import json
import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.file_download import repo_folder_name

from higfa_cli.errors import UserError
from higfa_cli.forecast.remembered import remembered
from higfa_cli.models.architecture import shipped
from higfa_cli.models.families import family_of
from higfa_cli.models.trusted import UNUSED
from higfa_cli.recipe.classifiers import Training
from higfa_cli.recipe.drawing import Model
from higfa_cli.recipe.refs import resolve_ref, weights_path

INDEX = "model_index.json"
CONFIG = "config.json"
SCHEDULER = "scheduler/scheduler_config.json"
ENTIRE_REPOSITORY = "(whole repository)"
FOLDER = "(folder)"
_COMMAND = "hf download "
_NO_FOLDER = (
    "no folder {} (looked in the recipe's folder and the current one) and not in the hub cache"
)
_DIFFUSERS, _TRANSFORMERS = "diffusion_pytorch_model", "model"
_TOKENIZER = "tokenizer_config.json"
_PICKLES = ("*.bin", "*.ckpt", "*.pt", "*.pth")


@dataclass(frozen=True)
class MissingFile:
    """A file that a recipe needs and this machine has not, or not whole.

    Attributes:
        key: recipe key that asks for it.
        repo: hub id, or the local folder.
        revision: of the hub id; None where the recipe pins none.
        file: path inside `repo`, ENTIRE_REPOSITORY, or FOLDER where there is no such folder.
        remedy: the command that fetches it, or what to do.
        remark: what to know beside the command.
    """

    key: str
    repo: str
    revision: str | None
    file: str
    remedy: str
    remark: str = ""

    @property
    def is_command(self) -> bool:
        """Whether `remedy` can be typed as it stands."""
        return self.remedy.startswith(_COMMAND)


def missing_files(settings: Model, base: Path, offline: bool = False) -> list[MissingFile]:
    """Files of diffusion model, ControlNet and gradient autoencoder that are not here.

    Looks into the folder or the hub's cache and asks nobody. All files of one repository have the
    same remedy, one command for all of them.

    Args:
        settings: the recipe's section.
        base: the recipe's folder.
        offline: whether the hub is never to be asked (`run.local_files_only`).
    """
    model = _Place("model.base", settings.base, settings.revision, settings.variant)
    control = _Place(
        "model.controlnet", settings.controlnet, settings.controlnet_revision, settings.variant
    )
    found = _missing(model, base, offline, pipeline=True)
    found += _missing(control, base, offline, pipeline=False)
    if settings.gradient_autoencoder is not None:
        key, revision = "model.gradient_autoencoder", settings.gradient_autoencoder_revision
        tiny = _Place(key, settings.gradient_autoencoder, revision)
        found += _missing(tiny, base, offline, pipeline=False)
    return found


def missing_weights(training: Training, base: Path, key: str) -> list[MissingFile]:
    """The start weights of a classifier that are not here: a local file, or timm's from the hub.

    Args:
        training: section `guide` or `downstream`.
        base: the recipe's folder.
        key: the section's name.

    Raises UserError for a network that timm does not know, or has no weights for.
    """
    pretrained, repo = weights_of(training.backbone, key)
    if training.weights is not None:
        path = weights_path(training.weights, base)
        if path.is_file() and path.suffix == ".safetensors":
            return []
        remedy = f"correct {key}.weights: an existing .safetensors file"
        return [MissingFile(f"{key}.weights", str(path.parent), None, path.name, remedy)]
    if not training.pretrained:
        return []
    if not pretrained:
        raise UserError(
            f"timm has no pretrained weights for {training.backbone}; set `{key}.weights` to a "
            f"local .safetensors file, or `{key}.pretrained: false`"
        )
    file = "model.safetensors"
    if not repo or isinstance(try_to_load_from_cache(repo, file), str):
        return []
    remark = f"or set {key}.weights, or {key}.pretrained: false"
    return [MissingFile(f"{key}.backbone", repo, None, file, _download(repo, None, [file]), remark)]


def weights_of(backbone: str, key: str = "guide") -> tuple[bool, str | None]:
    """Whether timm has weights of a network, and their hub id, if they are there.

    Raises UserError for a network that timm does not know.
    """

    def compute() -> dict[str, Any]:
        import timm

        from higfa_cli.models.backbones import check_name

        check_name(backbone, key)
        repo = timm.models.get_pretrained_cfg_value(backbone, "hf_hub_id")
        return {"pretrained": timm.models.is_model_pretrained(backbone), "repo": repo}

    facts = remembered("backbone", backbone, compute)
    return facts["pretrained"], facts["repo"]


def find_folder(ref: str, revision: str | None, base: Path, file: str) -> Path | None:
    """The local or cached folder that holds `file` ("tokenizer/vocab.json"); None where none."""
    try:
        place = replace(_Place("", ref, revision), at=resolve_ref(ref, base))
        found = place.find(file)
    except (UserError, HFValidationError):
        return None
    return None if found is None else found.parent


@dataclass(frozen=True)
class _Place:
    """One reference of the recipe, and where it leads: a folder or a hub id."""

    key: str
    ref: str
    revision: str | None
    variant: str | None = None
    at: Path | str = ""

    def find(self, file: str) -> Path | None:
        """The file, if it is here."""
        if isinstance(self.at, Path):
            path = self.at / file
            return path if path.is_file() else None
        found = try_to_load_from_cache(self.at, file, revision=self.revision)
        return Path(found) if isinstance(found, str) else None

    @property
    def local(self) -> bool:
        return isinstance(self.at, Path)


def _missing(place: _Place, base: Path, offline: bool, pipeline: bool) -> list[MissingFile]:
    if _names_a_folder(place.ref, base) and not _is_anywhere(place.ref, base):
        return [_no_folder(place)]
    try:
        place = replace(place, at=resolve_ref(place.ref, base))
        wanted = _of_pipeline(place) if pipeline else _of_model(place, "", _DIFFUSERS, strict=True)
    except UserError as error:
        return [replace(_no_folder(place), remedy=str(error))]
    except HFValidationError:
        return [_no_folder(place)]
    remedy, remark = _remedy(place, wanted)
    if offline and not place.local and not _is_anywhere(place.ref, base):
        remark = f"{_NO_FOLDER.format(place.ref)}; correct the path, or fetch the repository:"
    revision = None if place.local else place.revision
    return [MissingFile(place.key, place.ref, revision, file, remedy, remark) for file in wanted]


def _no_folder(place: _Place) -> MissingFile:
    remedy = (
        f"{_NO_FOLDER.format(place.ref)}; correct the path, or fetch the repository and name its "
        f"folder in {place.key}"
    )
    return MissingFile(place.key, place.ref, None, FOLDER, remedy)


def _names_a_folder(ref: str, base: Path) -> bool:
    """Whether a reference is meant as a path, as far as its text and the folders here tell."""
    if ref.startswith(("./", "../", "/", "~")) or ref.count("/") > 1:
        return True
    first, slash, _ = ref.partition("/")
    try:
        return bool(slash) and any((start / first).is_dir() for start in (base, Path()))
    except OSError:
        # A name that no file system takes.
        return False


def _is_anywhere(ref: str, base: Path) -> bool:
    """Whether a reference leads to a folder, to something in the hub's cache, or to a known id."""
    try:
        if shipped(ref) or isinstance(resolve_ref(ref, base), Path):
            return True
        cached = repo_folder_name(repo_id=ref, repo_type="model")
    except (UserError, HFValidationError):
        return False
    return (Path(constants.HF_HUB_CACHE) / cached).is_dir()


def _remedy(place: _Place, files: Iterable[str]) -> tuple[str, str]:
    """What to do, and a remark to it."""
    files = list(files)
    pickles = _pickles(place, files)
    said = f"only pickles are here ({', '.join(pickles)}), which higfa does not open because they "
    said += "can run code"
    if isinstance(place.at, Path):
        if pickles:
            return (
                f"{said}; load it once with diffusers where you trust it, and "
                "`save_pretrained(FOLDER, safe_serialization=True)`"
            ), ""
        return f"copy the file into {place.at}, or fetch the folder again", ""
    return _download(place.at, place.revision, files), said if pickles else ""


def _download(repo: str, revision: str | None, files: Iterable[str]) -> str:
    words = [*_COMMAND.split(), repo, *(["--revision", revision] if revision else [])]
    files = list(files)
    if files == [ENTIRE_REPOSITORY]:
        for pattern in ("*.json", "*.txt", "*.safetensors"):
            words += ["--include", pattern]
        return shlex.join(words)
    return shlex.join([*words, *files])


def _pickles(place: _Place, files: Iterable[str]) -> list[str]:
    """Pickles that lie where safetensors are missing."""
    found: list[str] = []
    for file in files:
        if not file.endswith(".safetensors"):
            continue
        if isinstance(place.at, Path):
            folder = (place.at / file).parent
            found += [p.name for pattern in _PICKLES for p in sorted(folder.glob(pattern))]
        else:
            folder_name, _, name = file.rpartition("/")
            stem = "pytorch_model" if name.startswith("model.") else _DIFFUSERS
            prefix = f"{folder_name}/" if folder_name else ""
            tried = [f"{prefix}{stem}{dot}.bin" for dot in ("", f".{place.variant}")]
            found += [name for name in tried if place.find(name) is not None]
    return list(dict.fromkeys(found))


def _of_pipeline(place: _Place) -> list[str]:
    """Files of a whole pipeline that are not here; none of one that could not be used anyway."""
    file = place.find(INDEX)
    index = shipped(str(place.at)).get(INDEX) if file is None else _json(file)
    if index is None:
        return [ENTIRE_REPOSITORY if file is None and not place.local else INDEX]
    try:
        family = family_of(str(index.get("_class_name")))
    except UserError:
        return []
    missing = [INDEX] if file is None else []
    for part in _named_parts(index) or family.parts:
        if part == "scheduler":
            missing += [SCHEDULER] if place.find(SCHEDULER) is None else []
        elif part.startswith("tokenizer"):
            missing += _of_tokenizer(place, f"{part}/", family.vocabulary(part))
        else:
            stem = _TRANSFORMERS if part.startswith("text_encoder") else _DIFFUSERS
            missing += _of_model(place, f"{part}/", stem, strict=not _mixes_variants(place))
    return missing


def _named_parts(index: Mapping[str, Any]) -> tuple[str, ...]:
    """The parts that a model_index.json names; the shipped ones name none."""
    return tuple(
        name
        for name, value in index.items()
        if isinstance(value, list) and any(value) and name not in UNUSED
    )


def _mixes_variants(place: _Place) -> bool:
    """Whether diffusers reads parts of other variants too: in a folder that has one of this."""
    if not isinstance(place.at, Path):
        return False
    return any(place.at.glob(f"*/*.{place.variant}*.safetensors"))


def _of_tokenizer(place: _Place, prefix: str, vocabulary: Iterable[str]) -> list[str]:
    """A tokenizer is one tokenizer.json, or its vocabulary; its config says how much it reads."""
    config = [prefix + _TOKENIZER]
    if place.find(f"{prefix}tokenizer.json") is None:
        config += [prefix + name for name in vocabulary]
    return [file for file in config if place.find(file) is None]


def _of_model(place: _Place, prefix: str, stem: str, strict: bool) -> list[str]:
    """Config and weights of one part; `strict`: weights of the recipe's variant only."""
    config = [f"{prefix}{CONFIG}"] if place.find(f"{prefix}{CONFIG}") is None else []
    variants = [place.variant] if strict or place.variant is None else [place.variant, None]
    for variant in variants:
        dot = f".{variant}" if variant else ""
        single = f"{prefix}{stem}{dot}.safetensors"
        path = place.find(single)
        if path is not None:
            return config if _is_whole(path) else [*config, single]
        index = place.find(f"{prefix}{stem}.safetensors.index{dot}.json")
        if index is not None:
            return config + _shards(place, prefix, index)
    dot = f".{place.variant}" if place.variant and strict else ""
    # Only the repository itself knows whether its weights come in one file or in shards.
    return [*config, f"{prefix}{stem}{dot}.safetensors"]


def _shards(place: _Place, prefix: str, index: Path) -> list[str]:
    names = (_json(index) or {}).get("weight_map")
    if not isinstance(names, dict):
        return [f"{prefix}{index.name}"]
    missing = []
    for name in sorted(set(names.values())):
        path = place.find(f"{prefix}{name}")
        if path is None or not _is_whole(path):
            missing.append(f"{prefix}{name}")
    return missing


def _is_whole(path: Path) -> bool:
    """Whether a safetensors file is as long as its header says: a broken copy is shorter."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= size - 8:
            return False
        header = _parse(file.read(length))
    if header is None:
        return False
    ends = [v["data_offsets"][1] for name, v in header.items() if name != "__metadata__"]
    return bool(8 + length + max(ends, default=0) == size)


def _json(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where the file is broken."""
    return _parse(path.read_bytes())


def _parse(data: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(data)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def by_repository(missing: Iterable[MissingFile]) -> dict[tuple[str, str | None], list[str]]:
    """(repo, revision) -> its missing files."""
    grouped: dict[tuple[str, str | None], list[str]] = defaultdict(list)
    for one in missing:
        grouped[one.repo, one.revision].append(one.file)
    return dict(grouped)
