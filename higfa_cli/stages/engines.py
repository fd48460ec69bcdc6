"""Engines: how the shards of a plan are started. Another engine is one more function here."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from signal import SIG_IGN, SIGINT, signal
from typing import Protocol

from tqdm import tqdm

from higfa_cli.errors import UserError
from higfa_cli.models.device import gpus, resolve_device

#: Draws the shard of an index, from 0, on a device. Picklable; raises UserError.
Draw = Callable[[int, str], None]


class Crew(Protocol):
    """Shards at work."""

    def working(self, seconds: float) -> bool:
        """Whether any shard is still at work, asked for at most so long."""
        ...

    def end(self) -> list[int]:
        """End those that still work; the exit codes of all, in their order."""
        ...


#: (draw, number of shards, device as the recipe names it) -> the shards, started.
Engine = Callable[[Draw, int, str], Crew]


class LocalCrew:
    """Processes of this machine."""

    def __init__(self, jobs: Sequence[BaseProcess]) -> None:
        self._jobs = jobs
        for job in jobs:
            job.start()

    def working(self, seconds: float) -> bool:
        """As `Crew`."""
        alive = [job.sentinel for job in self._jobs if job.is_alive()]
        return bool(alive) and len(wait(alive, seconds)) < len(alive)

    def end(self) -> list[int]:
        """As `Crew`."""
        for job in self._jobs:
            job.terminate()
        for job in self._jobs:
            job.join()
        return [job.exitcode or 0 for job in self._jobs]


def local(draw: Draw, count: int, device: str) -> Crew:
    """A process for each shard; with several GPUs and none named, each has one of its own."""
    spread = device in ("auto", "cuda") and resolve_device(device).type == "cuda"
    places = [f"cuda:{index % gpus()}" if spread else device for index in range(count)]
    spawn = multiprocessing.get_context("spawn")
    return LocalCrew(
        [spawn.Process(target=_live, args=(draw, *place)) for place in enumerate(places)]
    )


#: Name, as `--engine` takes it -> how it starts shards.
ENGINES: Mapping[str, Engine] = {"local": local}


def engine_of(name: str) -> Engine:
    """Raises UserError (exit code 2) for a name that is no engine's."""
    if name not in ENGINES:
        raise UserError(f"--engine {name}: engines are {', '.join(ENGINES)}", exit_code=2)
    return ENGINES[name]


def _live(draw: Draw, index: int, device: str) -> None:
    """A process's life: its shard, unless the parent goes before."""
    # Ctrl-C reaches the whole group of processes; the parent answers it and ends its shards.
    signal(SIGINT, SIG_IGN)
    # A bar's usual lock is shared between processes; one that a killed one leaves is complained of.
    tqdm.set_lock(threading.RLock())
    threading.Thread(target=_follow_parent, daemon=True).start()
    try:
        draw(index, device)
    except UserError as error:
        print(f"error: shard {index}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _follow_parent() -> None:
    """End this process when the parent has ended; what it was writing is as after a kill."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
