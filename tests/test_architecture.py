"""Imports point one way, the method needs only torch, and modules stay readable."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from higfa_cli.models.families import FAMILIES

PACKAGE = Path(__file__).resolve().parent.parent / "higfa_cli"
TESTS = Path(__file__).resolve().parent
#: Floors from the ground up: a room imports from lower floors alone.
FLOORS = {
    "errors": 0,
    "text": 0,
    "method": 1,
    "recipe": 2,
    "artifacts": 3,
    "data": 4,
    "contour": 5,
    "models": 5,
    "training": 6,
    "report": 6,
    "stages": 7,
    "init": 8,
    "trained": 8,
    "forecast": 9,
    "cli": 10,
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


def dotted(path: Path) -> str:
    """The module's name."""
    name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    return name.removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Dotted names that a module imports anywhere; `from package import module` gives both."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_module_keeps_to_its_floor(path: Path) -> None:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    room = parts[0]
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300
    if room not in FLOORS:
        return
    for name in imports(path):
        top, *rest = name.split(".")
        assert top not in FORBIDDEN.get(room, set()), f"{room} must not import {name}"
        if top == "higfa_cli" and rest and rest[0] != room:
            assert FLOORS.get(rest[0], 0) < FLOORS[room], f"{room} must not import {name}"


def test_the_stages_stay_small() -> None:
    stages = (PACKAGE / "stages").glob("*.py")
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in stages) <= 4000


def test_every_room_has_a_floor() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms <= FLOORS.keys()


def test_no_module_imports_itself_by_a_detour() -> None:
    """No circle of imports, those inside functions and of types alone counted."""
    modules = {dotted(path) for path in MODULES}
    graph = {dotted(path): imports(path) & modules for path in MODULES}
    while leaves := {module for module, needed in graph.items() if not needed}:
        graph = {m: needed - leaves for m, needed in graph.items() if m not in leaves}
    assert not graph, "modules in circles, or above one"


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


def test_a_family_is_named_in_its_own_file_alone() -> None:
    """Nobody asks which family a model is of: the family is asked."""
    words = set(FAMILIES) - {"sd"}  # also a part of the pocket
    for family in FAMILIES.values():
        words |= {family.pipeline, family.network, family.network_class, family.controlnet_class}
        words |= set(family.text_encoders.values())
    for path in MODULES:
        if path.parent == PACKAGE / "models" / "families":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        constants = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
        names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} | imports(path)
        named = {name.rpartition(".")[2] for name in names if isinstance(name, str)}
        assert not words & (constants | named), path
        for compared in (n for n in ast.walk(tree) if isinstance(n, ast.Compare)):
            values = [n.value for n in ast.walk(compared) if isinstance(n, ast.Constant)]
            assert "sd" not in values, path


def test_families_are_asked_without_torch() -> None:
    code = "import sys, higfa_cli.models.families; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
