"""Tools that are run by hand: their lists must not rot."""

from __future__ import annotations

from pathlib import Path

from tools.mutants import load_mutants

ROOT = Path(__file__).resolve().parent.parent


def test_every_mutant_still_finds_its_place() -> None:
    mutants = load_mutants(ROOT / "tools" / "mutants.yaml")
    assert len(mutants) >= 30
    assert len({(one.file, one.old, one.new) for one in mutants}) == len(mutants)
    assert all((ROOT / test).is_file() for one in mutants for test in one.tests)
