"""Which files of a recipe's models are not here, and how large they are; asks no network."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.file_download import repo_folder_name

from higfa_cli.errors import UserError
from higfa_cli.forecast.remembered import remembered
from higfa_cli.forecast.repository import (
    ENTIRE_REPOSITORY,
    Repository,
    missing_of_model,
    missing_of_pipeline,
)
from higfa_cli.models.architecture import shipped
from higfa_cli.models.families import FAMILIES
from higfa_cli.models.families.family import Architecture
from higfa_cli.models.forms import check_form
from higfa_cli.recipe.classifiers import Training, not_pretrained
from higfa_cli.recipe.drawing import Model
from higfa_cli.recipe.refs import resolve_ref, weights_path
from higfa_cli.recipe.schema import Recipe
from higfa_cli.stages.inputs import MODELS

FOLDER = "(folder)"
_COMMAND = "hf download "
# timm's checkpoints are trained on ImageNet.
_CLASSES = 1000
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")


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
    missing: list[MissingFile] = []
    for key in MODELS:
        ref: str | None = getattr(settings, key)
        if ref is not None:
            revision = settings.revision if key == "base" else getattr(settings, f"{key}_revision")
            variant = None if key == "gradient_autoencoder" else settings.variant
            missing += _missing(f"model.{key}", ref, revision, variant, base, offline)
    return missing


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
        raise not_pretrained(training.backbone, key)
    file = "model.safetensors"
    if not repo or isinstance(try_to_load_from_cache(repo, file), str):
        return []
    remark = f"or set {key}.weights, or {key}.pretrained: false"
    return [MissingFile(f"{key}.backbone", repo, None, file, _download(repo, None, [file]), remark)]


def weights_of(backbone: str, key: str = "guide") -> tuple[bool, str | None]:
    """Whether timm has weights of a network, and their hub id, if they are there.

    Raises UserError for a network that timm does not know.
    """

    def compute() -> list[Any]:
        import timm

        from higfa_cli.models.backbones import check_name

        check_name(backbone, key)
        repo = timm.models.get_pretrained_cfg_value(backbone, "hf_hub_id")
        return [timm.models.is_model_pretrained(backbone), repo]

    pretrained, repo = remembered("backbone", backbone, compute)
    return pretrained, repo


def find_folder(ref: str, revision: str | None, base: Path, file: str) -> Path | None:
    """The local or cached folder that holds `file` ("tokenizer/vocab.json"); None where none."""
    try:
        path = Repository(resolve_ref(ref, base), revision).find(file)
    except (UserError, HFValidationError):
        return None
    return None if path is None else path.parent


def by_repository(missing: Iterable[MissingFile]) -> dict[tuple[str, str | None], list[str]]:
    """(repo, revision) -> its missing files."""
    grouped: dict[tuple[str, str | None], list[str]] = defaultdict(list)
    for lost in missing:
        grouped[lost.repo, lost.revision].append(lost.file)
    return dict(grouped)


def missing_bytes(
    missing: Iterable[MissingFile], arch: Architecture | None, recipe: Recipe
) -> int | None:
    """Bytes of the weight files that must be downloaded; None where one cannot be known.

    Args:
        missing: of the recipe's models and classifiers; what is no weights weighs nothing.
        arch: what the diffusion model is made of, where its configurations are on this machine.
        recipe: names the classifiers' networks.
    """
    total = 0
    for lost in missing:
        if lost.file.endswith((".json", ".txt")):
            continue
        section, _, key = lost.key.partition(".")
        count: int | None
        if key == "backbone":
            training = recipe.guide if section == "guide" else recipe.downstream
            count = _of_backbone(training.backbone, training.image_size)
        else:
            part = lost.file.rpartition("/")[0] if key == "base" else key
            count = _of_parts(arch).get(part) if arch is not None else None
        # Of one shard nothing is known but that it is a part.
        if count is None or "-of-" in lost.file or not lost.is_command:
            return None
        total += (2 if ".fp16." in lost.file else 4) * count
    return total


def _missing(
    key: str, ref: str, revision: str | None, variant: str | None, base: Path, offline: bool
) -> list[MissingFile]:
    nowhere = f"no folder {ref} (looked in the recipe's folder and the current one) and not in "
    nowhere += "the hub cache; correct the path, or fetch the repository"
    no_folder = MissingFile(key, ref, None, FOLDER, f"{nowhere} and name its folder in {key}")
    is_path = ref.startswith(("./", "../", "/", "~")) or ref.count("/") > 1
    try:
        repo = Repository(resolve_ref(ref, base), revision, variant)
        is_here = isinstance(repo.at, Path) or _is_known(repo.at)
        if not is_here and (is_path or _has_folder(ref, base)):
            return [no_folder]
        if isinstance(repo.at, Path):
            check_form(repo.at, key, variant)
        files = missing_of_pipeline(repo) if key == "model.base" else missing_of_model(repo)
    except HFValidationError:
        return [no_folder]
    except UserError as error:
        reason = str(error).removeprefix(f"{key} is ")
        here = any((start / ref).exists() for start in (base, Path()))
        reason = f"{ref} is {reason}" if here else reason
        return [no_folder if is_path and not here else MissingFile(key, ref, None, FOLDER, reason)]
    if isinstance(repo.at, Path):
        return [MissingFile(key, ref, None, file, _mend(repo.at, files)) for file in files]
    remedy = _download(ref, revision, files)
    remark = "" if is_here or not offline else f"{nowhere}:"
    return [MissingFile(key, ref, revision, file, remedy, remark) for file in files]


def _has_folder(ref: str, base: Path) -> bool:
    """Whether a reference's first part is a folder here, so that it is meant as a path."""
    first, slash, _ = ref.partition("/")
    return bool(slash) and any((start / first).is_dir() for start in (base, Path()))


