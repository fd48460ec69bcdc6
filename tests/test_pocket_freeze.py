"""The pocket's data are the frozen ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools.pocket.lab import freeze
from tools.pocket.pocket_render.captions import CAPTION_RATES


def frozen() -> dict[str, object]:
    return dict(json.loads(freeze.FROZEN.read_text(encoding="utf-8")))


def test_class_table_pools_and_caption_rates_are_the_frozen_ones() -> None:
    assert frozen()["definition"] == freeze.data_hash()
    assert frozen()["caption_rates"] == CAPTION_RATES


def test_shipped_pictures_are_the_frozen_ones() -> None:
    assert frozen()["dataset"] == freeze.folder_hash(freeze.DATASET)


def test_another_caption_rate_is_another_world(monkeypatch: pytest.MonkeyPatch) -> None:
    before = freeze.data_hash()
    monkeypatch.setitem(freeze.CAPTION_RATES, "variant", 0.56)
    assert freeze.data_hash() != before


def test_folder_hash_sees_names_and_bytes(tmp_path: Path) -> None:
    def written(name: str, data: bytes) -> str:
        folder = tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        (folder / name).write_bytes(data)
        return freeze.folder_hash(folder)

    first = written("a", b"1")
    assert first == written("a", b"1")
    assert first != written("b", b"1")
    assert first != written("a", b"2")
