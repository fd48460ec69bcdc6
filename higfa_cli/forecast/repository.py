"""What a model's folder or repository must hold, and what of it is not here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from higfa_cli.errors import UserError
from higfa_cli.models.architecture import shipped
from higfa_cli.models.families import family_of
from higfa_cli.models.trusted import UNUSED

INDEX = "model_index.json"
CONFIG = "config.json"
SCHEDULER = "scheduler/scheduler_config.json"
ENTIRE_REPOSITORY = "(whole repository)"
_TOKENIZER = "tokenizer_config.json"
DIFFUSERS, _TRANSFORMERS = "diffusion_pytorch_model", "model"


@dataclass(frozen=True)
class Repository:
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


def missing_of_pipeline(repo: Repository) -> list[str]:
    """Files of a whole pipeline that are not here; none of one that could not be used anyway."""
    file = repo.find(INDEX)
    index = shipped(str(repo.at)).get(INDEX) if file is None else _json(file)
    if index is None:
        return [ENTIRE_REPOSITORY if file is None and not repo.local else INDEX]
    try:
        family = family_of(str(index.get("_class_name")))
    except UserError:
        return []
    missing = [INDEX] if file is None else []
    for part in _named_parts(index) or family.parts:
        if part == "scheduler":
            missing += [SCHEDULER] if repo.find(SCHEDULER) is None else []
        elif part.startswith("tokenizer"):
            missing += _of_tokenizer(repo, f"{part}/", family.vocabulary(part))
        else:
            stem = _TRANSFORMERS if part.startswith("text_encoder") else DIFFUSERS
            missing += missing_of_model(repo, f"{part}/", stem, strict=not _mixes_variants(repo))
    return missing


def _named_parts(index: Mapping[str, Any]) -> tuple[str, ...]:
    """The parts that a model_index.json names; the shipped ones name none."""
    return tuple(
        name
        for name, value in index.items()
        if isinstance(value, list) and any(value) and name not in UNUSED
    )


def _mixes_variants(repo: Repository) -> bool:
    """Whether diffusers reads parts of other variants too: in a folder that has one of this."""
    if not isinstance(repo.at, Path):
        return False
    return any(repo.at.glob(f"*/*.{repo.variant}*.safetensors"))


def _of_tokenizer(repo: Repository, prefix: str, vocabulary: Iterable[str]) -> list[str]:
    """A tokenizer is one tokenizer.json, or its vocabulary; its config says how much it reads."""
    config = [prefix + _TOKENIZER]
    if repo.find(f"{prefix}tokenizer.json") is None:
        config += [prefix + name for name in vocabulary]
    return [file for file in config if repo.find(file) is None]


def missing_of_model(repo: Repository, prefix: str, stem: str, strict: bool) -> list[str]:
    """Config and weights of one part; `strict`: weights of the recipe's variant only."""
    config = [f"{prefix}{CONFIG}"] if repo.find(f"{prefix}{CONFIG}") is None else []
    variants = [repo.variant] if strict or repo.variant is None else [repo.variant, None]
    for variant in variants:
        dot = f".{variant}" if variant else ""
        single = f"{prefix}{stem}{dot}.safetensors"
        path = repo.find(single)
        if path is not None:
            return config if _is_whole(path) else [*config, single]
        index = repo.find(f"{prefix}{stem}.safetensors.index{dot}.json")
        if index is not None:
            return config + _shards(repo, prefix, index)
    dot = f".{repo.variant}" if repo.variant and strict else ""
    # Only the repository itself knows whether its weights come in one file or in shards.
    return [*config, f"{prefix}{stem}{dot}.safetensors"]


def _shards(repo: Repository, prefix: str, index: Path) -> list[str]:
    names = (_json(index) or {}).get("weight_map")
    if not isinstance(names, dict):
        return [f"{prefix}{index.name}"]
    missing = []
    for name in sorted(set(names.values())):
        path = repo.find(f"{prefix}{name}")
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
