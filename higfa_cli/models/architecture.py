"""What a model is made of, read without its weights and without the network.

The configurations are the models' own `config.json` files: those of a local folder, of the hub's
cache, or, for a few public models that everybody uses, copies in `known/`.
"""

from __future__ import annotations

import json
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from higfa_cli.errors import UserError
from higfa_cli.models.families import FAMILIES, KNOWN, family_of
from higfa_cli.models.families.family import Architecture, Family, vae_factor
from higfa_cli.models.forms import check_form
from higfa_cli.models.trusted import Absent, read_config
from higfa_cli.recipe.drawing import Model
from higfa_cli.recipe.refs import resolve_ref
from higfa_cli.recipe.schema import Recipe


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
    read = partial(_config, base=base)
    model = partial(read, "base", settings.base, settings.revision)
    index = model("model_index.json")
    family = family_of(str(index.get("_class_name")))
    control, tiny = settings.controlnet, settings.gradient_autoencoder
    gradient_vae = None
    if tiny is not None:
        revision = settings.gradient_autoencoder_revision
        gradient_vae = read("gradient_autoencoder", tiny, revision, "config.json")
        name = gradient_vae.get("_class_name")
        if name != "AutoencoderTiny":
            raise UserError(
                f"model.gradient_autoencoder `{tiny}` is a `{name}`; use an AutoencoderTiny, "
                "or leave the key out"
            )
    arch = Architecture(
        family=family.name,
        network=model(f"{family.network}/config.json"),
        controlnet=read("controlnet", control, settings.controlnet_revision, "config.json"),
        vae=model("vae/config.json"),
        scheduler=model("scheduler/scheduler_config.json"),
        text_encoders=tuple(model(f"{name}/config.json") for name in family.encoders(index)),
        gradient_vae=gradient_vae,
    )
    check_fit(arch, settings)
    return arch


def family_at(settings: Model, base: Path) -> Family:
    """The family of the model that `model.base` names. Never asks the network.

    Raises UserError: no model_index.json on this machine, or one of another family.
    """
    index = _config("base", settings.base, settings.revision, "model_index.json", base)
    return family_of(str(index.get("_class_name")))


def check_fit(arch: Architecture, settings: Model) -> None:
    """Raise UserError unless network, ControlNet and autoencoder go together."""
    family = FAMILIES[arch.family]
    name = arch.controlnet.get("_class_name")
    if name != family.controlnet_class:
        raise UserError(
            f"model.controlnet `{settings.controlnet}` is a `{name}`; use "
            f"a {family.controlnet_class}"
        )
    reads, draws = arch.network.get("in_channels"), arch.vae.get("latent_channels")
    if reads is not None and draws is not None and reads != draws:
        raise UserError(
            f"model.base `{settings.base}`: its denoiser reads {reads} channels, its "
            f"autoencoder has {draws}; use a text-to-image model (not inpainting or upscaling)"
        )
    if arch.scheduler.get("rescale_betas_zero_snr") and (
        family.prediction_type(arch.scheduler) == "epsilon"
    ):
        raise UserError(
            f"model.base `{settings.base}`: its scheduler ends at a signal-to-noise ratio of zero, "
            "which needs a model that predicts v; correct prediction_type or "
            "rescale_betas_zero_snr in scheduler/scheduler_config.json"
        )
    tiny = arch.gradient_vae
    if tiny is not None and (tiny.get("latent_channels"), vae_factor(tiny)) != (
        draws,
        arch.vae_factor,
    ):
        raise UserError(
            f"model.gradient_autoencoder `{settings.gradient_autoencoder}` reads "
            f"{tiny.get('latent_channels')} channels at 1/{vae_factor(tiny)} of the size, but "
            f"`{settings.base}` draws {draws} at 1/{arch.vae_factor}; use the tiny autoencoder "
            "made for this model"
        )
    ours, theirs = (part.get(family.text_width) for part in (arch.network, arch.controlnet))
    if theirs is not None and ours != theirs:
        raise UserError(
            f"model.controlnet `{settings.controlnet}` reads text states of width {theirs}, "
            f"but model.base `{settings.base}` has {ours}; use a ControlNet made for it"
        )


def check_model(recipe: Recipe, base: Path) -> None:
    """Raise UserError for a model that cannot draw as the recipe asks, by what is here of it.

    Needs no torch; what is nowhere on this machine may still be fetched, and is no error here.
    """
    settings = recipe.model
    for key in ("base", "controlnet"):
        place = resolve_ref(getattr(settings, key), base)
        if isinstance(place, Path):
            check_form(place, f"model.{key} `{getattr(settings, key)}`", settings.variant)
    try:
        arch = architecture(settings, base)
    except Absent:
        return
    check_size(arch, recipe.size, settings)
    FAMILIES[arch.family].check_scheduler(recipe.sampling.scheduler)


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


def _config(key: str, ref: str, revision: str | None, file: str, base: Path) -> dict[str, Any]:
    """One JSON file of what `model.KEY` refers to: in a folder, the hub's cache or `known/`."""
    place, name = resolve_ref(ref, base), f"model.{key}"
    if isinstance(place, Path):
        if place.is_file() or not (place / file).is_file():
            check_form(place, f"{name} `{ref}`")
        return read_config(place / file, name)
    # A look at files needs no hub.
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(place, file, revision=revision)
    except HFValidationError:
        raise UserError(f"{name}: `{ref}` is neither a folder nor a hub id; correct it") from None
    if isinstance(cached, str):
        return read_config(Path(cached), name)
    if file in (content := shipped(place)):
        return content[file]
    pin = f" --revision {revision}" if revision else ""
    raise Absent(
        f"{name}: {file} of `{ref}` is not on this machine; fetch it with "
        f'`hf download {ref}{pin} --include "*.json"`, or give a local diffusers folder'
    )


def shipped(repo: str) -> dict[str, dict[str, Any]]:
    """File -> content of the configurations of a public model that higfa ships; often none."""
    if repo not in KNOWN:
        return {}
    name = f"{KNOWN[repo]}.json"
    file = resources.files("higfa_cli.models").joinpath("known", name)
    return json.loads(file.read_text(encoding="utf-8"))
