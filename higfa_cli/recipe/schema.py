"""The recipe: one frozen, validated object that passes through the whole program.

Its sections follow what depends on what: whatever reads a section becomes stale with each of its
keys. Every key has a description; the documentation and the editor schema are made from them.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from higfa_cli.method.guidance import Guidance
from higfa_cli.recipe.classifiers import Downstream, Filter, Guide
from higfa_cli.recipe.contours import Contours
from higfa_cli.recipe.data import Data, Prompts
from higfa_cli.recipe.drawing import Model, Pictures, Run, Sampling
from higfa_cli.recipe.section import Section, Side


class Recipe(Section):
    """A whole experiment. Paths are relative to the recipe's own folder."""

    name: str = Field(min_length=1, description="Name shown in reports.")
    workspace: str = Field(
        "runs/{name}",
        description="Output folder, relative to the current folder; {name} is filled in.",
    )
    seed: int = Field(0, ge=0, description="Every random draw derives from this seed.")
    size: Side = Field(64, description="Side of the square contours and pictures, pixels.")
    data: Data
    prompts: Prompts = Field(default_factory=Prompts)
    contours: Contours = Field(default_factory=Contours)
    guide: Guide = Field(default_factory=Guide)
    model: Model
    guidance: Guidance = Field(default_factory=Guidance)
    sampling: Sampling = Field(default_factory=Sampling)
    pictures: Pictures = Field(default_factory=Pictures)
    filter: Filter = Field(default_factory=Filter)
    downstream: Downstream = Field(default_factory=Downstream)
    run: Run = Field(default_factory=Run)

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.run.memory.cpu_offload and self.guidance.classifier.gradient == "x_t":
            raise ValueError(
                "run.memory.cpu_offload cannot go with guidance.classifier.gradient: x_t, whose "
                "gradient needs the denoiser while the autoencoder works; use gradient: x0"
            )
        return self
