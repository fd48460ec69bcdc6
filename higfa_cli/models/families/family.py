"""What a family of text-to-image models with ControlNets says of itself.

Nothing else knows a family: loading, memory, file lists and reports ask these. Importing a family
needs no torch; it is imported where a method draws.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from higfa_cli.errors import RecipeError
from higfa_cli.models.text import TextStates

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor

    from higfa_cli.models.scheduler import SchedulerSolver

Config = dict[str, Any]


@dataclass(frozen=True)
class Architecture:
    """Configurations of every part of a model, as in the parts' own `config.json` files.

    Attributes:
        family: its name in `FAMILIES`.
        network: the denoising network's, a UNet or a transformer.
        controlnet, vae, scheduler: diffusers configurations.
        text_encoders: transformers configurations of the encoders that the model has, in order.
        gradient_vae: an AutoencoderTiny's, where the recipe names one.
    """

    family: str
    network: Config
    controlnet: Config
    vae: Config
    scheduler: Config
    text_encoders: tuple[Config, ...]
    gradient_vae: Config | None

    @property
    def vae_factor(self) -> int:
        """Pixels per latent, along a side."""
        return vae_factor(self.vae)


def vae_factor(config: Config) -> int:
    """Pixels per latent of an autoencoder, along a side."""
    blocks = config.get("block_out_channels") or config["decoder_block_out_channels"]
    return int(2 ** (len(blocks) - 1))


@dataclass(frozen=True)
class Inputs:
    """What network and ControlNet read in one step.

    Attributes:
        x: noisy latents [B, C, h, w].
        timestep: as the network takes it.
        text: of a batch.
        size: side of the picture, pixels.
    """

    x: Tensor
    timestep: float
    text: TextStates
    size: int

    def last(self, count: int) -> Inputs:
        """Those of the last pictures of the batch."""
        text = self.text.map(lambda states: states[-count:])
        return Inputs(self.x[-count:], self.timestep, text, self.size)


def diffusers_class(name: str) -> Any:
    """A class of diffusers that a family names: never a name out of a model's folder."""
    import diffusers

    return getattr(diffusers, name)


class Family(ABC):
    """One family of text-to-image models with ControlNets; every family is one instance.

    Attributes:
        name: in files and tables.
        title: for people.
        prefix: what the classes of its pipelines begin with; the longest that fits decides.
        pipeline: class of the stock ControlNet pipeline.
        network: the denoising network's folder in a model's folder, and its name in a pipeline.
        network_class, controlnet_class: diffusers classes.
        text_encoders: folder -> transformers class, in the order in which a prompt is read.
        tokenizers: folders of the tokenizers that cut a long prompt off first.
        text_width: key of network and ControlNet: width of the text states that they read.
        schedulers: values of `sampling.scheduler` that can draw from it.
        known: hub id -> its configurations as shipped, `known/NAME.json`.
        tensors: part of the names of the tensors in a single-file checkpoint, in no other's.
    """

    name: str
    title: str
    prefix: str
    pipeline: str
    network: str
    network_class: str
    controlnet_class: str
    text_encoders: Mapping[str, str]
    tokenizers: Sequence[str]
    text_width: str
    schedulers: Sequence[str]
    known: Mapping[str, str] = {}
    tensors = ""

    # Files and configurations.

    def encoders(self, index: Mapping[str, Any]) -> tuple[str, ...]:
        """Folders of the text encoders that a model has, by its model_index.json."""
        return tuple(name for name in self.text_encoders if any(index.get(name, (name,))))

    @property
    def parts(self) -> tuple[str, ...]:
        """Folders of a whole model."""
        texts = [(name.replace("text_encoder", "tokenizer"), name) for name in self.text_encoders]
        further = (part for pair in texts[1:] for part in pair)
        return ("scheduler", *texts[0], self.network, "vae", *further)

    def vocabulary(self, tokenizer: str) -> tuple[str, ...]:
        """Files that a tokenizer's folder holds where it has no tokenizer.json."""
        return ("vocab.json", "merges.txt")

    @abstractmethod
    def pipeline_options(self, index: Mapping[str, Any]) -> dict[str, Any]:
        """What the stock pipeline must be told beside its parts, for a model with that index."""

    @abstractmethod
    def size_multiple(self, arch: Architecture) -> int:
        """The side of a picture must be a multiple of this, pixels."""

    def largest_size(self, arch: Architecture) -> int | None:
        """Largest side of a picture, pixels; None where there is no bound."""
        return None

    def prediction_type(self, scheduler: Mapping[str, Any]) -> str:
        """What the network predicts, as `scheduler.conversion` takes it."""
        # diffusers' own default, for files older than the key.
        return str(scheduler.get("prediction_type", "epsilon"))

    def check_scheduler(self, name: str) -> None:
        """Raise RecipeError for a solver that cannot draw from this family."""
        if name not in self.schedulers:
            raise RecipeError(
                f"sampling.scheduler: `{name}` cannot draw from {self.title}; use "
                f"{' or '.join(self.schedulers)}"
            )

    def solver(self, name: str, config: Mapping[str, Any], steps: int) -> SchedulerSolver:
        """The solver `name` for a model with that scheduler config, with N = `steps`.

        Raises RecipeError for one that cannot draw from this family.
        """
        from higfa_cli.models.scheduler import SchedulerSolver

        self.check_scheduler(name)
        return SchedulerSolver(name, config, steps)

    # Text.

    def tokenizer(self, folder: Path) -> Any:
        """The tokenizer in a folder on this machine, one of `tokenizers`."""
        from transformers import CLIPTokenizer

        return CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)

    @abstractmethod
    def encode(self, pipe: Any, prompt: str, device: torch.device) -> TextStates:
        """One prompt -> its states; "" is the unconditional prompt."""

    @abstractmethod
    def blank_text(self, arch: Architecture, dtype: torch.dtype) -> TextStates:
        """States as large as a prompt's, all zeros."""

    # Drawing.

    def join(self, network: Any, controlnet: Any) -> None:
        """Give the ControlNet what it shares with the network, as the stock pipeline does."""
        return None

    def condition(self, contours: Tensor, controlnet: Any, model: Any) -> Tensor:
        """What the ControlNet reads of contours [B, 3, S, S] in [0, 1]: themselves.

        `model.encode` is there for ControlNets that read latents.
        """
        return contours

    @abstractmethod
    def residuals(
        self, controlnet: Any, inputs: Inputs, condition: Tensor, scale: float
    ) -> list[list[Tensor]]:
        """The ControlNet's residuals times `scale`, in groups as `denoise` takes them.

        `condition`: [B, ...], as the method of that name gives it.
        """

    @abstractmethod
    def denoise(
        self, network: Any, inputs: Inputs, residuals: Sequence[Sequence[Tensor]] = ()
    ) -> Tensor:
        """The network's output [B, C, h, w]; without residuals no ControlNet has been asked."""

    @abstractmethod
    def stock_call(self, text: TextStates, negative: TextStates, contour: Tensor) -> dict[str, Any]:
        """What the stock pipeline is called with, for encoded texts and contours [B, 3, S, S]."""
