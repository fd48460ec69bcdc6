"""Keys of earlier recipes, and where they are now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

#: Old key or section -> new one. The longest beginning of a key counts.
MOVED = {
    "device": "run.device",
    "contours.size": "size",
    "synthesize.size": "size",
    "synthesize.model": "model.base",
    "synthesize.controlnet": "model.controlnet",
    "synthesize.revision": "model.revision",
    "synthesize.controlnet_revision": "model.controlnet_revision",
    "synthesize.variant": "model.variant",
    "synthesize.gradient_autoencoder": "model.gradient_autoencoder",
    "synthesize.gradient_autoencoder_revision": "model.gradient_autoencoder_revision",
    "synthesize.dtype": "model.dtype",
    "synthesize.memory.tiling": "model.tiling",
    "synthesize.memory": "run.memory",
    "synthesize.batch_size": "run.batch_size",
    "synthesize.local_files_only": "run.local_files_only",
    "synthesize.scheduler": "sampling.scheduler",
    "synthesize.steps": "sampling.steps",
    "synthesize.conditioning_scale": "sampling.conditioning_scale",
    "synthesize.conditioning_interval": "sampling.conditioning_interval",
    "synthesize.per_contour": "pictures.per_contour",
    "synthesize.gallery": "pictures.gallery",
    "synthesize.composition": "guidance.composition",
    "synthesize.text": "guidance.text",
    "synthesize.contour": "guidance.contour",
    "synthesize.classifier": "guidance.classifier",
    "synthesize.prompts": "prompts",
}


def new_key(old: str) -> str | None:
    """Where a key or section of earlier recipes is now; None where it has not moved."""
    parts = old.split(".")
    for length in range(len(parts), 0, -1):
        moved = MOVED.get(".".join(parts[:length]))
        if moved is not None:
            return ".".join((moved, *parts[length:]))
    return None


def new_sections(old: str) -> list[str]:
    """Where the keys of a section of earlier recipes are now; empty where there was none."""
    inside = (new for key, new in MOVED.items() if key.startswith(f"{old}."))
    return list(dict.fromkeys(new.partition(".")[0] for new in inside))


def old_keys(tree: Mapping[str, object]) -> list[str]:
    """Dotted keys of a recipe that have moved, or whose section is no more, in its order."""
    return [key for key in _leaves(tree, "") if new_key(key) or key.startswith("synthesize.")]


def _leaves(tree: Mapping[str, object], prefix: str) -> Iterator[str]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