def _is_known(repo: str) -> bool:
    """Whether a hub id's configurations are shipped, or something of it is in the hub's cache."""
    cached = repo_folder_name(repo_id=repo, repo_type="model")
    return bool(shipped(repo)) or (Path(constants.HF_HUB_CACHE) / cached).is_dir()


def _mend(folder: Path, files: Sequence[str]) -> str:
    """What to do about files that a local folder lacks."""
    lacking = {(folder / file).parent for file in files if file.endswith(".safetensors")}
    pickles = [p.name for place in sorted(lacking) for p in sorted(place.glob("*"))]
    pickles = [name for name in pickles if name.endswith(_PICKLES)]
    if not pickles:
        return f"copy the file into {folder}, or fetch the folder again"
    return (
        f"only pickles are here ({', '.join(dict.fromkeys(pickles))}), which higfa does not open "
        "because they can run code; load it once with diffusers where you trust it, and "
        "`save_pretrained(FOLDER, safe_serialization=True)`"
    )


def _download(repo: str, revision: str | None, files: Sequence[str]) -> str:
    words = [*_COMMAND.split(), repo, *(["--revision", revision] if revision else [])]
    if files == [ENTIRE_REPOSITORY]:
        for pattern in ("*.json", "*.txt", "*.safetensors"):
            words += ["--include", pattern]
        return shlex.join(words)
    return shlex.join([*words, *files])


def _of_backbone(name: str, size: int) -> int:
    def compute() -> int:
        from higfa_cli.models.backbones import build_network

        return _count(build_network(name, _CLASSES, size))

    return int(remembered("backbone-parameters", [name, size], compute))


def _of_parts(arch: Architecture) -> dict[str, int]:
    """Folder of the model, or key of section `model` -> parameters."""

    def compute() -> dict[str, int]:
        import torch

        from higfa_cli.models.fake import autoencoder, denoising_pair, text_encoder

        family = FAMILIES[arch.family]
        with torch.device("meta"):
            network, controlnet = denoising_pair(arch)
            modules = {family.network: network, "controlnet": controlnet}
            modules["vae"] = autoencoder(arch.vae, "model.base")
            modules |= {name: text_encoder(arch, name) for name in family.text_encoders}
            if arch.gradient_vae is not None:
                key = "gradient_autoencoder"
                modules[key] = autoencoder(arch.gradient_vae, key)
        return {name: _count(module) for name, module in modules.items() if module is not None}

    counts: dict[str, int] = remembered("parameters", asdict(arch), compute)
    return counts


def _count(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
