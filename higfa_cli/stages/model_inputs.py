"""Content hashes of what the drawing stages read besides photos: local models and prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from higfa_cli.artifacts.fingerprint import hash_json, hash_tree
from higfa_cli.data.prompt_bank import templates_for
from higfa_cli.recipe.refs import resolve_ref
from higfa_cli.stages.context import Context


def model_inputs(ctx: Context, classes: Sequence[str]) -> dict[str, str]:
    """Recipe key -> hash of the local folder that it names, and of a bank's prompts.

    A hub id is named by the recipe itself, with its revision.
    Raises UserError for a path or prompt bank that is missing or broken.
    """
    model, prompts = ctx.recipe.model, ctx.recipe.prompts
    files = {}
    for key in ("base", "controlnet", "gradient_autoencoder"):
        ref = getattr(model, key)
        found = None if ref is None else resolve_ref(ref, ctx.base)
        if isinstance(found, Path):
            files[f"model.{key}"] = hash_tree(found)
    if prompts.bank is not None:
        templates = templates_for(prompts, classes, ctx.base)
        files["prompts.bank"] = hash_json({name: list(own) for name, own in templates.items()})
    return files
