"""Long work without a terminal says how far it is; `--quiet` says nothing."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from higfa_cli.cli import output
from higfa_cli.cli.output import TerminalProgress


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "LONGEST_SILENCE", 0.3)
    monkeypatch.setattr(output, "SHORTEST_SILENCE", 0.0)


def slowly(count: int, seconds: float) -> Iterator[int]:
    for number in range(count):
        time.sleep(seconds)
        yield number


@pytest.mark.fault(
    "surroundings",
    "long work without a terminal: a log, Slurm, CI",
    "a line at every tenth and at least every 30 s: done, of how many, rate, time left",
)
def test_a_line_at_every_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(TerminalProgress().track(slowly(40, 0.002), "draw", total=40)) == list(range(40))
    lines = capsys.readouterr().err.splitlines()
    assert [re.match(r"draw: (\d+) of 40, ", line)[1] for line in lines] == [  # type: ignore[index]
        str(count) for count in range(4, 41, 4)
    ]
    assert all(re.search(r"(per second|each), .* left$", line) for line in lines)


@pytest.mark.fault("surroundings", "long work without a terminal: a log, Slurm, CI")
def test_one_long_step_is_not_silent(capsys: pytest.CaptureFixture[str]) -> None:
    list(TerminalProgress().track(slowly(2, 0.8), "load", total=2))
    lines = capsys.readouterr().err.splitlines()
    assert "load: 0 of 2" in lines and any(line.startswith("load: 1 of 2, ") for line in lines)


@pytest.mark.fault("surroundings", "long work without a terminal: a log, Slurm, CI")
def test_work_of_unknown_length_counts(capsys: pytest.CaptureFixture[str]) -> None:
    list(TerminalProgress().track(slowly(3, 0.4), "walk"))
    assert re.search(r"^walk: [12], .*(each|per second)$", capsys.readouterr().err, re.M)


@pytest.mark.fault("surroundings", "long work without a terminal: a log, Slurm, CI")
def test_quiet_and_short_work_say_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    list(TerminalProgress(quiet=True).track(slowly(4, 0.2), "draw", total=4))
    monkeypatch.setattr(output, "SHORTEST_SILENCE", 10.0)
    list(TerminalProgress().track(slowly(20, 0.001), "draw", total=20))
    assert capsys.readouterr().err == ""


def test_nothing_is_said_after_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError):
        for _ in TerminalProgress().track(slowly(5, 0.0), "draw"):
            raise RuntimeError
    time.sleep(0.5)
    assert capsys.readouterr().err == ""
