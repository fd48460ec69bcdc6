"""Classifier networks: any timm model by name, from scratch, from the hub or from a local file."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import timm
import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from higfa_cli.errors import UserError
from higfa_cli.recipe.classifiers import OTHER_START, Training, not_pretrained
from higfa_cli.recipe.refs import weights_path
from higfa_cli.text import did_you_mean, first_line, one_line, plain_words

# The one metadata key that higfa's checkpoints use: safetensors writes several keys in an order
# that changes from run to run, and equal classifiers should be equal files.
METADATA_KEY = "higfa"
_HALF = (0.5, 0.5, 0.5)
_HUB_TIMEOUT_S = 10.0
_HUB_PREFIX = re.compile(r"^(?:hf[-_]hub:|https://huggingface\.co/)?(?:timm/)?")
# Tensors whose shape follows the size of the input.
_POSITIONS = re.compile(r"pos_embed|position|rel_pos|attn_mask")

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
#: Mean and standard deviation per channel, on the scale where pictures are in [0, 1].
Mean = tuple[Finite, Finite, Finite]
Std = tuple[Positive, Positive, Positive]


@dataclass(frozen=True)
class Backbone:
    """A network and the normalisation of its input.

    `network`: [B, 3, S, S] normalised -> logits [B, K]. `skipped`: names in a weights file that
    were not loaded (the head, which belongs to other classes).
    """

    name: str
    network: nn.Module
    mean: Mean = _HALF
    std: Std = _HALF
    skipped: tuple[str, ...] = ()


def create_backbone(
    training: Training, classes: int, base: Path, seed: int, key: str = "guide"
) -> Backbone:
    """A network for `classes` classes as the recipe section asks; the head starts from `seed`.

    `weights` (a local .safetensors file, relative to `base`) wins over `pretrained`. `key` is the
    recipe section, for messages. Global random state is left as it was.

    Raises UserError: unknown name, unreachable hub, unreadable or unfitting weights file.
    """
    check_name(training.backbone, key)
    download = training.pretrained and training.weights is None
    if download:
        _check_hub(training.backbone, key)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_network(
            training.backbone, classes, training.image_size, pretrained=download, key=key
        )
    network.eval()
    # Fail now, not after the data are prepared.
    try:
        with torch.no_grad():
            network(torch.zeros(1, 3, training.image_size, training.image_size))
    except Exception as error:
        raise _unfit(training.backbone, training.image_size, key, error) from error
    backbone = Backbone(training.backbone, network)
    if training.weights is not None:
        return _with_weights(backbone, weights_path(training.weights, base), key)
    if download:
        mean, std = _timm_normalisation(network)
        return replace(backbone, mean=mean, std=std)
    return backbone


def build_network(
    name: str, classes: int, image_size: int, pretrained: bool = False, key: str = "guide"
) -> nn.Module:
    """timm's network `name` with a head of `classes` outputs, for inputs of `image_size` pixels.

    Raises UserError when timm cannot build it at that size or cannot fetch its weights.
    """
    fixed = bool(timm.models.get_pretrained_cfg_value(name, "fixed_input_size"))
    # Transformers with position tables must be told the size; convolutional nets refuse the word.
    sized: dict[str, Any] = {"img_size": image_size} if fixed else {}
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=classes, **sized)
    except Exception as error:
        if pretrained:
            raise _no_download(name, key, error) from error
        raise _unfit(name, image_size, key, error) from error


def _unfit(name: str, size: int, key: str, error: Exception) -> UserError:
    return UserError(
        f"timm's {name} cannot read {size} px ({first_line(error)}); choose another "
        f"`{key}.image_size` or `{key}.backbone`"
    )


def check_name(name: str, key: str = "guide") -> None:
    """Raise UserError with the nearest names unless timm knows `name`."""
    bare = _HUB_PREFIX.sub("", name)
    if timm.is_model(name):
        arch, _, tag = name.partition(".")
        tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{arch}.*")]
        if not tag or tag in tags:
            return
        raise UserError(
            f"{key}.backbone: timm has no weights `{tag}` of {arch}; "
            + (f"write {arch} followed by .{' or .'.join(tags[:5])}" if tags else f"write {arch}")
        )
    if bare != name and timm.is_model(bare):
        raise UserError(f"{key}.backbone: `{name}` is a hub id; write timm's name, {bare}")
    hint = did_you_mean(name.split(".")[0], timm.list_models(), "see timm.list_models()")
    raise UserError(f"{key}.backbone: timm has no model `{name}`; {hint}")


def read_weights(path: Path, what: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of a safetensors file, and higfa's own metadata ({} in files of others).

    Only safetensors is opened: a pickle runs whatever code its author put in.
    Raises UserError for an absent, broken or other file.
    """
    if path.suffix != ".safetensors":
        raise UserError(
            f"{what} {path} is not a .safetensors file, and pickles (.pt, .pth, .bin, .ckpt) are "
            "not opened because they can run code; convert it with safetensors.torch.save_file"
        )
    if not path.is_file():
        raise UserError(f"{what} {path} does not exist; correct the path")
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = handle.metadata() or {}
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
        ours = json.loads(metadata.get(METADATA_KEY, "{}"))
    # RecursionError: metadata that is nested a thousand deep. TypeError, KeyError: a data type
    # that this version of torch has not.
    except (SafetensorError, OSError, ValueError, RecursionError, TypeError, KeyError) as error:
        raise UserError(
            f"{what} {path} is not a readable safetensors file ({first_line(error)}); "
            "write or fetch it again"
        ) from error
    return tensors, ours if isinstance(ours, dict) else {}


