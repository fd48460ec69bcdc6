"""From a recipe's section `model` to a model that can draw.

Only safetensors are read, and no code from a folder or a hub repository is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch

from higfa_cli.errors import UserError
from higfa_cli.models.autoencoder import Autoencoder
from higfa_cli.models.diffusion import DiffusionModel, Prompts
from higfa_cli.models.families import Family, family
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
        settings, run, sampling, size: the recipe's sections, and its side of the pictures.
        base: the recipe's folder.
        device: where it will draw.
        prompts: every prompt, negative ones too, that will ever be asked for. They are encoded
            now, each once, and the text encoders are freed before the denoiser takes their place.

    Raises:
        UserError: a missing or unreadable model, one of another family, a gradient autoencoder
            that does not fit it, or a size that it cannot draw.
    """
    offline = run.local_files_only
    kind, pipe = _load_pipe(settings, base, offline)
    tokenizers = kind.tokenizers(pipe)
    encoded = _encode(kind, pipe, device, prompts)
    vae, unet, controlnet = pipe.vae, pipe.unet, pipe.controlnet
    scheduler_config = pipe.scheduler.config
    # The pipeline holds the text encoders: without it they can go.
    del pipe
    offloads = _place(unet, controlnet, run.memory, device)
    autoencoder = Autoencoder(vae, run.memory, settings.tiling).to(device)
    tiny = _gradient_autoencoder(settings, run, base, autoencoder)
    model = DiffusionModel(
        family=kind,
        prompts=Prompts(tokenizers, encoded),
        unet=unet,
        controlnet=controlnet,
        autoencoder=autoencoder,
        gradient_autoencoder=tiny.to(device),
        scheduler_config=scheduler_config,
        sampling=sampling,
        size=size,
        device=device,
        offloads=offloads,
    )
    _check_fit(model, settings)
    return model


def hub_options(revision: str | None, offline: bool) -> dict[str, Any]:
    """What every `from_pretrained` of this package is told."""
    return {"use_safetensors": True, "revision": revision, "local_files_only": offline}


def _load_pipe(settings: Model, base: Path, offline: bool) -> tuple[Family, Any]:
    from diffusers import ControlNetModel, DiffusionPipeline

    dtype = getattr(torch, settings.dtype)
    model, control = (resolve_ref(r, base) for r in (settings.base, settings.controlnet))
    options = hub_options(settings.revision, offline)
    for key, found in (("base", model), ("controlnet", control)):
        if isinstance(found, Path):
            check_folder(found, f"model.{key} `{getattr(settings, key)}`")

    def read() -> tuple[Family, Any]:
        index = DiffusionPipeline.load_config(
            model, revision=settings.revision, local_files_only=offline
        )
        check_index(index, f"model.base `{settings.base}`")
        kind = family(str(index.get("_class_name")))
        controlnet = ControlNetModel.from_pretrained(
            control,
            dtype=dtype,
            variant=settings.variant,
            **hub_options(settings.controlnet_revision, offline),
        )
        pipeline, extra = kind.pipeline()
        # The autoencoder works in float32, so its weights must not be rounded on the way.
        precisions = {"default": dtype, "vae": torch.float32}
        pipe = pipeline.from_pretrained(
            model,
            controlnet=controlnet,
            dtype=precisions,
            variant=settings.variant,
            **extra,
            **options,
        )
        return kind, pipe

    both = f"model.base `{settings.base}` / model.controlnet `{settings.controlnet}`"
    return _or_one_line(read, both, offline)


def _encode(
    kind: Family, pipe: Any, device: torch.device, prompts: Iterable[str]
) -> dict[str, TextStates]:
    """Every distinct prompt once; the results wait in main memory."""
    for name in ("text_encoder", "text_encoder_2"):
        if getattr(pipe, name, None) is not None:
            getattr(pipe, name).to(device).eval()
    with torch.no_grad():
        return {
            prompt: kind.encode(pipe, prompt, device).to(torch.device("cpu"))
            for prompt in sorted(set(prompts))
        }


def _place(unet: Any, controlnet: Any, memory: Memory, device: torch.device) -> list[Any]:
    """Put the denoiser where it works; returns the hooks that move it away, if any."""
    for module in (unet, controlnet):
        module.eval().requires_grad_(False)
        if memory.channels_last:
            module.to(memory_format=torch.channels_last)
        if memory.gradient_checkpointing:
            module.enable_gradient_checkpointing()
        if memory.compile:
            _compile(module)
    if not memory.cpu_offload:
        unet.to(device)
        controlnet.to(device)
        return []
    from accelerate import cpu_offload_with_hook

    return [cpu_offload_with_hook(module, device)[1] for module in (controlnet, unet)]


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
    """`read`, its failures told in one line with a remedy."""
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


def _check_fit(model: DiffusionModel, settings: Model) -> None:
    reads, draws = model.unet.config.in_channels, model.autoencoder.channels
    if reads != draws:
        raise UserError(
            f"model.base `{settings.base}`: its denoiser reads {reads} channels, its "
            f"autoencoder has {draws}; use a text-to-image model (not inpainting or upscaling)"
        )
    ours, theirs = (m.config.cross_attention_dim for m in (model.unet, model.controlnet))
    if ours != theirs:
        raise UserError(
            f"model.controlnet `{settings.controlnet}` reads text states of width {theirs}, "
            f"but `{settings.base}` has {ours}; use a ControlNet made for this model"
        )
    downs = 2 ** (len(model.unet.config.block_out_channels) - 1)
    multiple = model.autoencoder.factor * downs
    if model.size % multiple:
        raise UserError(
            f"size: {model.size} is not a multiple of {multiple}, which `{settings.base}` needs"
        )
