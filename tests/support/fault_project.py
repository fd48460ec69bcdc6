"""A small project for the fault tests: photos, a recipe, and what an undisturbed run leaves."""

from __future__ import annotations

import ctypes
import hashlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import shapes, tiny
from tests.support.recipes import EDGES, drawing_keys, write_recipe

ROOT = Path(__file__).resolve().parents[2]
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, PR_CAPBSET_DROP = 1, 2, 24


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    code: int
    out: str
    err: str


def write_project(folder: Path, per_class: int = 10, models: bool = False, **keys: Any) -> Path:
    """Photos and a recipe in `folder`; returns the recipe. The guide is off."""
    shapes.write_class_folders(folder / "photos" / "train", per_class, seed=1)
    shapes.write_class_folders(folder / "photos" / "test", 1, seed=2)
    model = tiny.make_model(folder / "models") if models else ("some/model", "some/controlnet")
    drawing = drawing_keys(steps=3, batch_size=2, gallery=1, classifier={"switch": 1.0})
    sections = {"name": "faults", "contours": EDGES, **drawing, **keys}
    return write_recipe(folder / "recipe.yaml", model, **sections)


def higfa(
    *arguments: str | Path,
    env: Mapping[str, str | None] | None = None,
    shell: str | None = None,
    stdout: Any = subprocess.PIPE,
    cwd: Path = ROOT,
    limit: int | None = None,
    before: Callable[[], None] | None = None,
) -> Ended:
    """Run the program as a process of its own.

    Args:
        env: changes to the environment; None takes a variable away.
        shell: a shell command in which `"$@"` stands for the program.
        limit: no file may become longer than so many bytes.
        before: called in the child before the program starts.
    """
    variables: dict[str, str | None] = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
    command: Sequence[str] = [sys.executable, "-m", "higfa_cli", *map(str, arguments)]
    if shell is not None:
        command = ["sh", "-c", shell, "sh", *command]

    def prepare() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        if before is not None:
            before()

    done = subprocess.run(
        command,
        cwd=cwd,
        env={name: value for name, value in variables.items() if value is not None},
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        preexec_fn=prepare,
        timeout=120,
        check=False,
    )
    out = "" if done.stdout is None else done.stdout.decode("utf-8", "surrogateescape")
    return Ended(done.returncode, out, done.stderr.decode("utf-8", "surrogateescape"))


def obey_permissions() -> None:
    """Let permissions count for root too, from the next program on; for others they do anyway."""
    if os.geteuid() == 0:
        for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
            ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """A disk quota for this process, for as long as the block runs."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def tree(folder: Path) -> dict[str, str]:
    """What a run leaves, byte for byte; the records of when and where aside.

    Locks and notes beside the stage folders count, but for the lock file itself, which stays.
    """
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "run.json" and not path.name.endswith(".lock")
    }


def one_line(err: str, *parts: str | Path) -> None:
    """stderr is one error line that holds every part."""
    assert err.startswith("error: "), err
    assert err.count("\n") == 1 and err.endswith("\n"), err
    assert "Traceback" not in err and "Error:" not in err, err
    for part in parts:
        assert str(part) in err, f"{part} is not in: {err}"
