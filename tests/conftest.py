"""Fixtures that several test modules share."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.support.forks import Forks


# The files that take longest, so that no worker is left with one of them at the end.
LONGEST = (
    *("footprint", "end_to_end_families", "doctor_files", "equality", "kill", "families"),
    *("faults_stop", "shards", "faults", "bad_photos", "doctor", "dry_run", "end_to_end"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files."""
    place = {f"test_{name}.py": index for index, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))


def pytest_collection_finish() -> None:
    """What the imports made stays: no later collection of garbage walks over it again."""
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache folder of the tests' own, which the processes of one run share."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(base / "cache"))
        yield


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """The process that forks the program."""
    from tests.support.forks import Forks

    with Forks(tmp_path_factory.mktemp("streams")) as server:
        yield server


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty hub cache, and a network that fails the test when it is asked; the cache."""
    asked = []

    def refuse(*_: Any, **__: Any) -> None:
        asked.append("the network was asked")
        raise OSError(asked[-1])

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield tmp_path / "hub"
    assert not asked


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: Path) -> Path:
    """An empty current folder and hub cache; returns the cache."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return offline


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Tiny models of all families; tests that change one work on a copy."""
    from tests.support import tiny

    folder = tmp_path_factory.mktemp("models")
    families = ("sd", "sdxl", "sd3", "sd35")
    return {family: tiny.make_model(folder / family, family=family) for family in families}


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of every stage with tiny models and photos of three classes."""
    from tests.support import photo_project

    return photo_project.write_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="session")
def workspace(recipe: Path) -> Path:
    """What `higfa run` of it leaves; tests that change anything work on a copy."""
    from tests.support import photo_project

    folder = recipe.parent / "out"
    photo_project.higfa("run", str(recipe), "--workspace", str(folder), "--quiet")
    return folder
