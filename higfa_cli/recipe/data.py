"""Sections of what is drawn from: photos, and what the text encoder reads about their classes."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from higfa_cli.recipe.section import Count, Percentage, Section

#: The one placeholder of prompt templates.
WORDS = "{words}"
Layout = Literal[
    "imagefolder",
    "fgvc-aircraft",
    "cub",
    "stanford-cars",
    "stanford-dogs",
    "flowers102",
    "oxford-pets",
    "dtd",
]

#: Layouts with boxes for all photos.
BOXED = ("fgvc-aircraft", "cub", "stanford-cars", "stanford-dogs")


class Data(Section):
    """Where the user's photos are and how they are split."""

    layout: Layout = Field(
        "imagefolder",
        description="On-disk layout: class folders, or a public dataset as its authors pack it.",
    )
    root: str = Field(
        description="Dataset folder, relative to the recipe; `pocket:NAME`: of higfa-pocket."
    )
    split_file: str | None = Field(
        None,
        description="CSV with columns path,class,split (written by `higfa init`), relative to "
        "the recipe; without it `root` must hold train/ (and val/, test/) folders.",
    )
    class_words: str | None = Field(
        None,
        description="YAML or JSON file: class name -> words for prompts; relative to the recipe, "
        "`words:NAME` (shipped), or `pocket:NAME`. Every class must be in it. Without it the class "
        "name is used.",
    )
    crop_bottom: int = Field(
        0,
        ge=0,
        description="Rows cut off the bottom of every photo before anything else "
        "(FGVC-Aircraft's carry a 20-pixel banner).",
    )
    boxes: bool = Field(
        False,
        description="Cut every photo to the box that its dataset ships (fgvc-aircraft, cub, "
        "stanford-cars, stanford-dogs), for contours and classifiers alike.",
    )
    shots: Count | None = Field(
        None, description="Keep only this many training images per class, drawn with the seed."
    )
    max_bad: Annotated[int, Field(ge=0)] | Percentage = Field(
        "10%",
        description="Most photos that may be rejected and left out before stage `contours` stops: "
        "a number, or a percentage of all photos found. `0` (`--strict`): none.",
    )

    def choices(self) -> dict[str, object]:
        """The keys that choose and cut photos; the others name files, which are hashed, or stop."""
        keys = self.model_dump(mode="json", include={"layout", "shots", "crop_bottom"})
        return keys | ({"boxes": True} if self.boxes else {})

    @model_validator(mode="after")
    def _has_boxes(self) -> Data:
        if self.boxes and self.layout not in BOXED:
            raise ValueError(f"`boxes`: a `layout` that ships none; of {', '.join(BOXED)}")
        return self


def template_problem(template: str, optional: bool = False) -> str | None:
    """Why a text is no prompt template, and the remedy; `optional`: it may do without {words}."""
    if not template.strip():
        return "is empty; write or remove it"
    for name in re.findall(r"\{\s*\w+\s*\}", template):
        if name != WORDS:
            return f"has {name}, which would be drawn as it stands; write {WORDS}"
    if not optional and WORDS not in template:
        return f'has no {WORDS}; write it as in "a photo of a {WORDS}, at dusk"'
    return None


class Prompts(Section):
    """What the text encoder reads."""

    templates: tuple[str, ...] = Field(
        ("a photo of a {words}",),
        min_length=1,
        description="Prompt templates; {words} is the class's words. One is drawn per picture.",
    )
    bank: str | None = Field(
        None,
        description="A prompt bank in the place of `templates`: a shipped kind of subject "
        "(aircraft, birds, cars, dogs, flowers, pets, textures), or your own YAML file: a list of "
        "templates, or a list per class; relative to the recipe.",
    )
    negative: str | None = Field(
        None,
        description="Negative prompt; empty is the unconditional prompt. Without it the bank's own "
        "is used, or none.",
    )

    @field_validator("templates")
    @classmethod
    def _name_the_class(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            if problem := template_problem(template):
                raise ValueError(f"`{template}` {problem}")
        return templates

    @model_validator(mode="after")
    def _one_source(self) -> Prompts:
        # Not `model_fields_set`: a resolved recipe, read back, names every key.
        if self.bank is not None and self.templates != type(self).model_fields["templates"].default:
            raise ValueError("give `templates` or `bank`, not both")
        return self
