"""From a recipe to a model that can draw.

Only safetensors are read, and no code from a folder or a hub repository is run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from higfa_cli.errors import UserError
from higfa_cli.models.architecture import check_fit, check_model, check_size
from higfa_cli.models.autoencoder import Autoencoder
from higfa_cli.models.diffusion import DiffusionModel
from higfa_cli.models.families import family_of
from higfa_cli.models.families.family import Architecture, Family, diffusers_class
from higfa_cli.models.forms import check_form
from higfa_cli.models.text import TextStates
from higfa_cli.models.trusted import check_folder, check_index
from higfa_cli.recipe.drawing import Memory
from higfa_cli.recipe.refs import resolve_ref
from higfa_cli.recipe.schema import Recipe
from higfa_cli.text import first_line


def load_pipeline(
    recipe: Recipe, base: Path, device: torch.device, prompts: Iterable[str]
) -> DiffusionModel:
    """Load the model that the recipe names, from a folder, the pocket or a hub id.

    Args:
        recipe: whose sections `model`, `sampling`, `run` and whose size are honoured.
        base: the recipe's folder.
        device: where it will draw.
        prompts: every prompt, negative ones too, that will ever be asked for. They are encoded
            now, each once, and the text encoders are freed before the denoiser takes their place.

    Raises:
        UserError: a missing or unreadable model, one of another family, a gradient autoencoder
            that does not fit it, or a size that it cannot draw.
    """
    settings, memory = recipe.model, recipe.run.memory
    family, pipe = _load_pipe(recipe, base)
    arch = _architecture(family, pipe)
    check_fit(arch, settings)
    check_size(arch, recipe.size, settings)
    tokenizers = tuple(getattr(pipe, name) for name in family.tokenizers)
    encoded = _encode(family, pipe, device, prompts)
    vae, network, controlnet = pipe.vae, getattr(pipe, family.network), pipe.controlnet
    scheduler_config = pipe.scheduler.config
    # The pipeline holds the text encoders: without it they can go.
    del pipe
    offloads = _place(network, controlnet, memory, device)
    autoencoder = Autoencoder(vae, memory, settings.tiling).to(device)
    gradient = autoencoder
    if settings.gradient_autoencoder is not None:
        gradient = _gradient_autoencoder(recipe, base, autoencoder).to(device)
    return DiffusionModel(
        family=family,
        tokenizers=tokenizers,
        prompts=encoded,
        network=network,
        controlnet=controlnet,
        autoencoder=autoencoder,
        gradient_autoencoder=gradient,
        scheduler_config=scheduler_config,
        sampling=recipe.sampling,
        size=recipe.size,
        device=device,
        offloads=offloads,
    )


def _load_pipe(recipe: Recipe, base: Path) -> tuple[Family, Any]:
    from diffusers import DiffusionPipeline

    settings, offline = recipe.model, recipe.run.local_files_only
    model, control = (resolve_ref(r, base) for r in (settings.base, settings.controlnet))
    model_name = f"model.base `{settings.base}`"
    control_name = f"model.controlnet `{settings.controlnet}`"
    for place, name in ((model, model_name), (control, control_name)):
        if isinstance(place, Path):
            check_form(place, name, settings.variant)
            check_folder(place, name)
    check_model(recipe, base)
    dtype = getattr(torch, settings.dtype)
    # The autoencoder works in float32, so its weights must not be rounded on the way.
    precisions = {"default": dtype, "vae": torch.float32}
    options = {
        "variant": settings.variant,
        "use_safetensors": True,
        "local_files_only": offline,
    }
    with _errors_in_one_line(f"{model_name} / {control_name}", offline):
        index = DiffusionPipeline.load_config(
            model, revision=settings.revision, local_files_only=offline
        )
        check_index(index, model_name)
        family = family_of(str(index.get("_class_name")))
        family.check_scheduler(recipe.sampling.scheduler)
        controlnet = diffusers_class(family.controlnet_class).from_pretrained(
            control, dtype=dtype, revision=settings.controlnet_revision, **options
        )
        pipe = diffusers_class(family.pipeline).from_pretrained(
            model,
            controlnet=controlnet,
            dtype=precisions,
            revision=settings.revision,
            **family.pipeline_options(index),
            **options,
        )
    return family, pipe


def _architecture(family: Family, pipe: Any) -> Architecture:
    """The configurations of what was loaded; of the text encoders nothing is asked."""

    def config(name: str) -> dict[str, Any]:
        part = getattr(pipe, name)
        return {"_class_name": type(part).__name__, **part.config}

    parts = (family.network, "controlnet", "vae", "scheduler")
    network, controlnet, vae, scheduler = map(config, parts)
    return Architecture(family.name, network, controlnet, vae, scheduler, (), None)


def _encode(
    family: Family, pipe: Any, device: torch.device, prompts: Iterable[str]
) -> dict[str, TextStates]:
    """Every distinct prompt once; the results wait in main memory."""
    for name in family.text_encoders:
        if getattr(pipe, name) is not None:
            getattr(pipe, name).to(device).eval()
    with torch.no_grad():
        return {
            prompt: family.encode(pipe, prompt, device).map(Tensor.cpu)
            for prompt in sorted(set(prompts))
        }


def _place(network: Any, controlnet: Any, memory: Memory, device: torch.device) -> list[Any]:
    """Put the denoiser where it works; returns the hooks that move it away, if any."""
    for module in (network, controlnet):
        module.eval().requires_grad_(False)
        if memory.channels_last:
            module.to(memory_format=torch.channels_last)
        if memory.gradient_checkpointing:
            module.enable_gradient_checkpointing()
        if memory.compile and getattr(module, "_repeated_blocks", None):
            # Regional where the class says which blocks repeat: minutes shorter to compile.
            module.compile_repeated_blocks()
        elif memory.compile:
            module.compile()
    if not memory.cpu_offload:
        network.to(device)
        controlnet.to(device)
        return []
    from accelerate import cpu_offload_with_hook

    return [cpu_offload_with_hook(module, device)[1] for module in (controlnet, network)]


def _gradient_autoencoder(recipe: Recipe, base: Path, vae: Autoencoder) -> Autoencoder:
    """The tiny autoencoder that decodes for the guide in the place of the model's `vae`."""
    from diffusers import AutoencoderTiny

    settings, offline = recipe.model, recipe.run.local_files_only
    assert settings.gradient_autoencoder is not None
    place = resolve_ref(settings.gradient_autoencoder, base)
    name = f"model.gradient_autoencoder `{settings.gradient_autoencoder}`"
    if isinstance(place, Path):
        check_form(place, name)
        check_folder(place, name)
    with _errors_in_one_line(name, offline):
        module = AutoencoderTiny.from_pretrained(
            place,
            dtype=torch.float32,
            revision=settings.gradient_autoencoder_revision,
            use_safetensors=True,
            local_files_only=offline,
        )
        tiny = Autoencoder(module, recipe.run.memory, settings.tiling)
    if (tiny.factor, tiny.channels) != (vae.factor, vae.channels):
        raise UserError(
            f"{name} reads {tiny.channels} channels at 1/{tiny.factor} of the size, but "
            f"`{settings.base}` draws {vae.channels} at 1/{vae.factor}; use the tiny autoencoder "
            "made for this model"
        )
    return tiny


@contextmanager
def _errors_in_one_line(name: str, offline: bool) -> Iterator[None]:
    """Failures of libraries as UserErrors with a remedy."""
    try:
        yield
    except UserError:
        raise
    # Two libraries read these files, and what is wrong in a file fails anywhere in them.
    except Exception as error:
        where = (
            "it was not to ask the hub (run.local_files_only)"
            if offline
            else "check the names and the network, or give whole diffusers folders of .safetensors"
        )
        raise UserError(
            f"{name}: cannot be loaded ({first_line(error)[:200]}); {where}; `higfa doctor` lists "
            "the files"
        ) from error
