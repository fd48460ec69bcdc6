"""One place that keeps the libraries' own bars and notices out of the program's output."""

from __future__ import annotations

import os
import warnings

_QUIET = {
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_VERBOSITY": "critical",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    # Looking for plug-ins reads the metadata of every installed package.
    "PYDANTIC_DISABLE_PLUGINS": "1",
}

_LIBRARIES = r"(diffusers|transformers|huggingface_hub|timm|torch|torchvision)(\.|$)"


def silence_libraries() -> None:
    """Set what the libraries read when they are imported; a user's own setting wins."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    # Notes to programmers, about calls that the user of a command cannot change.
    for category in (FutureWarning, DeprecationWarning, UserWarning):
        warnings.filterwarnings("ignore", category=category, module=_LIBRARIES)
