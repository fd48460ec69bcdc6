"""Stage 2: teach the text encoder what captions say, before anything is drawn. From text alone.

    python -m tools.pocket.train.words --web WEB --cache CACHE

CLIP's tokenizer cuts "737-800" into single digits. Trained only through the denoiser's loss the
encoder left a 737-300 and a 737-800 equal but for one digit's own token. Here every position from
the end of the text on has to tell which words named the aircraft and which scene it was in. Writes
CACHE/text_encoder.pt; the denoiser's training keeps it frozen, as Stable Diffusion keeps CLIP.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer

from tools.pocket.pocket_render.records import read_records
from tools.pocket.train.checkpoint import save_atomic
from tools.pocket.train.networks import Sizes, build_text_encoder
from tools.pocket.train.webdata import numbered

BATCH, STEPS, PEAK_RATE, WARM_UP = 64, 1500, 1e-3, 100


def teach(
    tokens: Tensor,
    words: list[str],
    scenes: list[str],
    tokenizer: CLIPTokenizer,
    sizes: Sizes,
    steps: int,
) -> nn.Module:
    """A text encoder whose last hidden states [n, 32, width] tell `words` and `scenes` apart.

    tokens: [n, 32]. Asked at the end-of-text token and at every position of padding after it.
    """
    torch.manual_seed(0)
    encoder = build_text_encoder(sizes, tokenizer)
    (word_names, word_ids), (scene_names, scene_ids) = numbered(words), numbered(scenes)
    width = sizes.text_width
    heads = nn.ModuleList([nn.Linear(width, len(names)) for names in (word_names, scene_names)])
    optimizer = torch.optim.AdamW([*encoder.parameters(), *heads.parameters()], weight_decay=1e-2)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * min(1, (step + 1) / WARM_UP) * (1 - step / steps)
        rows = torch.randint(len(tokens), (BATCH,))
        hidden = encoder(tokens[rows]).last_hidden_state
        after = (tokens[rows] == tokenizer.eos_token_id).cumsum(dim=1) > 0
        loss = torch.zeros(())
        for head, ids in zip(heads, (word_ids, scene_ids), strict=True):
            wanted = ids[rows][:, None].expand_as(after)
            loss = loss + nn.functional.cross_entropy(head(hidden)[after], wanted[after])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 250 == 249:
            print(f"step {step + 1}: loss {loss.item():.4f}", flush=True)
    return encoder


def teach_cache(web: Path, cache: Path, sizes: Sizes, steps: int) -> None:
    """Teach the captions of `web` in the tokens that `cache` holds; writes text_encoder.pt."""
    rows = read_records(web / "records.jsonl")
    tokens = torch.from_numpy(np.load(cache / "tokens.npy").astype(np.int64))
    tokenizer = CLIPTokenizer.from_pretrained(cache / "tokenizer", local_files_only=True)
    # Not every caption tells the scene.
    scenes = [row["scene"] if row["scene"] in row["caption"] else "" for row in rows]
    words = [row["caption_words"] for row in rows]
    encoder = teach(tokens, words, scenes, tokenizer, sizes, steps)
    save_atomic({"text_encoder": encoder.state_dict()}, cache / "text_encoder.pt")


def main() -> None:
    """Read the command line, teach and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--web", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    teach_cache(asked.web, asked.cache, Sizes(), STEPS)


if __name__ == "__main__":
    main()
