"""The pocket's tokenizer: CLIP's byte-level BPE, trained on captions and ordinary words."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, trainers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

MAX_TOKENS = 32
VOCABULARY = 3000
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
WORDS = Path(__file__).with_name("words.txt")


def train_tokenizer(captions: Iterable[str], vocabulary: int = VOCABULARY) -> CLIPTokenizer:
    """A `CLIPTokenizer` whose merges come from `captions` and the words of words.txt.

    All 256 bytes are in the alphabet, so no prompt is ever out of vocabulary.
    """
    blank = CLIPTokenizer(model_max_length=MAX_TOKENS)
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=EOS))
    trained.normalizer = blank.backend_tokenizer.normalizer
    trained.pre_tokenizer = blank.backend_tokenizer.pre_tokenizer
    words = WORDS.read_text(encoding="utf-8").split()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 2,
        initial_alphabet=sorted(_byte_letters()),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    trained.train_from_iterator([*captions, *(" ".join([word] * 20) for word in words)], trainer)
    return _as_clip(trained)


def _byte_letters() -> list[str]:
    """The 256 printable letters that byte-level BPE writes bytes with."""
    return list(ByteLevel.alphabet())


def _as_clip(trained: Tokenizer) -> CLIPTokenizer:
    """The trained vocabulary as a `CLIPTokenizer`: letters, letters + </w>, merges, bos, eos."""
    merges: list[Any] = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    letters = sorted(_byte_letters())
    pieces = [*letters, *(letter + "</w>" for letter in letters)]
    pieces += [left + right for left, right in merges]
    pieces = [*dict.fromkeys(pieces), BOS, EOS]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)


def token_ids(tokenizer: CLIPTokenizer, captions: list[str]) -> list[list[int]]:
    """Ids (n, 32), padded and cut as the stock pipelines do."""
    return tokenizer(
        captions, padding="max_length", max_length=MAX_TOKENS, truncation=True
    ).input_ids
