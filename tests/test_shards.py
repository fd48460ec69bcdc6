"""Several processes draw one plan: the same bytes as one process, whoever draws what."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from higfa_cli.artifacts.atomic import read_json, read_jsonl
from higfa_cli.artifacts.fingerprint import hash_file
from tests.support.fault_project import one_line, tree
from tests.support.forks import Child, Forks, wait_for
from tests.support.kill_rounds import write_project


@dataclass(frozen=True)
class Project:
    """A project with contours and guide, and what one process draws of it."""

    forks: Forks
    recipe: Path
    ready: Path
    whole: dict[str, str]

    def workspace(self, folder: Path) -> Path:
        """A copy to draw in."""
        shutil.copytree(self.ready, folder / "out")
        return folder / "out"

    def start(self, out: Path, *flags: str, stop_at: int | None = None) -> Child:
        command = ("synthesize", str(self.recipe), "--workspace", str(out), "--quiet", "--json")
        return self.forks.start(*command, *flags, stop_at=stop_at)

    def draw(self, out: Path, *flags: str) -> tuple[int, str, str]:
        return self.start(out, *flags).end()


@pytest.fixture(scope="module")
def project(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("shards")
    recipe = write_project(folder)
    flags = ("--workspace", str(folder / "ready"), "--quiet", "--until", "finetune-guide")
    child = forks.start("run", str(recipe), *flags, stop_at=0)
    code, _, err = child.end()
    assert code == 0, err
    child.teach()
    shutil.copytree(folder / "ready", folder / "whole")
    bare = Project(forks, recipe, folder / "ready", {})
    code, _, err = bare.draw(folder / "whole")
    assert code == 0, err
    return Project(forks, recipe, folder / "ready", tree(folder / "whole"))


def summary(out: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(out)["summary"]["higfa"]
    return found


@pytest.mark.fault(
    "processes",
    "shards one after the other, or together",
    "same bytes as one process",
)
def test_one_shard_after_the_other(project: Project, tmp_path: Path) -> None:
    out = project.workspace(tmp_path)
    code, text, err = project.draw(out, "--shard", "0/2")
    assert code == 0, err
    assert summary(text)["state"] == "shard 0/2 done, 2 of 3 batches so far"
    assert read_json(out / "synthesize" / "higfa" / "run.json")["status"] == "running"
    assert not (out / "synthesize" / "higfa" / "images" / "metadata.jsonl").exists()
    # Again: nothing is left to do for it.
    assert summary(project.draw(out, "--shard", "0/2")[1])["state"] == (
        "shard 0/2 done, 2 of 3 batches so far"
    )
    code, text, err = project.draw(out, "--shard", "1/2")
    assert code == 0, err
    assert summary(text)["images"] == 6
    assert tree(out) == project.whole
    record = read_json(out / "synthesize" / "higfa" / "run.json")
    assert record["status"] == "done"
    # The cost counts what the other shard drew, too.
    assert len(record["output_seconds"]) == 3
    assert record["counts"]["seconds"] == pytest.approx(
        sum(record["output_seconds"].values()), abs=0.01
    )


@pytest.mark.fault("processes", "shards one after the other, or together")
def test_shards_at_the_same_time(project: Project, tmp_path: Path) -> None:
    out = project.workspace(tmp_path)
    shards = [project.start(out, "--shard", f"{index}/3") for index in range(3)]
    ended = [shard.end() for shard in shards]
    assert [code for code, _, _ in ended] == [0, 0, 0], ended
    assert tree(out) == project.whole
    rows = read_jsonl(out / "synthesize" / "higfa" / "images" / "metadata.jsonl")
    assert len({row["id"] for row in rows}) == len(rows) == 6


@pytest.mark.fault("processes", "two workers", "same bytes as one")
def test_two_workers(project: Project, tmp_path: Path) -> None:
    out = project.workspace(tmp_path)
    code, text, err = project.draw(out, "--workers", "2")
    assert code == 0, err
    assert summary(text)["drawn_now"] == 6
    assert tree(out) == project.whole


@pytest.mark.fault("processes", "a worker or a shard is killed", "only its own work is lost")
def test_a_killed_worker_loses_only_its_own(project: Project, tmp_path: Path) -> None:
    out = project.workspace(tmp_path)
    child = project.start(out, "--workers", "2")
    traces = out / "synthesize" / "higfa" / "traces"
    deadline = time.monotonic() + 100
    while not (found := _workers(child.pid)) or not traces.is_dir():
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(found[0], signal.SIGKILL)
    code, _, err = child.end()
    if code == 0:
        pytest.skip("the worker had drawn all its batches before it was killed")
    assert code == 1
    one_line(err, "a worker ended before its time", "run the same command again")
    # What the kill cut off in the middle of a write goes at the next run.
    kept = sorted(path for path in traces.iterdir() if not path.name.startswith("."))
    assert kept
    stamps = {path: path.stat().st_mtime_ns for path in kept}
    assert project.draw(out)[0] == 0
    # The kill may fall between a batch's last file and its row in the journal: that one is redrawn.
    assert sum(path.stat().st_mtime_ns != stamps[path] for path in kept) <= 1
    assert tree(out) == project.whole


def _workers(parent: int) -> list[int]:
    """Processes that a run has spawned to draw."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text().rpartition(")")[2].split()
                line = (entry / "cmdline").read_text()
            except OSError:
                continue
            if int(status[1]) == parent and "spawn_main" in line:
                found.append(int(entry.name))
    return found


