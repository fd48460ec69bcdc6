"""Looking costs nothing: no torch for a look at files, and no file is read twice."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from higfa_cli.artifacts.fingerprint import hash_file, hash_tree

LOOK = """
import sys
from higfa_cli.cli.app import main
sys.argv = ["higfa", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
heavy = {"torch", "torchvision", "timm", "diffusers", "transformers"} & sys.modules.keys()
assert not heavy, heavy
"""


@pytest.mark.parametrize("words", [["status"], ["run", "--dry-run"]], ids=("status", "run"))
def test_a_look_at_a_finished_project_needs_no_torch(
    recipe: Path, workspace: Path, words: list[str]
) -> None:
    command = [sys.executable, "-c", LOOK, words[0], str(recipe), "--workspace", str(workspace)]
    shown = subprocess.run([*command, *words[1:]], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert "fresh" in shown.stdout or "skip" in shown.stdout


def test_a_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of weights as `synthesize` hashes it, for its state, its inputs and its run."""
    weights = tmp_path / "unet" / "weights.safetensors"
    weights.parent.mkdir()
    with weights.open("wb") as file:
        file.truncate(50_000_000)
    (tmp_path / "config.json").write_text("{}")
    reads: Counter[str] = Counter()
    digest = hashlib.file_digest

    def counted(handle: Any, name: str) -> Any:
        reads[handle.name] += 1
        return digest(handle, name)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    before = time.time() - 60
    for path in tmp_path.rglob("*.*"):
        os.utime(path, (before, before))
    first = hash_tree(tmp_path)
    assert [hash_tree(tmp_path) for _ in range(3)] == [first] * 3
    assert sorted(reads.values()) == [1, 1]
    # Another content is another file, also of the same size and age.
    with weights.open("r+b") as file:
        file.write(b"x")
    os.utime(weights, (before, before))
    assert hash_tree(tmp_path) != first


def test_a_file_that_was_just_written_is_read_again(tmp_path: Path) -> None:
    """Within one tick of the file system's clock a second writing would not show."""
    path = tmp_path / "a"
    for content in (b"1", b"2", b"3"):
        path.write_bytes(content)
        assert hash_file(path) == hashlib.sha256(content).hexdigest()
