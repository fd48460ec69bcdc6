"""What the text encoders say, as tensors that every family's denoiser takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TextStates:
    """Encoded prompts.

    Attributes:
        states: hidden states, [L, D] of one prompt or [B, L, D] of a batch.
        pooled: [P] or [B, P]; None in families that have none.
    """

    states: Tensor
    pooled: Tensor | None = None

    def to(self, device: torch.device) -> TextStates:
        """The same on another device."""
        pooled = None if self.pooled is None else self.pooled.to(device)
        return TextStates(self.states.to(device), pooled)

    def zeros(self) -> TextStates:
        """Zeros of the same shapes."""
        pooled = None if self.pooled is None else torch.zeros_like(self.pooled)
        return TextStates(torch.zeros_like(self.states), pooled)


def stack(texts: Sequence[TextStates]) -> TextStates:
    """One prompt each -> a batch."""
    return _joined(texts, torch.stack)


def concat(batches: Sequence[TextStates]) -> TextStates:
    """Batches -> one batch."""
    return _joined(batches, torch.cat)


def tokens_cut(tokenizers: Iterable[object], prompt: str) -> int:
    """Tokens of `prompt` that the strictest encoder never sees; 0 where it sees them all.

    Args:
        tokenizers: the family's, which cut prompts off.
        prompt: as written.
    """
    return max(
        max(0, len(one(prompt).input_ids) - one.model_max_length)  # type: ignore[operator,attr-defined]
        for one in tokenizers
    )


def tokens_read(tokenizers: Iterable[object]) -> int:
    """Tokens that the strictest encoder reads, start and end among them."""
    return min(tokenizer.model_max_length for tokenizer in tokenizers)  # type: ignore[attr-defined]


def cut_off_classes(
    tokenizers: Sequence[object], prompts: Mapping[str, Iterable[str]]
) -> dict[str, str]:
    """Class -> its first prompt that does not fit, for the classes that have one.

    Args:
        tokenizers: the family's, which cut prompts off.
        prompts: class -> its prompts.
    """
    found: dict[str, str] = {}
    for cls, own in prompts.items():
        for prompt in own:
            if tokens_cut(tokenizers, prompt):
                found[cls] = prompt
                break
    return found


def _joined(parts: Sequence[TextStates], join: object) -> TextStates:
    pooled = [part.pooled for part in parts if part.pooled is not None]
    together = join([part.states for part in parts])  # type: ignore[operator]
    return TextStates(together, join(pooled) if pooled else None)  # type: ignore[operator]
