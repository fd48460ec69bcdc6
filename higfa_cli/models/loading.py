"""From a recipe's section `model` to a model that can draw.

Only safetensors are read, and no code from a folder or a hub repository is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from higfa_cli.errors import UserError
from higfa_cli.models.architecture import check_fit, check_size
from higfa_cli.models.autoencoder import Autoencoder
from higfa_cli.models.diffusion import DiffusionModel, Prompts
from higfa_cli.models.families import family_of
from higfa_cli.models.families.family import Architecture, Family, diffusers_class
from higfa_cli.models.text import TextStates
from higfa_cli.models.trusted import check_folder, check_index
from higfa_cli.recipe.drawing import Memory, Model, Run, Sampling
from higfa_cli.recipe.refs import resolve_ref

T = TypeVar("T")


def load_pipeline(
    settings: Model,
    run: Run,
    sampling: Sampling,
    size: int,
    base: Path,
    device: torch.device,
    prompts: Iterable[str],
) -> DiffusionModel:
    """Load the model that the recipe names, from a folder, the pocket or a hub id.

    Args:
        settings, run, sampling, size: the recipe's.
        base: the recipe's folder.
        device: where it will draw.
        prompts: every prompt, negative ones too, that will ever be asked for. They are encoded
            now, each once, and the text encoders are freed before the denoiser takes their place.

    Raises:
        UserError: a missing or unreadable model, one of another family, a gradient autoencoder
            that does not fit it, or a size that it cannot draw.
    """
    offline = run.local_files_only
    family, pipe = _load_pipe(settings, sampling, base, offline)
    arch = _architecture(family, pipe)
    check_fit(arch, settings)
    check_size(arch, size, settings)
    tokenizers = tuple(getattr(pipe, name) for name in family.tokenizers)
    encoded = _encode(family, pipe, device, prompts)
    vae, network, controlnet = pipe.vae, getattr(pipe, family.network), pipe.controlnet
    scheduler_config = pipe.scheduler.config
    # The pipeline holds the text encoders: without it they can go.
    del pipe
    offloads = _place(network, controlnet, run.memory, device)
    autoencoder = Autoencoder(vae, run.memory, settings.tiling).to(device)
    tiny = _gradient_autoencoder(settings, run, base, autoencoder)
    return DiffusionModel(
        family=family,
        prompts=Prompts(tokenizers, encoded),
        network=network,
        controlnet=controlnet,
        autoencoder=autoencoder,
        gradient_autoencoder=tiny.to(device),
        scheduler_config=scheduler_config,
        sampling=sampling,
        size=size,
        device=device,
        offloads=offloads,
    )


def hub_options(revision: str | None, offline: bool) -> dict[str, Any]:
    """Arguments of every `from_pretrained` of this package."""
    return {"use_safetensors": True, "revision": revision, "local_files_only": offline}


def _load_pipe(
    settings: Model, sampling: Sampling, base: Path, offline: bool
) -> tuple[Family, Any]:
    from diffusers import DiffusionPipeline

    dtype = getattr(torch, settings.dtype)
    model, control = (resolve_ref(r, base) for r in (settings.base, settings.controlnet))
    for key, place in (("base", model), ("controlnet", control)):
        if isinstance(place, Path):
            check_folder(place, f"model.{key} `{getattr(settings, key)}`")

    def read() -> tuple[Family, Any]:
        index = DiffusionPipeline.load_config(
            model, revision=settings.revision, local_files_only=offline
        )
        check_index(index, f"model.base `{settings.base}`")
        family = family_of(str(index.get("_class_name")))
        family.check_scheduler(sampling.scheduler)
        controlnet = diffusers_class(family.controlnet_class).from_pretrained(
            control,
            dtype=dtype,
            variant=settings.variant,
            **hub_options(settings.controlnet_revision, offline),
        )
        # The autoencoder works in float32, so its weights must not be rounded on the way.
        precisions = {"default": dtype, "vae": torch.float32}
        pipe = diffusers_class(family.pipeline).from_pretrained(
            model,
            controlnet=controlnet,
            dtype=precisions,
            variant=settings.variant,
            **family.pipeline_options(index),
            **hub_options(settings.revision, offline),
        )
        return family, pipe

    both = f"model.base `{settings.base}` / model.controlnet `{settings.controlnet}`"
    return _or_one_line(read, both, offline)


def _architecture(family: Family, pipe: Any) -> Architecture:
    """The configurations of what was loaded; of the text encoders nothing is asked."""

    def config(part: Any) -> dict[str, Any]:
        return {"_class_name": type(part).__name__, **part.config}

    return Architecture(
        family=family.name,
        network=config(getattr(pipe, family.network)),
        controlnet=config(pipe.controlnet),
        vae=config(pipe.vae),
        scheduler=config(pipe.scheduler),
        text_encoders=(),
        gradient_vae=None,
    )


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
        if memory.compile:
            _compile(module)
    if not memory.cpu_offload:
        network.to(device)
        controlnet.to(device)
        return []
    from accelerate import cpu_offload_with_hook

    return [cpu_offload_with_hook(module, device)[1] for module in (controlnet, network)]


def _compile(module: Any) -> None:
    """Regional where the class says which blocks repeat: minutes shorter to compile."""
    if getattr(module, "_repeated_blocks", None):
        module.compile_repeated_blocks()
    else:
        module.compile()


def _gradient_autoencoder(settings: Model, run: Run, base: Path, own: Autoencoder) -> Autoencoder:
    """What decodes for the guide: the model's own autoencoder, or the recipe's tiny one."""
    if settings.gradient_autoencoder is None:
        return own
    from diffusers import AutoencoderTiny

    ref = resolve_ref(settings.gradient_autoencoder, base)
    name = f"model.gradient_autoencoder `{settings.gradient_autoencoder}`"
    if isinstance(ref, Path):
        check_folder(ref, name)
    options = hub_options(settings.gradient_autoencoder_revision, run.local_files_only)
    tiny = _or_one_line(
        lambda: Autoencoder(
            AutoencoderTiny.from_pretrained(ref, dtype=torch.float32, **options),
            run.memory,
            settings.tiling,
        ),
        name,
        run.local_files_only,
    )
    if (tiny.factor, tiny.channels) != (own.factor, own.channels):
        raise UserError(
            f"{name} reads {tiny.channels} channels at 1/{tiny.factor} of the size, but "
            f"`{settings.base}` draws {own.channels} at 1/{own.factor}; use the tiny autoencoder "
            "made for this model"
        )
    return tiny


def _or_one_line(read: Callable[[], T], name: str, offline: bool) -> T:
    """`read`, its failures as one line with a remedy."""
    try:
        return read()
    except UserError:
        raise
    # Two libraries read these files, and what is wrong in a file fails anywhere in them.
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        where = (
            "it was not to ask the hub (run.local_files_only)"
            if offline
            else "check the names and the network, or give whole diffusers folders of .safetensors"
        )
        raise UserError(
            f"{name}: cannot be loaded ({lines[0][:200]}); {where}; `higfa doctor` lists the files"
        ) from error