@pytest.mark.fault("processes", "a worker or a shard is killed")
@pytest.mark.parametrize(
    "step", [pytest.param(4, marks=pytest.mark.slow), 27, pytest.param(40, marks=pytest.mark.slow)]
)
def test_a_killed_shard_then_again(project: Project, tmp_path: Path, step: int) -> None:
    out = project.workspace(tmp_path)
    assert project.start(out, "--shard", "0/2", stop_at=step).end()[0] == -9
    assert project.draw(out, "--shard", "1/2")[0] == 0
    assert read_json(out / "synthesize" / "higfa" / "run.json")["status"] == "running"
    code, text, err = project.draw(out, "--shard", "0/2")
    assert code == 0, err
    assert summary(text)["images"] == 6
    assert tree(out) == project.whole


def test_one_process_finishes_what_shards_began(project: Project, tmp_path: Path) -> None:
    out = project.workspace(tmp_path)
    assert project.draw(out, "--shard", "2/3")[0] == 0
    code, text, err = project.draw(out)
    assert code == 0, err
    assert summary(text)["drawn_now"] == 4
    assert tree(out) == project.whole


@pytest.mark.fault(
    "processes",
    "the same shard twice, a whole run beside a shard, another recipe",
    "exit 75",
)
def test_who_is_refused(project: Project, tmp_path: Path) -> None:
    """While a shard draws: the same shard, and a run of the whole, are told who is at work."""
    out = project.workspace(tmp_path)
    slow = ("--set", "pictures.per_contour=40")
    shard = project.start(out, "--shard", "0/2", *slow)
    wait_for(out / "synthesize" / ".higfa.part-shard-0-of-2.lock.json")
    wait_for(out / "synthesize" / "higfa" / "plan.jsonl")
    code, _, err = project.draw(out, "--shard", "0/2", *slow)
    assert code == 75, err
    one_line(err, f"process {shard.pid}")
    code, _, err = project.draw(out, *slow)
    assert code == 75, err
    one_line(err, "shard-0-of-2")
    # Another recipe must not clear the folder under it either.
    code, _, err = project.draw(out, "--shard", "1/2", "--set", "pictures.per_contour=2")
    assert code == 75, err
    one_line(err, "another recipe")
    shard.send(signal.SIGKILL)
    assert shard.end()[0] == -9
    # The dead hold nothing.
    assert project.draw(out)[0] == 0
    left = tree(out)
    # What the other recipe's shard had begun is set aside.
    aside = [left.pop(name) for name in list(left) if "/.earlier/" in name]
    assert aside and left == project.whole


def test_plan_is_followed_by_all(project: Project, tmp_path: Path) -> None:
    out = project.workspace(tmp_path)
    assert project.draw(out, "--shard", "0/2")[0] == 0
    plan = read_json(out / "synthesize" / "higfa" / "plan.json")
    assert (plan["batch_size"], plan["threads"], plan["device"]) == (2, 1, "cpu")
    # A plan that was settled elsewhere: whoever goes on follows it, or says why not.
    path = out / "synthesize" / "higfa" / "plan.json"
    for journal in (out / "synthesize" / "higfa").glob(".outputs*.jsonl"):
        lines = [json.loads(line) for line in journal.read_text().splitlines()]
        path.write_text(json.dumps(plan | {"device": "cuda"}))
        for line in lines:
            if line["file_name"] == "plan.json":
                line["sha256"] = hash_file(path)
        journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, _, err = project.draw(out, "--shard", "1/2")
    assert code == 1
    one_line(err, "plan.json was begun on cuda", "--device cuda")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--shard", "2/2"), "--shard 2/2: write I/N"),
        (("--shard", "1"), "--shard 1: write I/N"),
        (("--shard", "0/2", "--workers", "2"), "--shard goes without"),
        (("--workers", "0"), "--workers 0: write a number from 1, or auto"),
        (("--workers", "2", "--preview", "1"), "drawing the whole plan alone"),
    ],
)
def test_bad_flags(project: Project, flags: tuple[str, ...], message: str) -> None:
    code, _, err = project.draw(project.ready, *flags)
    assert code == 2
    one_line(err, message)
