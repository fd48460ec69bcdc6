"""The program as a process of its own, without importing torch again for each.

`python -m tests.support.forks` imports everything once, then forks a child for each request on
stdin; the child has its own environment, folder, limits and output files, and runs the program's
`main`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.signals import heed_signals
from tests.support.steps import stop_before

ROOT = Path(__file__).resolve().parents[2]


class Child:
    """A forked run of the program."""

    def __init__(self, server: Forks, pid: int, out: Path, err: Path) -> None:
        self._server, self.pid, self._out, self._err = server, pid, out, err

    def teach(self) -> None:
        """Have the server import what this child came to need, so that later ones are quicker."""
        self._server.ask({"modules": str(self._out.with_suffix(".modules"))})

    def send(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    @property
    def steps(self) -> int:
        """Durable steps that it took; it was started with `stop_at=0` and has ended."""
        return int(self._out.with_suffix(".steps").read_text())

    def end(self) -> tuple[int, str, str]:
        """Wait; (exit code, or minus the signal that killed it; stdout; stderr)."""
        code = self._server.ask({"wait": self.pid})
        return code, self._out.read_text("utf-8"), self._err.read_text("utf-8")


class Forks:
    """The process that forks."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.forks"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._process.communicate()

    def ask(self, request: Mapping[str, Any]) -> int:
        """One request; its answer."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def start(
        self,
        *arguments: str | Path,
        limit: int | None = None,
        cwd: Path = ROOT,
        stop_at: int | None = None,
        still: bool = False,
    ) -> Child:
        """Start `higfa ARGUMENTS`.

        `limit`: no file may become longer than so many bytes. `stop_at`: SIGKILL at that durable
        step. `still`: its clocks stand still, so that measured times are equal in all runs.
        """
        self._count += 1
        out, err = (self._folder / f"{self._count}.{name}" for name in ("out", "err"))
        request = {"argv": [str(one) for one in arguments], "limit": limit, "cwd": str(cwd)}
        request |= {"stop_at": stop_at, "still": still}
        pid = self.ask(request | {"out": str(out), "err": str(err)})
        return Child(self, pid, out, err)

    def run(self, *arguments: str | Path, limit: int | None = None) -> tuple[int, str, str]:
        """Start and wait."""
        return self.start(*arguments, limit=limit).end()


def wait_for(path: Path, seconds: float = 60) -> None:
    """Return as soon as `path` is there."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.002)


def _child(request: Mapping[str, Any]) -> None:
    from higfa_cli.cli.app import main

    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    opened = (
        os.open(os.devnull, os.O_RDONLY),
        *(os.open(request[n], flags) for n in ("out", "err")),
    )
    for number, descriptor in enumerate(opened):
        os.dup2(descriptor, number)
    os.chdir(request["cwd"])
    if request["limit"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["limit"], request["limit"]))
    steps = None if request["stop_at"] is None else stop_before(request["stop_at"])
    if request["still"]:
        time.monotonic = time.perf_counter = lambda: 0.0
    sys.argv = ["higfa", *request["argv"]]
    try:
        main()
    finally:
        if steps is not None and request["stop_at"] == 0:
            out, taken = Path(request["out"]), steps()
            out.with_suffix(".steps").write_text(str(taken))
            out.with_suffix(".modules").write_text("\n".join(sys.modules))


def _serve() -> None:
    from higfa_cli.cli.options import silence_libraries
    from higfa_cli.stages.pipeline import NAMES

    silence_libraries()
    for stage in NAMES:
        importlib.import_module(f"higfa_cli.stages.{stage.replace('-', '_')}")
    for line in sys.stdin:
        request = json.loads(line)
        if "modules" in request:
            for name in Path(request["modules"]).read_text().splitlines():
                with contextlib.suppress(Exception):
                    importlib.import_module(name)
            print(0, flush=True)
            continue
        if "wait" in request:
            print(os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1]), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            code = 99
            try:
                heed_signals()
                _child(request)
            except SystemExit as ending:
                code = ending.code if isinstance(ending.code, int) else 98
            finally:
                os._exit(code)
        print(pid, flush=True)


if __name__ == "__main__":
    _serve()
