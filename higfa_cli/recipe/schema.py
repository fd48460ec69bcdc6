"""The recipe: one frozen, validated object that passes through the whole program.

Its sections follow what depends on what: whatever reads a section becomes stale with each of its
keys. Every key has a description; the documentation and the editor schema are made from them.
"""

from __future__ import annotations

import json

from pydantic import Field, field_validator, model_validator

from higfa_cli.method.guidance import Guidance
from higfa_cli.recipe.arms import GALLERY, TEXT_ONLY, default_arms, name_problem
from higfa_cli.recipe.classifiers import Downstream, Filter, Guide
from higfa_cli.recipe.contours import Contours
from higfa_cli.recipe.data import Data, Prompts
from higfa_cli.recipe.drawing import Model, Pictures, Run, Sampling
from higfa_cli.recipe.section import Section, Side, Tree, set_value


class Recipe(Section):
    """A whole experiment. Paths are relative to the recipe's own folder."""

    name: str = Field(min_length=1, description="Name shown in reports.")
    workspace: str = Field(
        "runs/{name}",
        description="Output folder, relative to the recipe, as every path in it (of a built-in "
        "recipe: to the current folder); {name} is filled in.",
    )
    seed: int = Field(0, ge=0, description="Every random draw derives from this seed.")
    size: Side = Field(64, description="Side of the square contours and pictures, pixels.")
    arms: dict[str, Tree] = Field(
        default_factory=default_arms,
        min_length=1,
        description="Arm -> the keys of `guidance`, `sampling`, `prompts` and `filter` that it "
        "changes. Each is drawn from the same contours and seeds, filtered, and trained beside "
        "the photos; one guide, made by the recipe as it stands, serves all.",
    )
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

    @property
    def drawn(self) -> dict[str, Tree]:
        """What stage `synthesize` draws: the arms, and the gallery's few of plain text."""
        return self.arms | ({GALLERY: dict(TEXT_ONLY)} if self.pictures.gallery else {})

    def arm(self, name: str) -> Recipe:
        """The recipe with the keys of one of `drawn`; an arm's has that arm alone.

        Raises KeyError for a name that is not in `drawn`; ValidationError for a bad value.
        """
        tree = self.model_dump(mode="json")
        for key, value in self.drawn[name].items():
            set_value(tree, key, value)
        if name in self.arms:
            tree["arms"] = {name: {}}
        return Recipe.model_validate_json(json.dumps(tree), strict=True)

    @field_validator("arms")
    @classmethod
    def _safe_names(cls, arms: dict[str, Tree]) -> dict[str, Tree]:
        for name in arms:
            if problem := name_problem(name):
                raise ValueError(f"arm `{name}`: {problem}")
        return arms

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.run.memory.cpu_offload and self.guidance.classifier.gradient == "x_t":
            raise ValueError(
                "run.memory.cpu_offload cannot go with guidance.classifier.gradient: x_t, whose "
                "gradient needs the denoiser while the autoencoder works; use gradient: x0"
            )
        return self