def load_strictly(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load every tensor of `network`; raises UserError naming what is missing, extra or unlike."""
    for name, tensor in tensors.items():
        # Small types have no such test of their own.
        number = tensor.float() if tensor.is_floating_point() and tensor.itemsize < 2 else tensor
        if tensor.is_complex() or not bool(torch.isfinite(number).all()):
            raise UserError(
                f"{path}: {name} holds values that are not finite numbers, as after a training "
                "that diverged; train it again with a smaller learning_rate, or fetch it again"
            )
    try:
        network.load_state_dict(dict(tensors), strict=True)
    except RuntimeError as error:
        raise UserError(
            f"{path} does not fit the network ({one_line(error)[:200]}); "
            "choose the backbone that the weights were made for"
        ) from None


def _with_weights(backbone: Backbone, path: Path, key: str) -> Backbone:
    tensors, metadata = read_weights(path, f"{key}.weights")
    network = backbone.network
    named: Any = getattr(network, "pretrained_cfg", {}).get("classifier") or ()
    heads = tuple(f"{name}." for name in ((named,) if isinstance(named, str) else named))
    wanted = {name for name in network.state_dict() if not name.startswith(heads)}
    tensors = _unwrapped(tensors, wanted)
    skipped = tuple(sorted(name for name in tensors if name.startswith(heads)))
    head = {name: value for name, value in network.state_dict().items() if name.startswith(heads)}
    body = {name: value for name, value in tensors.items() if name not in skipped}
    load_strictly(network, _resampled(network, body) | head, path)
    mean, std = _timm_normalisation(network)
    if {"mean", "std"} <= metadata.keys():
        try:
            given = (metadata["mean"], metadata["std"])
            mean, std = TypeAdapter(tuple[Mean, Std]).validate_python(given)
        except ValidationError as error:
            raise UserError(
                f"{path} has broken metadata ({first_fault(error)}); write or fetch it again"
            ) from None
    return replace(backbone, skipped=skipped, mean=mean, std=std)


def _unwrapped(tensors: dict[str, Tensor], wanted: Collection[str]) -> dict[str, Tensor]:
    """Without what wrappers of a training leave before every name (`module.`, `_orig_mod.`)."""
    bare = tensors
    while bare and not any(name in wanted for name in bare):
        parts = {name.partition(".")[0] for name in bare}
        if len(parts) > 1 or any("." not in name for name in bare):
            return tensors
        bare = {name.partition(".")[2]: tensor for name, tensor in bare.items()}
    return bare


def _resampled(network: nn.Module, body: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file for another input size: its tables of positions as timm fits them."""
    want = network.state_dict()
    unlike = {name for name, t in body.items() if name not in want or t.shape != want[name].shape}
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if not unlike or convert is None or not all(map(_POSITIONS.search, unlike)):
        return body
    fitted = convert(dict(body), network)
    return {
        name: fitted[name] if name in unlike else t for name, t in body.items() if name in fitted
    }


def first_fault(error: ValidationError) -> str:
    """What is wrong with metadata, and where."""
    fault = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, fault['loc']))}: {plain_words(fault['msg'])}"


def _timm_normalisation(network: nn.Module) -> tuple[Mean, Std]:
    config = resolve_model_data_config(network)
    return tuple(config["mean"]), tuple(config["std"])


def _check_hub(name: str, key: str) -> None:
    """Fail within seconds where the hub is out of reach: its client retries for a minute."""
    hub_id = timm.models.get_pretrained_cfg_value(name, "hf_hub_id")
    if not timm.models.is_model_pretrained(name):
        raise not_pretrained(name, key)
    if not hub_id or isinstance(try_to_load_from_cache(hub_id, "model.safetensors"), str):
        return
    try:
        HfApi().model_info(hub_id, timeout=_HUB_TIMEOUT_S)
    except Exception as error:
        raise _no_download(name, key, error) from error


def _no_download(name: str, key: str, error: Exception) -> UserError:
    return UserError(
        f"pretrained weights of {name} cannot be fetched from the hub ({first_line(error)}); "
        f"{OTHER_START.format(key=key)}"
    )
