"""Looking costs nothing: no torch for a look at files, and no file is read twice."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from higfa_cli.artifacts import fingerprint
from higfa_cli.artifacts.fingerprint import hash_file, hash_tree
from higfa_cli.cli.app import app
from higfa_cli.recipe.load import load_recipe

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


def test_a_forecast_that_is_remembered_needs_no_torch() -> None:
    code = "import higfa_cli.forecast.doctor, higfa_cli.forecast.dry_run, sys; "
    code += "assert not {'torch', 'timm', 'diffusers'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file is hashed from now on; what was hashed before is forgotten."""
    counts: Counter[str] = Counter()
    digest = hashlib.file_digest

    def counted(handle: Any, name: str) -> Any:
        counts[handle.name] += 1
        return digest(handle, name)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    monkeypatch.setattr(fingerprint, "_known", {})
    return counts


def settled(*folders: Path) -> list[Path]:
    """The files below the folders, now as old as files are that nobody is writing."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    before = time.time() - 60
    for path in files:
        os.utime(path, (before, before))
    return files


def test_a_file_is_read_once(tmp_path: Path, reads: Counter[str]) -> None:
    weights = tmp_path / "unet" / "weights.safetensors"
    weights.parent.mkdir()
    with weights.open("wb") as file:
        file.truncate(50_000_000)
    (tmp_path / "config.json").write_text("{}")
    settled(tmp_path)
    first = hash_tree(tmp_path)
    assert [hash_tree(tmp_path) for _ in range(3)] == [first] * 3
    assert sorted(reads.values()) == [1, 1]
    # Another content is another file, also of the same size and age.
    with weights.open("r+b") as file:
        file.write(b"x")
    settled(tmp_path)
    assert hash_tree(tmp_path) != first


def test_synthesize_reads_a_local_model_once_for_its_hash(
    recipe: Path, workspace: Path, tmp_path: Path, reads: Counter[str]
) -> None:
    """For its state, the stage that it reads, its inputs and its run, of every arm."""
    model = load_recipe(str(recipe)).recipe.model
    files = settled(recipe.parent / model.base, recipe.parent / model.controlnet)
    assert len(files) > 8
    out = tmp_path / "out"
    shutil.copytree(workspace, out)
    shutil.rmtree(out / "synthesize")
    result = CliRunner().invoke(app, ["synthesize", str(recipe), "--workspace", str(out)])
    assert result.exit_code == 0, result.output
    assert {path: reads[str(path)] for path in files} == dict.fromkeys(files, 1)


def test_a_file_that_was_just_written_is_read_again(tmp_path: Path) -> None:
    """Within one tick of the file system's clock a second writing would not show."""
    path = tmp_path / "a"
    for content in (b"1", b"2", b"3"):
        path.write_bytes(content)
        assert hash_file(path) == hashlib.sha256(content).hexdigest()
