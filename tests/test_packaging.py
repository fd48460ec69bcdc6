"""Wheel and editable install work outside the checkout; help is quick and light."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = [
    "init",
    "contours",
    "finetune-guide",
    "synthesize",
    "filter",
    "train-downstream",
    "report",
    "run",
    "status",
    "predict",
    "export",
    "recipes",
]


def outside(
    arguments: list[str], cwd: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=clean | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def unpacked_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources and unpacked: what pip would install."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("higfa_cli", "recipes"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = ["-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(folder)]
    result = outside([*command, str(source)], folder)
    assert result.returncode == 0, result.stderr
    (wheel,) = folder.glob("higfa-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_wheel_works_outside_the_checkout(unpacked_wheel: Path, tmp_path: Path) -> None:
    where = "import higfa_cli; print(higfa_cli.__file__)"
    found = outside(["-S", "-c", where], tmp_path, PYTHONPATH=str(unpacked_wheel))
    assert found.stdout.startswith(str(unpacked_wheel))
    result = outside(
        ["-m", "higfa_cli", "recipes", "check", "pocket"], tmp_path, PYTHONPATH=str(unpacked_wheel)
    )
    assert result.returncode == 0, result.stderr
    names = {path.relative_to(unpacked_wheel).as_posix() for path in unpacked_wheel.rglob("*")}
    assert "higfa_cli/py.typed" in names
    assert any(name.startswith("higfa_cli/report/templates/") for name in names)
    assert {"higfa_cli/builtin_recipes/aircraft-sdxl.yaml"} <= names
    assert not any(name.startswith(("tests", "tools", "pocket")) for name in names)
    packages = {path.parent.name for path in (ROOT / "higfa_cli").glob("*/__init__.py")}
    assert {f"higfa_cli/{name}/__init__.py" for name in packages} <= names


def test_installed_tool_works_outside_the_checkout(tmp_path: Path) -> None:
    result = outside(["-m", "higfa_cli", "recipes", "list"], tmp_path)
    assert result.returncode == 0, result.stderr
    assert "pocket-aircraft" in result.stdout


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_imports_nothing_heavy(command: str | None, tmp_path: Path) -> None:
    arguments = [] if command is None else [command]
    code = (
        "import sys; from higfa_cli.cli.app import main; sys.argv = ['higfa', "
        f"*{arguments!r}, '--help']\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'timm', 'cv2', 'numpy'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = outside(["-c", code], tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Usage: " in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_answers_within_a_third_of_a_second(command: str | None, tmp_path: Path) -> None:
    """Timed alone on an idle machine: the best of five runs of the whole process."""
    import time

    arguments = ["-m", "higfa_cli", *([] if command is None else [command]), "--help"]
    times = []
    for _ in range(5):
        started = time.perf_counter()
        assert outside(arguments, tmp_path).returncode == 0
        times.append(time.perf_counter() - started)
    assert min(times) < 0.3
