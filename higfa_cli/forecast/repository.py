"""What a model's folder or repository must hold, and what of it is not here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from higfa_cli.errors import UserError
from higfa_cli.models.architecture import shipped
from higfa_cli.models.families import family_of
from higfa_cli.models.trusted import UNUSED

ENTIRE_REPOSITORY = "(whole repository)"
_INDEX = "model_index.json"
_SCHEDULER = "scheduler/scheduler_config.json"
_DIFFUSERS, _TRANSFORMERS = "diffusion_pytorch_model", "model"


@dataclass(frozen=True)
class Repository:
    """A folder or a hub id, with the revision and variant that the recipe names."""

    at: Path | str
    revision: str | None
    variant: str | None = None

    def find(self, file: str) -> Path | None:
        """The file, if it is here."""
        if isinstance(self.at, Path):
            path = self.at / file
            return path if path.is_file() else None
        cached = try_to_load_from_cache(self.at, file, revision=self.revision)
        return Path(cached) if isinstance(cached, str) else None

    def lacks(self, *files: str) -> list[str]:
        """Those of the files that are not here."""
        return [file for file in files if self.find(file) is None]


def missing_of_pipeline(repo: Repository) -> list[str]:
    """Files of a whole pipeline that are not here; none of one that could not be used anyway."""
    file = repo.find(_INDEX)
    index = shipped(str(repo.at)).get(_INDEX) if file is None else _json(file.read_bytes())
    if index is None:
        is_folder = isinstance(repo.at, Path)
        return [_INDEX if is_folder or file is not None else ENTIRE_REPOSITORY]
    try:
        family = family_of(str(index.get("_class_name")))
    except UserError:
        return []
    # The shipped indices name no parts.
    named = [
        name
        for name, value in index.items()
        if isinstance(value, list) and any(value) and name not in UNUSED
    ]
    # diffusers reads parts of other variants too, in a folder that has one of this.
    mixed = isinstance(repo.at, Path) and any(repo.at.glob(f"*/*.{repo.variant}*.safetensors"))
    missing = repo.lacks(_INDEX)
    for part in named or family.parts:
        if part == "scheduler":
            missing += repo.lacks(_SCHEDULER)
        elif part.startswith("tokenizer"):
            # One tokenizer.json, or the vocabulary; the config says how much it reads.
            whole = repo.find(f"{part}/tokenizer.json") is not None
            files = ("tokenizer_config.json", *(() if whole else family.vocabulary(part)))
            missing += repo.lacks(*(f"{part}/{name}" for name in files))
        else:
            stem = _TRANSFORMERS if part.startswith("text_encoder") else _DIFFUSERS
            missing += missing_of_model(repo, f"{part}/", stem, strict=not mixed)
    return missing


def missing_of_model(
    repo: Repository, prefix: str = "", stem: str = _DIFFUSERS, strict: bool = True
) -> list[str]:
    """Config and weights of one part; `strict`: weights of the recipe's variant only."""
    config = repo.lacks(f"{prefix}config.json")
    variants = [repo.variant] if strict or repo.variant is None else [repo.variant, None]
    for variant in variants:
        dot = f".{variant}" if variant else ""
        single = f"{prefix}{stem}{dot}.safetensors"
        path = repo.find(single)
        if path is not None:
            return config if _is_whole(path) else [*config, single]
        index = repo.find(f"{prefix}{stem}.safetensors.index{dot}.json")
        if index is not None:
            return config + _missing_shards(repo, prefix, index)
    # Only the repository itself knows whether its weights come in one file or in shards: `single`
    # is the one of the last variant that was looked for.
    return [*config, single]


def _missing_shards(repo: Repository, prefix: str, index: Path) -> list[str]:
    names = (_json(index.read_bytes()) or {}).get("weight_map")
    if not isinstance(names, dict):
        return [f"{prefix}{index.name}"]
    shards = {f"{prefix}{name}" for name in names.values()}
    paths = {name: repo.find(name) for name in sorted(shards)}
    return [name for name, path in paths.items() if path is None or not _is_whole(path)]


def _is_whole(path: Path) -> bool:
    """Whether a safetensors file is as long as its header says: a broken copy is shorter."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= size - 8:
            return False
        header = _json(file.read(length))
    if header is None:
        return False
    ends = [v["data_offsets"][1] for name, v in header.items() if name != "__metadata__"]
    return bool(8 + length + max(ends, default=0) == size)


def _json(data: bytes) -> dict[str, Any] | None:
    """A JSON object; None for anything else."""
    try:
        content = json.loads(data)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None
