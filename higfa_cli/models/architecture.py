"""What a model is made of, read without its weights and without the network.

The configurations are the models' own `config.json` files: those of a local folder, of the hub's
cache, or, for a few public models that everybody uses, copies in `known/`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from higfa_cli.errors import UserError
from higfa_cli.recipe.drawing import Model
from higfa_cli.recipe.refs import resolve_ref

FamilyName = Literal["sd", "sdxl"]

#: Hub id -> its shipped configurations, as `known/NAME.json`: file of the repository -> content.
KNOWN: Mapping[str, str] = {
    "stabilityai/stable-diffusion-xl-base-1.0": "sdxl-base",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "sd15",
    "diffusers/controlnet-canny-sdxl-1.0": "controlnet-canny-sdxl",
    "lllyasviel/control_v11p_sd15_canny": "controlnet-canny-sd15",
    "madebyollin/taesdxl": "taesd",
    "madebyollin/taesd": "taesd",
}


@dataclass(frozen=True)
class Architecture:
    """Configurations of every part of a model, as in the parts' own `config.json` files.

    Attributes:
        family: `sd` (Stable Diffusion 1.x and 2.x) or `sdxl`.
        unet, controlnet, vae, scheduler: diffusers configurations.
        text_encoders: transformers configurations, one per encoder.
        gradient_vae: an AutoencoderTiny's, where the recipe names one.
    """

    family: FamilyName
    unet: dict[str, Any]
    controlnet: dict[str, Any]
    vae: dict[str, Any]
    scheduler: dict[str, Any]
    text_encoders: tuple[dict[str, Any], ...]
    gradient_vae: dict[str, Any] | None


def family_of(class_name: str) -> FamilyName:
    """The family of a pipeline, by `_class_name` of its model_index.json.

    Raises UserError, naming the class, for pipelines of other families.
    """
    if class_name.endswith("Pipeline"):
        if class_name.startswith("StableDiffusionXL"):
            return "sdxl"
        # StableDiffusion3Pipeline and its kin share the prefix only.
        if class_name.startswith("StableDiffusion") and not class_name[15].isdigit():
            return "sd"
    raise UserError(
        f"model_index.json names a `{class_name}`, which is not supported; use a model of a "
        "StableDiffusion*Pipeline (1.x, 2.x) or StableDiffusionXL*Pipeline"
    )


def architecture(settings: Model, base: Path) -> Architecture:
    """The configurations of the models that `synthesize` names. Never asks the network.

    Args:
        settings: the recipe's section.
        base: the recipe's folder.

    Raises:
        UserError: a configuration that is nowhere on this machine, a model of another family, or
            a ControlNet that does not fit the model.
    """
    model = _Source("base", settings.base, settings.revision, base)
    control = _Source("controlnet", settings.controlnet, settings.controlnet_revision, base)
    family = family_of(str(model.read("model_index.json").get("_class_name")))
    encoders = ("text_encoder", "text_encoder_2") if family == "sdxl" else ("text_encoder",)
    found = Architecture(
        family=family,
        unet=model.read("unet/config.json"),
        controlnet=control.read("config.json"),
        vae=model.read("vae/config.json"),
        scheduler=model.read("scheduler/scheduler_config.json"),
        text_encoders=tuple(model.read(f"{name}/config.json") for name in encoders),
        gradient_vae=_gradient_vae(settings, base),
    )
    _check_fit(found, settings)
    return found


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


def _check_fit(found: Architecture, settings: Model) -> None:
    name = found.controlnet.get("_class_name")
    if name != "ControlNetModel":
        raise UserError(
            f"model.controlnet `{settings.controlnet}` is a `{name}`; use a ControlNetModel"
        )
    ours, theirs = (c.get("cross_attention_dim") for c in (found.unet, found.controlnet))
    if ours != theirs:
        raise UserError(
            f"model.controlnet `{settings.controlnet}` reads text states of width {theirs}, "
            f"but model.base `{settings.base}` has {ours}; use a ControlNet made for it"
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
        shipped = _known(KNOWN[self.place]) if self.place in KNOWN else {}
        if file in shipped:
            return shipped[file]
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


def _known(name: str) -> dict[str, dict[str, Any]]:
    """The shipped copy `known/NAME.json`."""
    file = resources.files("higfa_cli.models").joinpath("known", f"{name}.json")
    return json.loads(file.read_text(encoding="utf-8"))
