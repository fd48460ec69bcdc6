"""Families of models: a file each, and here the list of them. Nothing else names a family."""

from __future__ import annotations

from collections.abc import Mapping

from higfa_cli.errors import UserError
from higfa_cli.models.families.family import Family
from higfa_cli.models.families.sd import StableDiffusion
from higfa_cli.models.families.sd3 import StableDiffusion3
from higfa_cli.models.families.sdxl import StableDiffusionXL

FAMILIES: Mapping[str, Family] = {
    family.name: family for family in (StableDiffusion(), StableDiffusionXL(), StableDiffusion3())
}
#: Hub id -> its configurations as shipped, `known/NAME.json`: file of the repository -> content.
KNOWN: Mapping[str, str] = {
    repo: name for family in FAMILIES.values() for repo, name in family.known.items()
}


def family_of(class_name: str) -> Family:
    """The family of a pipeline, by `_class_name` of its model_index.json.

    Raises UserError, naming the class, for pipelines of other families.
    """
    fitting = [family for family in FAMILIES.values() if class_name.startswith(family.prefix)]
    if fitting and class_name.endswith("Pipeline"):
        family = max(fitting, key=lambda family: len(family.prefix))
        # A digit is of another family whose name goes on.
        if not class_name.removeprefix(family.prefix)[0].isdigit():
            return family
    titles = ", ".join(family.title for family in FAMILIES.values())
    raise UserError(
        f"model_index.json names a `{class_name}`, which is not supported; use a model of one of "
        f"{titles}"
    )
