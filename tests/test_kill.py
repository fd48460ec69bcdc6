"""Kill -9 anywhere, then the same command again: the tree is as if nothing had happened."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.support.forks import Forks
from tests.support.kill_rounds import STAGES, Killer


@pytest.fixture(scope="module")
def killer(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Killer:
    return Killer(forks, tmp_path_factory.mktemp("kill"))


def spread(steps: int, count: int) -> list[int]:
    """`count` steps from the first to the last."""
    return [1 + round(k * (steps - 1) / (count - 1)) for k in range(count)]


@pytest.mark.fault(
    "stop",
    "kill -9 at any step of any stage, also between a temporary file and its rename",
    "tree as of an undisturbed run, no temporary files",
)
def test_eight_points_of_all_steps(killer: Killer) -> None:
    rounds = [killer.round(stop_at=step) for step in spread(killer.steps, 8)]
    assert [one.differences for one in rounds] == [()] * 8
    assert all(one.stage is not None for one in rounds)
    assert len({one.stage for one in rounds}) >= 4


@pytest.mark.fault(
    "stop", "kill -9 at random moments, several times", "tree as of an undisturbed run"
)
def test_three_kills_at_any_time(killer: Killer) -> None:
    found = killer.round(delay=0.3 * killer.quick_seconds, kills=3)
    assert found.differences == ()


@pytest.mark.fault(
    "stop", "kill -9 while results of another recipe are replaced", "tree as of an undisturbed run"
)
def test_kills_while_outdated_results_are_replaced(killer: Killer) -> None:
    """Every stage holds results of another recipe; some are cleared when the run is killed."""
    old = killer.outdated()
    assert len(killer.differences(old)) > 20
    rounds = [killer.round(stop_at=step, begin_with=old) for step in (3, 150)]
    assert [one.differences for one in rounds] == [()] * 2


@pytest.mark.fault("stop", "kill -9 while results of another recipe are replaced")
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_points_while_outdated_results_are_replaced(killer: Killer) -> None:
    old = killer.outdated()
    steps = spread(killer.steps, 20)
    rounds = [killer.round(stop_at=step, begin_with=old) for step in steps]
    assert [one.differences for one in rounds] == [()] * 20


def test_a_kill_is_noticed(killer: Killer) -> None:
    """The comparison is able to fail: a file that a kill might leave is a difference."""
    assert killer.round(stop_at=killer.steps // 2).differences == ()
    work = killer.folder / "round" / "out"
    (work / "synthesize" / "higfa" / "images" / ".higfa-tmp-1-ab").write_text("half")
    (work / "contours" / "manifest.jsonl").write_text("")
    (work / "filter" / "higfa" / "selection.jsonl").unlink()
    assert killer.differences(work) == [
        "contours/manifest.jsonl",
        "filter/higfa/selection.jsonl",
        "synthesize/higfa/images/.higfa-tmp-1-ab",
    ]


@pytest.mark.fault(
    "stop",
    "kill -9 at any step of any stage, also between a temporary file and its rename",
)
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_sixty_points_over_all_six_stages(killer: Killer) -> None:
    rounds = [killer.round(stop_at=step) for step in spread(killer.steps, 60)]
    assert [one.differences for one in rounds] == [()] * 60
    hit = Counter(one.stage for one in rounds)
    assert set(hit) == set(STAGES), hit


@pytest.mark.fault("stop", "kill -9 at random moments, several times")
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_random_moments(killer: Killer) -> None:
    rng = np.random.default_rng(0)
    rounds = [
        killer.round(delay=float(rng.uniform(0, killer.quick_seconds)), kills=2) for _ in range(20)
    ]
    assert [one.differences for one in rounds] == [()] * 20


@pytest.mark.fault(
    "stop",
    'kill -9 after the record says "done"',
    "nothing is run again, leftovers go",
)
def test_a_leftover_of_the_very_last_step_goes_at_the_next_run(
    killer: Killer, tmp_path: Path
) -> None:
    """Killed between "done" and the removal of journals: nothing is run again, yet they go."""
    work = tmp_path / "work"
    work.mkdir()
    command = ("run", str(killer.recipe), "--workspace", "out", "--quiet", "--until", "contours")
    child = killer.forks.start(*command, cwd=work, stop_at=0, still=True)
    assert child.end()[0] == 0
    done = (work / "out" / "contours" / "run.json").stat().st_mtime_ns
    journal = work / "out" / "contours" / ".outputs.jsonl"
    assert not journal.exists()
    journal.write_text("")
    (work / "out" / ".contours.lock.json").write_text('{"pid": 1, "host": "x"')
    assert killer.forks.start(*command, cwd=work).end()[0] == 0
    assert not journal.exists()
    assert not (work / "out" / ".contours.lock.json").exists()
    assert (work / "out" / "contours" / "run.json").stat().st_mtime_ns == done
