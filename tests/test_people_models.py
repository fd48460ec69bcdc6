"""Models as people have them: recognised, named, and with a remedy that works."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from higfa_cli.models.text import unread_placeholders


def tokenizer(*words: str) -> SimpleNamespace:
    return SimpleNamespace(get_vocab=lambda: dict.fromkeys(words, 0))


@pytest.mark.fault(
    "models",
    "a prompt names an embedding, a LoRA or a weight that the model does not know",
    "doctor and the stage say that its letters are read, and what to do",
)
@pytest.mark.parametrize(
    ("prompt", "unread"),
    [
        ("a photo of a <wren>", ["<wren>"]),
        ("a <tit> and a <wren>", ["<tit>"]),
        ("a bird <lora:feathers:0.8>", ["<lora:feathers:0.8>"]),
        ("a (red:1.3) bird", ["(red:1.3)"]),
        ("embedding:easynegative, blur", ["embedding:easynegative"]),
        ("a photo of a [V] bird", ["[V]"]),
        ("a bird in 4 < 5 (really: yes)", []),
        ("a photo of a great tit", []),
    ],
)
def test_placeholders_that_are_no_tokens(prompt: str, unread: list[str]) -> None:
    expected = [word for word in unread if "wren" not in word]
    assert unread_placeholders([tokenizer("<wren>")], [prompt]) == expected
    assert set(unread) <= set(unread_placeholders([tokenizer("<wren>"), tokenizer()], [prompt]))
