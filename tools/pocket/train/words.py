"""Stage 2: teach the text encoder what captions say, before anything is drawn. From text alone.

    python -m tools.pocket.train.words --web WEB --cache CACHE [--go-on]

CLIP's tokenizer cuts "737-800" into single digits. Trained only through the denoiser's loss the
encoder left a 737-300 and a 737-800 equal but for one digit's own token. Here every position from
the end of the text on has to tell which words named the aircraft, which scene and which airline.
Writes CACHE/text_encoder.pt; the denoiser's training keeps it frozen, as Stable Diffusion keeps
CLIP. `--go-on` teaches the encoder that CACHE holds airlines and no more: its states of a caption
stay near those that it had of the caption without the airline, which a denoiser has learnt to read.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer

from tools.pocket.pocket_render.captions import with_article
from tools.pocket.pocket_render.records import read_records
from tools.pocket.train.checkpoint import load_checkpoint, save_atomic
from tools.pocket.train.networks import Sizes, build_text_encoder
from tools.pocket.train.text import token_ids
from tools.pocket.train.webdata import numbered

BATCH, STEPS, PEAK_RATE, WARM_UP = 64, 1500, 1e-3, 100
KEPT_WEIGHT = 2.0


@dataclass(frozen=True)
class Lesson:
    """Captions as tokens [n, 32], and what each tells: a list of n names per subject.

    plain: the same captions without the airline, [n, 32].
    """

    tokens: Tensor
    plain: Tensor
    told: tuple[list[str], ...]


def teach(
    lesson: Lesson,
    tokenizer: CLIPTokenizer,
    sizes: Sizes,
    steps: int,
    before: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """A text encoder whose last hidden states [n, 32, width] tell the lesson's names apart.

    Asked at the end-of-text token and at every position of padding after it. before: the state of
    an encoder to go on from.
    """
    torch.manual_seed(0)
    encoder = build_text_encoder(sizes, tokenizer)
    former = None
    if before is not None:
        encoder.load_state_dict(before)
        former = build_text_encoder(sizes, tokenizer).requires_grad_(False).eval()
        former.load_state_dict(before)
    subjects = [numbered(names) for names in lesson.told]
    heads = nn.ModuleList([nn.Linear(sizes.text_width, len(names)) for names, _ in subjects])
    optimizer = torch.optim.AdamW([*encoder.parameters(), *heads.parameters()], weight_decay=1e-2)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * min(1, (step + 1) / WARM_UP) * (1 - step / steps)
        rows = torch.randint(len(lesson.tokens), (BATCH,))
        hidden = encoder(lesson.tokens[rows]).last_hidden_state
        after = (lesson.tokens[rows] == tokenizer.eos_token_id).cumsum(dim=1) > 0
        loss = torch.zeros(())
        for head, (_, ids) in zip(heads, subjects, strict=True):
            wanted = ids[rows][:, None].expand_as(after)
            loss = loss + nn.functional.cross_entropy(head(hidden)[after], wanted[after])
        if former is not None:
            kept = former(lesson.plain[rows]).last_hidden_state
            loss = loss + KEPT_WEIGHT * (hidden - kept)[after].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 250 == 249:
            print(f"step {step + 1}: loss {loss.item():.4f}", flush=True)
    return encoder


def without_airline(row: Mapping[str, Any]) -> str:
    """A record's caption as it would read had it not told the airline."""
    words, airline = row["caption_words"], row.get("caption_airline", "")
    if not airline:
        return str(row["caption"])
    text = str(row["caption"])
    for name in (f"{words} of {airline}", with_article(f"{airline} {words}")):
        if name in text:
            return text.replace(name, with_article(words) if name[0] == "a" else words)
    return text.replace(f"{airline} {words}", words)


def read_lesson(web: Path, cache: Path, tokenizer: CLIPTokenizer) -> Lesson:
    """The captions of `web` in the tokens that `cache` holds."""
    rows = read_records(web / "records.jsonl")
    tokens = torch.from_numpy(np.load(cache / "tokens.npy").astype(np.int64))
    plain = torch.tensor(token_ids(tokenizer, [without_airline(row) for row in rows]))
    # Not every caption tells the scene.
    scenes = [row["scene"] if row["scene"] in row["caption"] else "" for row in rows]
    words = [row["caption_words"] for row in rows]
    airlines = [row.get("caption_airline", "") for row in rows]
    return Lesson(tokens, plain, (words, scenes, airlines))


def teach_cache(web: Path, cache: Path, sizes: Sizes, steps: int, go_on: bool = False) -> None:
    """Teach the captions of `web`; writes text_encoder.pt. `go_on`: from the one that is there."""
    tokenizer = CLIPTokenizer.from_pretrained(cache / "tokenizer", local_files_only=True)
    path = cache / "text_encoder.pt"
    before = load_checkpoint(path)["text_encoder"] if go_on else None
    encoder = teach(read_lesson(web, cache, tokenizer), tokenizer, sizes, steps, before)
    save_atomic({"text_encoder": encoder.state_dict()}, path)


def main() -> None:
    """Read the command line, teach and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--web", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--go-on", action="store_true", help="from the encoder in CACHE")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    teach_cache(asked.web, asked.cache, Sizes(), STEPS, asked.go_on)


if __name__ == "__main__":
    main()
