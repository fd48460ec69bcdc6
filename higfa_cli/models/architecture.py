"""What a model is made of, read without its weights and without the network.

The configurations are the models' own `config.json` files: those of a local folder, of the hub's
cache, or, for a few public models that everybody uses, copies in `known/`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from higfa_cli.errors import UserError
from higfa_cli.models.families import FAMILIES, KNOWN, family_of
from higfa_cli.models.families.family import Architecture, Family
from higfa_cli.recipe.drawing import Model
from higfa_cli.recipe.refs import resolve_ref


class WrongSize(UserError):
    """`size` is none that the model can draw."""


def architecture(settings: Model, base: Path) -> Architecture:
    """The configurations of the models that `synthesize` names. Never asks the network.

    Args:
        settings: the recipe's section.
        base: the recipe's folder.

    Raises:
        UserError: a configuration that is nowhere on this machine, a model of another family, or
            a ControlNet that does not fit the model.
    """
    model = _model_source(settings, base)
    control = _Source("controlnet", settings.controlnet, settings.controlnet_revision, base)
    index = model.read("model_index.json")
    family = _family(index)
    arch = Architecture(
        family=family.name,
        network=model.read(f"{family.network}/config.json"),
        controlnet=control.read("config.json"),
        vae=model.read("vae/config.json"),
        scheduler=model.read("scheduler/scheduler_config.json"),
        text_encoders=tuple(model.read(f"{name}/config.json") for name in family.encoders(index)),
        gradient_vae=_gradient_vae(settings, base),
    )
    check_fit(arch, settings)
    return arch


def family_at(settings: Model, base: Path) -> Family:
    """The family of the model that `model.base` names. Never asks the network.

    Raises UserError: no model_index.json on this machine, or one of another family.
    """
    return _family(_model_source(settings, base).read("model_index.json"))


def _model_source(settings: Model, base: Path) -> _Source:
    return _Source("base", settings.base, settings.revision, base)


def _family(index: dict[str, Any]) -> Family:
    return family_of(str(index.get("_class_name")))


def _gradient_vae(settings: Model, base: Path) -> dict[str, Any] | None:
    if settings.gradient_autoencoder is None:
        return None
    ref, revision = settings.gradient_autoencoder, settings.gradient_autoencoder_revision
    config = _Source("gradient_autoencoder", ref, revision, base).read("config.json")
    name = config.get("_class_name")
    if name != "AutoencoderTiny":
        raise UserError(
            f"model.gradient_autoencoder `{ref}` is a `{name}`; use an AutoencoderTiny, "
            "or leave the key out"
        )
    return config


def check_fit(arch: Architecture, settings: Model) -> None:
    """Raise UserError unless network, ControlNet and autoencoder go together."""
    family = FAMILIES[arch.family]
    name = arch.controlnet.get("_class_name")
    if name != family.controlnet_class:
        raise UserError(
            f"model.controlnet `{settings.controlnet}` is a `{name}`; use "
            f"a {family.controlnet_class}"
        )
    reads, draws = family.latent_channels(arch.network), arch.vae.get("latent_channels")
    if reads is not None and draws is not None and reads != draws:
        raise UserError(
            f"model.base `{settings.base}`: its denoiser reads {reads} channels, its "
            f"autoencoder has {draws}; use a text-to-image model (not inpainting or upscaling)"
        )
    ours, theirs = (family.text_width(c) for c in (arch.network, arch.controlnet))
    if theirs is not None and ours != theirs:
        raise UserError(
            f"model.controlnet `{settings.controlnet}` reads text states of width {theirs}, "
            f"but model.base `{settings.base}` has {ours}; use a ControlNet made for it"
        )


def check_size(arch: Architecture, size: int, settings: Model) -> None:
    """Raise WrongSize unless the model can draw squares of `size` pixels."""
    family = FAMILIES[arch.family]
    multiple, largest = family.size_multiple(arch), family.largest_size(arch)
    if largest is not None and size > largest:
        raise WrongSize(
            f"size: {size} is more than {largest}, the largest that `{settings.base}` draws; set "
            f"size to {largest} at most"
        )
    if size % multiple:
        below = size // multiple * multiple
        near = " or ".join(str(side) for side in (below, below + multiple) if side)
        raise WrongSize(
            f"size: {size} is not a multiple of {multiple}, which `{settings.base}` needs; "
            f"set size to {near}"
        )


@dataclass(frozen=True)
class _Source:
    """Where the configurations of one reference of the recipe are found."""

    key: str
    ref: str
    revision: str | None
    base: Path

    @cached_property
    def place(self) -> Path | str:
        return resolve_ref(self.ref, self.base)

    def read(self, file: str) -> dict[str, Any]:
        """One JSON file. Raises UserError where it is missing or not a JSON object."""
        if isinstance(self.place, Path):
            return self._parse(self.place / file)
        try:
            cached = try_to_load_from_cache(self.place, file, revision=self.revision)
        except HFValidationError:
            raise UserError(
                f"model.{self.key}: `{self.ref}` is neither a folder nor a hub id; correct it"
            ) from None
        if isinstance(cached, str):
            return self._parse(Path(cached))
        content = shipped(self.place)
        if file in content:
            return content[file]
        pin = f" --revision {self.revision}" if self.revision else ""
        raise UserError(
            f"model.{self.key}: {file} of `{self.ref}` is not on this machine; fetch it with "
            f'`hf download {self.ref}{pin} --include "*.json"`, or give a local diffusers folder'
        )

    def _parse(self, path: Path) -> dict[str, Any]:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(
                f"model.{self.key}: {path} does not exist; give a folder in diffusers' layout"
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(
                f"model.{self.key}: {path} is not readable JSON ({error}); fetch it again"
            ) from None
        if not isinstance(content, dict):
            raise UserError(f"model.{self.key}: {path} holds no JSON object; fetch it again")
        return content


def shipped(repo: str) -> dict[str, dict[str, Any]]:
    """File -> content of the configurations of a public model that higfa ships; often none."""
    if repo not in KNOWN:
        return {}
    name = f"{KNOWN[repo]}.json"
    file = resources.files("higfa_cli.models").joinpath("known", name)
    return json.loads(file.read_text(encoding="utf-8"))
