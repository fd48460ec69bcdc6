"""Which files a recipe's models consist of, and which are not here. Never asks the network."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.file_download import repo_folder_name

from higfa_cli.errors import UserError
from higfa_cli.forecast.remembered import remembered
from higfa_cli.forecast.repository import (
    DIFFUSERS,
    ENTIRE_REPOSITORY,
    Repository,
    missing_of_model,
    missing_of_pipeline,
)
from higfa_cli.models.architecture import shipped
from higfa_cli.recipe.classifiers import Training
from higfa_cli.recipe.drawing import Model
from higfa_cli.recipe.refs import resolve_ref, weights_path

FOLDER = "(folder)"
_COMMAND = "hf download "
_NO_FOLDER = (
    "no folder {} (looked in the recipe's folder and the current one) and not in the hub cache"
)
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
    model = Repository("model.base", settings.base, settings.revision, settings.variant)
    control = Repository(
        "model.controlnet", settings.controlnet, settings.controlnet_revision, settings.variant
    )
    found = _missing(model, base, offline, pipeline=True)
    found += _missing(control, base, offline, pipeline=False)
    if settings.gradient_autoencoder is not None:
        key, revision = "model.gradient_autoencoder", settings.gradient_autoencoder_revision
        tiny = Repository(key, settings.gradient_autoencoder, revision)
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
        repo = replace(Repository("", ref, revision), at=resolve_ref(ref, base))
        found = repo.find(file)
    except (UserError, HFValidationError):
        return None
    return None if found is None else found.parent


def _missing(repo: Repository, base: Path, offline: bool, pipeline: bool) -> list[MissingFile]:
    if _names_a_folder(repo.ref, base) and not _is_anywhere(repo.ref, base):
        return [_no_folder(repo)]
    try:
        repo = replace(repo, at=resolve_ref(repo.ref, base))
        wanted = (
            missing_of_pipeline(repo)
            if pipeline
            else missing_of_model(repo, "", DIFFUSERS, strict=True)
        )
    except UserError as error:
        return [replace(_no_folder(repo), remedy=str(error))]
    except HFValidationError:
        return [_no_folder(repo)]
    remedy, remark = _remedy(repo, wanted)
    if offline and not repo.local and not _is_anywhere(repo.ref, base):
        remark = f"{_NO_FOLDER.format(repo.ref)}; correct the path, or fetch the repository:"
    revision = None if repo.local else repo.revision
    return [MissingFile(repo.key, repo.ref, revision, file, remedy, remark) for file in wanted]


def _no_folder(repo: Repository) -> MissingFile:
    remedy = (
        f"{_NO_FOLDER.format(repo.ref)}; correct the path, or fetch the repository and name its "
        f"folder in {repo.key}"
    )
    return MissingFile(repo.key, repo.ref, None, FOLDER, remedy)


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


def _remedy(repo: Repository, files: Iterable[str]) -> tuple[str, str]:
    """What to do, and a remark to it."""
    files = list(files)
    pickles = _pickles(repo, files)
    said = f"only pickles are here ({', '.join(pickles)}), which higfa does not open because they "
    said += "can run code"
    if isinstance(repo.at, Path):
        if pickles:
            return (
                f"{said}; load it once with diffusers where you trust it, and "
                "`save_pretrained(FOLDER, safe_serialization=True)`"
            ), ""
        return f"copy the file into {repo.at}, or fetch the folder again", ""
    return _download(repo.at, repo.revision, files), said if pickles else ""


def _download(repo: str, revision: str | None, files: Iterable[str]) -> str:
    words = [*_COMMAND.split(), repo, *(["--revision", revision] if revision else [])]
    files = list(files)
    if files == [ENTIRE_REPOSITORY]:
        for pattern in ("*.json", "*.txt", "*.safetensors"):
            words += ["--include", pattern]
        return shlex.join(words)
    return shlex.join([*words, *files])


def _pickles(repo: Repository, files: Iterable[str]) -> list[str]:
    """Pickles that lie where safetensors are missing."""
    found: list[str] = []
    for file in files:
        if not file.endswith(".safetensors"):
            continue
        if isinstance(repo.at, Path):
            folder = (repo.at / file).parent
            found += [p.name for pattern in _PICKLES for p in sorted(folder.glob(pattern))]
        else:
            folder_name, _, name = file.rpartition("/")
            stem = "pytorch_model" if name.startswith("model.") else DIFFUSERS
            prefix = f"{folder_name}/" if folder_name else ""
            tried = [f"{prefix}{stem}{dot}.bin" for dot in ("", f".{repo.variant}")]
            found += [name for name in tried if repo.find(name) is not None]
    return list(dict.fromkeys(found))


def by_repository(missing: Iterable[MissingFile]) -> dict[tuple[str, str | None], list[str]]:
    """(repo, revision) -> its missing files."""
    grouped: dict[tuple[str, str | None], list[str]] = defaultdict(list)
    for one in missing:
        grouped[one.repo, one.revision].append(one.file)
    return dict(grouped)
