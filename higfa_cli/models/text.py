"""What the text encoders say, as tensors that every family's denoiser takes; torch at use only."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

# What other programs put something else in the place of: a trained embedding, a LoRA, a weight.
_PLACEHOLDER = re.compile(r"<[^<>\s]+>|\([^()]*:\s*\d*\.?\d+\)|\bembedding:[\w-]+|\[V\]|__\w+__")


@dataclass(frozen=True)
class TextStates:
    """Encoded prompts.

    Attributes:
        states: hidden states, [L, D] of one prompt or [B, L, D] of a batch.
        pooled: [P] or [B, P]; None in families that have none.
    """

    states: Tensor
    pooled: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> TextStates:
        """Both, changed alike."""
        return TextStates(change(self.states), None if self.pooled is None else change(self.pooled))


def stack(texts: Sequence[TextStates]) -> TextStates:
    """One prompt each -> a batch."""
    import torch

    return _joined(texts, torch.stack)


def concat(batches: Sequence[TextStates]) -> TextStates:
    """Batches -> one batch."""
    import torch

    return _joined(batches, torch.cat)


def _joined(parts: Sequence[TextStates], join: Callable[[list[Tensor]], Tensor]) -> TextStates:
    pooled = [part.pooled for part in parts if part.pooled is not None]
    return TextStates(join([part.states for part in parts]), join(pooled) if pooled else None)


def tokens_cut(tokenizers: Iterable[Any], prompt: str) -> int:
    """Tokens of `prompt` that the strictest of a family's tokenizers cuts off; 0 where none."""
    return max(
        max(0, len(tokenizer(prompt).input_ids) - tokenizer.model_max_length)
        for tokenizer in tokenizers
    )


def cut_off_classes(
    tokenizers: Sequence[Any], prompts: Mapping[str, Iterable[str]]
) -> tuple[dict[str, str], int]:
    """(class -> its first prompt that does not fit, where it has one; tokens that are read)."""
    first = {
        cls: next((prompt for prompt in of_class if tokens_cut(tokenizers, prompt)), None)
        for cls, of_class in prompts.items()
    }
    read = min(tokenizer.model_max_length for tokenizer in tokenizers)
    return {cls: prompt for cls, prompt in first.items() if prompt is not None}, read


def unread_placeholders(tokenizers: Iterable[Any], prompts: Iterable[str]) -> list[str]:
    """Placeholders that are no token of a tokenizer: their letters are read, not what they name."""
    named = {word for prompt in prompts for word in _PLACEHOLDER.findall(prompt)}
    vocabularies = [tokenizer.get_vocab() for tokenizer in tokenizers] if named else []
    return sorted(word for word in named if any(word not in words for words in vocabularies))
