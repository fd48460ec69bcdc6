"""Imports point one way, the method needs only torch, and modules stay readable."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "higfa_cli"
TESTS = Path(__file__).resolve().parent
#: Floors from the ground up: a room may import its own floor's and lower rooms.
FLOORS = {
    "errors": 0,
    "recipe": 1,
    "artifacts": 1,
    "method": 2,
    "contour": 2,
    "data": 2,
    "models": 3,
    "training": 4,
    "report": 4,
    "stages": 5,
    "forecast": 6,
    "cli": 7,
}
FORBIDDEN = {
    "method": {"diffusers", "transformers", "timm", "cv2", "PIL", "numpy"},
    "stages": {"typer", "rich", "click"},
    "forecast": {"typer", "rich", "click"},
    "training": {"diffusers", "transformers"},
    "report": {"torch", "diffusers", "timm"},
    "recipe": {"torch"},
    "artifacts": {"torch"},
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Dotted names that a module imports anywhere."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_module_keeps_to_its_floor(path: Path) -> None:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    room = parts[0]
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
    if room not in FLOORS:
        return
    for name in imports(path):
        top, *rest = name.split(".")
        assert top not in FORBIDDEN.get(room, set()), f"{room} must not import {name}"
        if top == "higfa_cli" and rest:
            assert FLOORS.get(rest[0], 0) <= FLOORS[room], f"{room} must not import {name}"


def test_command_modules_import_no_torch_at_the_top() -> None:
    for path in (PACKAGE / "cli").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            names = (
                {alias.name for alias in node.names}
                if isinstance(node, ast.Import)
                else {node.module or ""}
                if isinstance(node, ast.ImportFrom)
                else set()
            )
            heavy = {name for name in names if name.startswith(("torch", "higfa_cli.stages"))}
            assert not heavy, f"{path.name}: {heavy}"


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda p: p.name)
def test_what_tests_share_is_in_support(path: Path) -> None:
    shared = {name for name in imports(path) if name.split(".")[0] == "tests"}
    assert all(name.startswith("tests.support") for name in shared), shared
