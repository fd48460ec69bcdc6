"""Before any library reads a model's folder: it may name no code of its own, and no pickle.

diffusers and transformers refuse most of this by themselves; what is checked here does not depend
on their version or their defaults.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from higfa_cli.errors import UserError

INDEX = "model_index.json"
_MAY_NAME_CODE = ("config.json", "tokenizer_config.json")
_LIBRARIES = ("diffusers", "transformers")
#: Parts of a pipeline that higfa leaves out, so that their classes are never looked up.
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
_REMEDY = (
    "higfa runs no code of a model; use a plain diffusers folder with .safetensors weights "
    "(`save_pretrained(FOLDER, safe_serialization=True)`)"
)
_LARGEST_JSON = 20_000_000


class Absent(UserError):
    """A file of a model is nowhere on this machine."""


def check_index(index: Mapping[str, object], name: str) -> None:
    """Check the content of a model_index.json; `name` is how messages call the model.

    Raises UserError: a pipeline or a part of it is a class from elsewhere than diffusers and
    transformers.
    """
    if not isinstance(index.get("_class_name"), str):
        raise UserError(
            f"{name}: model_index.json names a pipeline of its own "
            f"({str(index.get('_class_name'))[:80]}); {_REMEDY}"
        )
    for part, value in index.items():
        if not isinstance(value, list) or part in UNUSED or not any(value):
            continue
        if value[0] not in _LIBRARIES or not all(isinstance(word, str) for word in value):
            raise UserError(
                f"{name}: model_index.json names a class of its own for `{part}` "
                f"({str(value)[:80]}); {_REMEDY}"
            )


def check_folder(folder: Path, name: str) -> None:
    """Check a local folder of a pipeline, a ControlNet or an autoencoder; reads JSON files only.

    Raises UserError: code named by a configuration (`auto_map`, a part of its own), or an index
    of weights that leads to anything but .safetensors files beside it.
    """
    if (folder / INDEX).is_file():
        check_index(read_config(folder / INDEX, name), name)
    for path in sorted(filter(Path.is_file, [*folder.glob("*.json"), *folder.glob("*/*.json")])):
        if ".index." in path.name:
            _check_shards(path, read_config(path, name), name)
        elif path.name in _MAY_NAME_CODE and read_config(path, name).get("auto_map"):
            raise UserError(f"{name}: {path} names code of its own (auto_map); {_REMEDY}")


def _check_shards(path: Path, content: Mapping[str, Any], name: str) -> None:
    shards = content.get("weight_map")
    if not isinstance(shards, dict):
        raise UserError(f"{name}: {path} has no weight_map; fetch the model again")
    for shard in shards.values():
        plain = isinstance(shard, str) and Path(shard).name == shard and "\\" not in shard
        if not plain or (path.name.count(".safetensors.") and not shard.endswith(".safetensors")):
            raise UserError(
                f"{name}: {path} leads to {str(shard)[:80]!r}, not to a .safetensors file beside "
                f"it; {_REMEDY}"
            )


def read_config(path: Path, name: str) -> dict[str, Any]:
    """A JSON object of a model's folder. Raises UserError: absent, too large or another thing."""
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise ValueError(f"more than {_LARGEST_JSON:,} bytes")
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise Absent(f"{name}: {path} does not exist; give a folder in diffusers' layout") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{name}: {path} is not readable JSON ({error}); fetch it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{name}: {path} holds no JSON object; fetch it again")
    return content
