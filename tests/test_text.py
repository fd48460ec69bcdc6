"""Prompts as the text encoders read them: what is cut off, and who is told."""

from __future__ import annotations

from pathlib import Path

import torch

from higfa_cli.models.text import TextStates, concat, cut_off_classes, stack, tokens_cut
from tests.support import tiny
from tests.support.photo_project import higfa


def test_tokens_that_are_cut_by_hand(tmp_path: Path) -> None:
    """One token per letter in the tests' vocabulary, and two for start and end: 75 fit."""
    tokenizer = tiny.make_tokenizer(tmp_path)
    assert tokens_cut([tokenizer], "a" * 75) == 0
    assert tokens_cut([tokenizer], "a" * 76) == 1
    assert tokens_cut([tokenizer], "a" * 100) == 25
    tokenizer.model_max_length = 50
    assert tokens_cut([tiny.make_tokenizer(tmp_path), tokenizer], "a" * 75) == 27


def test_first_long_prompt_of_each_class_is_named(tmp_path: Path) -> None:
    tokenizer = tiny.make_tokenizer(tmp_path)
    prompts = {"short": ["a" * 10], "long": ["a", "b" * 80, "c" * 90], "edge": ["d" * 75]}
    assert cut_off_classes([tokenizer], prompts) == ({"long": "b" * 80}, 77)


def test_batches_of_texts() -> None:
    one = TextStates(torch.ones(3, 2), torch.full((4,), 2.0))
    two = one.map(torch.zeros_like)
    batch = stack([one, two])
    assert batch.states.shape == (2, 3, 2) and batch.pooled is not None
    assert batch.states[1].abs().sum() == 0 and batch.pooled[0].tolist() == [2.0] * 4
    both = concat([batch, batch])
    assert both.states.shape == (4, 3, 2) and both.pooled is not None
    assert torch.equal(both.pooled[2], batch.pooled[0])
    assert stack([TextStates(torch.ones(3, 2))] * 2).pooled is None


def test_a_run_names_the_class_whose_prompt_is_cut(recipe: Path, workspace: Path) -> None:
    flags = (str(recipe), "--workspace", str(workspace))
    long = "a {words} " + "very " * 20 + "large"
    flags = (*flags, "--set", "guidance.classifier.switch=1")
    changed = ("--set", f'prompts.templates=["{long}"]')
    result = higfa("synthesize", *flags, *changed, "--preview", "3")
    assert (
        "warning: class ring: the text encoder reads 77 tokens and cuts the end of this prompt off"
        in result.stderr
    )
    assert "a ring very very" in result.stderr
    plain = higfa("synthesize", *flags, "--preview", "3")
    assert "prompt off" not in plain.stderr
