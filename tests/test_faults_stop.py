"""Runs that are stopped, meet one another, or find their files changed: real drawing, forked."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from higfa_cli.recipe.strict_yaml import dump_yaml, parse_yaml
from tests.support.fault_project import higfa, obey_permissions, one_line, tree, write_project
from tests.support.forks import Child, Forks, wait_for

FIRST, TRACES = (f"synthesize/higfa/traces/batch-0000{n}.jsonl" for n in (0, 1))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("project"), per_class=3, models=True)


@pytest.fixture(scope="module")
def whole(forks: Forks, recipe: Path) -> Path:
    """A workspace that nothing disturbed."""
    folder = recipe.parent / "whole"
    for stage in ("contours", "synthesize"):
        code, out, err = forks.run(stage, recipe, "--workspace", folder)
        assert code == 0 and stage in out, err
        assert not set(out + err) & {"\x1b", "\r", "\b"}
    assert len(list(folder.rglob("synthesize/higfa/images/*/*.png"))) == 12
    return folder


@pytest.fixture
def contoured(whole: Path, tmp_path: Path) -> Path:
    """A workspace with contours alone."""
    shutil.copytree(whole / "contours", tmp_path / "w" / "contours")
    return tmp_path / "w"


def same(folder: Path, whole: Path, stage: str = "synthesize") -> None:
    assert tree(folder / stage) == tree(whole / stage)
    assert not list(folder.rglob(".higfa-tmp-*"))


# No room


@pytest.mark.fault(
    "surroundings",
    "file size limit or quota at any file",
    "one line with path, bytes and remedy; earlier artifacts stay; resumes",
)
@pytest.mark.parametrize("limit", [400, 1000, 2500, 4500, 6000])
def test_no_file_may_grow_beyond_a_limit(
    forks: Forks, recipe: Path, whole: Path, tmp_path: Path, limit: int
) -> None:
    arguments = ["contours", recipe, "--workspace", tmp_path / "w"]
    code, out, err = forks.run(*arguments, limit=limit)
    assert (code, out) == (1, "")
    one_line(err, tmp_path / "w", "File too large", "free some space")
    assert not list(tmp_path.rglob(".higfa-tmp-*"))
    state = json.loads(forks.run(*arguments, "--dry-run", "--json")[1])["kind"]
    assert state in ("missing", "partial")
    assert forks.run(*arguments)[0] == 0
    same(tmp_path / "w", whole, "contours")


@pytest.mark.fault("surroundings", "file size limit or quota at any file")
def test_limits_strike_while_drawing(
    forks: Forks, recipe: Path, whole: Path, contoured: Path
) -> None:
    struck = []
    contours = tree(contoured / "contours")
    arguments = ["synthesize", recipe, "--workspace", contoured]
    sizes = sorted(
        p.stat().st_size for p in (whole / "synthesize" / "higfa").rglob("*") if p.is_file()
    )
    # Just too small for the n-th largest file, so that the run gets further each time.
    for limit in [size - 1 for size in sizes[len(sizes) // 2 :: 5]] + [sizes[-1] - 1]:
        code, _, err = forks.run(*arguments, limit=limit)
        assert code == 1
        one_line(err, contoured, "File too large", "bytes to write", "free some space")
        struck.append(limit)
        assert tree(contoured / "contours") == contours
    assert len(struck) >= 3
    assert forks.run(*arguments)[0] == 0
    same(contoured, whole)


# Before any model is loaded


@pytest.mark.fault("surroundings", "output cannot be written", "error before any model is loaded")
def test_output_that_cannot_be_written_is_found_before_the_models_are_read(
    forks: Forks, recipe: Path, contoured: Path, tmp_path: Path
) -> None:
    shutil.copytree(recipe.parent / "models", tmp_path / "models")
    weights = next((tmp_path / "models/sd/unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-64])
    broken = ["--set", f"model.base={tmp_path / 'models/sd'}"]
    arguments = ["synthesize", recipe, *broken, "--workspace", contoured]
    (contoured / "synthesize").write_text("a file where the folder should be")
    code, _, err = forks.run(*arguments)
    assert code == 1
    one_line(err, contoured / "synthesize", "--workspace")
    (contoured / "synthesize").unlink()
    code, _, err = forks.run(*arguments)
    assert code == 1
    one_line(err, tmp_path / "models/sd")


# Signals


@pytest.mark.fault(
    "stop",
    "Ctrl-C, SIGTERM, SIGHUP while pictures are drawn",
    "the batch at work is dropped, exit 130, 143, 129; finished batches are kept",
)
@pytest.mark.parametrize(
    ("number", "expected"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=["SIGINT", "SIGTERM", "SIGHUP"],
)
def test_signal_while_drawing_and_the_same_command_goes_on(
    forks: Forks, recipe: Path, whole: Path, contoured: Path, number: int, expected: int
) -> None:
    arguments = ["synthesize", recipe, "--workspace", contoured]
    child = forks.start(*arguments)
    wait_for(contoured / TRACES)
    child.send(number)
    code, out, err = child.end()
    assert (code, out) == (expected, "")
    one_line(err, "interrupted", "run the same command again")
    record = json.loads((contoured / "synthesize/higfa/run.json").read_text())
    assert (record["status"], record["error"]) == ("failed", "interrupted")
    kept = (contoured / FIRST).stat().st_ino
    assert not (contoured / "synthesize/higfa/images/metadata.jsonl").exists()
    assert not list(contoured.rglob(".higfa-tmp-*")) and not list(contoured.glob(".*.json"))
    assert forks.run(*arguments)[0] == 0
    assert (contoured / FIRST).stat().st_ino == kept, "what was finished is not drawn again"
    same(contoured, whole)


@pytest.mark.fault("stop", "Ctrl-C, SIGTERM among the contours", "exit 130, 143; no manifest")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_among_the_contours(
    forks: Forks, recipe: Path, whole: Path, tmp_path: Path, number: int
) -> None:
    arguments = ["contours", recipe, "--workspace", tmp_path / "w"]
    child = forks.start(*arguments)
    wait_for(tmp_path / "w/contours/images")
    child.send(number)
    code, _, err = child.end()
    assert code == 128 + number
    one_line(err, "interrupted")
    assert not (tmp_path / "w/contours/manifest.jsonl").exists()
    assert forks.run(*arguments)[0] == 0
    same(tmp_path / "w", whole, "contours")


@pytest.mark.fault("stop", "a second signal")
def test_two_interrupts_at_once(forks: Forks, recipe: Path, whole: Path, contoured: Path) -> None:
    arguments = ["synthesize", recipe, "--workspace", contoured]
    child = forks.start(*arguments)
    wait_for(contoured / TRACES)
    child.send(signal.SIGINT)
    time.sleep(0.002)
    child.send(signal.SIGINT)
    code, _, err = child.end()
    assert code in (130, -signal.SIGINT) and "Traceback" not in err
    assert forks.run(*arguments)[0] == 0
    same(contoured, whole)


@pytest.mark.fault(
    "stop",
    "kill -9 while the second of two arms is drawn",
    "tree as of an undisturbed run; the first arm is not drawn again",
)
def test_kill_in_the_second_arm_leaves_the_first(
    forks: Forks, recipe: Path, contoured: Path, tmp_path: Path
) -> None:
    arms = {"plain": {}, "strong": {"guidance.text.scale": 6.0}}
    keys = parse_yaml(recipe.read_text(encoding="utf-8"), recipe.name)
    both = recipe.with_name("both.yaml")
    both.write_text(dump_yaml(keys | {"arms": arms}), encoding="utf-8")
    shutil.copytree(contoured, tmp_path / "whole")
    assert forks.run("synthesize", both, "--workspace", tmp_path / "whole")[0] == 0
    arguments = ["synthesize", both, "--workspace", contoured]
    child = forks.start(*arguments)
    drawn = contoured / "synthesize"
    wait_for(drawn / "strong/traces/batch-00001.jsonl")
    child.send(signal.SIGKILL)
    assert child.end()[0] == -signal.SIGKILL
    records = [json.loads((drawn / arm / "run.json").read_text()) for arm in arms]
    assert [record["status"] for record in records] == ["done", "running"]
    kept = {path: path.stat().st_ino for path in (drawn / "plain").rglob("*") if path.is_file()}
    assert forks.run(*arguments)[0] == 0
    assert {path: path.stat().st_ino for path in kept} == kept
    same(contoured, tmp_path / "whole")


# Two runs in one folder


@pytest.fixture
def holder(forks: Forks, recipe: Path, contoured: Path) -> Iterator[Child]:
    """A run that is drawing into `contoured`."""
    child = forks.start("synthesize", recipe, "--workspace", contoured)
    wait_for(contoured / "synthesize/higfa/run.json")
    yield child


@pytest.mark.fault(
    "processes",
    "two runs in one folder",
    "the second exits at once with 75 and names process and host of the first, which goes on",
)
def test_second_run_leaves_at_once_and_the_first_goes_on(
    forks: Forks, recipe: Path, whole: Path, contoured: Path, holder: Child
) -> None:
    holder.send(signal.SIGSTOP)
    code, out, err = forks.run("synthesize", recipe, "--workspace", contoured, "--force")
    holder.send(signal.SIGCONT)
    assert (code, out) == (75, "")
    one_line(
        err, f"process {holder.pid} on {socket.gethostname()}", contoured / "synthesize" / "higfa"
    )
    assert holder.end()[0] == 0
    same(contoured, whole)


@pytest.mark.fault("processes", "lock of a process that has died", "cleared")
def test_lock_of_a_dead_process_is_cleared(
    forks: Forks, recipe: Path, whole: Path, contoured: Path, holder: Child
) -> None:
    holder.send(signal.SIGKILL)
    assert holder.end()[0] == -signal.SIGKILL
    assert list(contoured.glob("synthesize/.higfa.lock*"))
    assert forks.run("synthesize", recipe, "--workspace", contoured)[0] == 0
    same(contoured, whole)
    assert not list(contoured.rglob(".*.json"))


@pytest.mark.fault(
    "processes",
    "lock of another machine",
    "respected; the line names the note to delete if that process has died",
)
def test_lock_of_another_machine_is_respected(forks: Forks, recipe: Path, tmp_path: Path) -> None:
    arguments = ["contours", recipe, "--workspace", tmp_path / "w"]
    (tmp_path / "w").mkdir()
    note = tmp_path / "w" / ".contours.lock.json"
    note.write_text(json.dumps({"pid": 7, "host": "node-17", "boot": "another"}))
    code, _, err = forks.run(*arguments)
    assert code == 75
    one_line(err, "process 7 on node-17", f"delete {note}")
    assert not list((tmp_path / "w").rglob("*.png"))
    note.unlink()
    assert forks.run(*arguments)[0] == 0


@pytest.mark.fault("processes", "garbage in the lock files", "no lock")
@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', '{"pid": 1}', "\x00\x00", "ÿ[bold]"])
def test_garbage_in_the_lock_files_is_no_lock(
    forks: Forks, recipe: Path, whole: Path, tmp_path: Path, text: str
) -> None:
    (tmp_path / "w").mkdir()
    for name in (".contours.lock.json", ".contours.lock"):
        (tmp_path / "w" / name).write_text(text, encoding="latin-1")
    code, _, err = forks.run("contours", recipe, "--workspace", tmp_path / "w")
    assert code == 0, err
    same(tmp_path / "w", whole, "contours")


# Files cut short, edited, deleted, added


def cut(path: Path) -> None:
    """As a crash of the machine may leave it: the last line without its end."""
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.fault(
    "files",
    "manifest, record or picture of `contours` cut, emptied, deleted or garbage",
    "later stages refuse; `contours` makes it again",
)
@pytest.mark.parametrize("name", ["manifest.jsonl", "run.json", "images/blue disc/0-0.png"])
@pytest.mark.parametrize("harm", ["cut", "emptied", "deleted", "garbage"])
def test_harmed_contours_are_made_again(
    forks: Forks, recipe: Path, whole: Path, contoured: Path, name: str, harm: str
) -> None:
    victim = contoured / "contours" / name
    if harm == "cut":
        cut(victim)
    elif harm == "emptied":
        victim.write_bytes(b"")
    elif harm == "garbage":
        victim.write_bytes(b"\xff\x00{]")
    else:
        victim.unlink()
    # A later stage refuses to build on it, in one line that says what to run ...
    code, _, err = forks.run("synthesize", recipe, "--workspace", contoured)
    assert code == 1
    one_line(err, "contours", "run")
    assert not (contoured / "synthesize" / "higfa").exists()
    # ... and running that mends it. Only without its record, nobody knows whose the folder is.
    code, _, err = forks.run("contours", recipe, "--workspace", contoured)
    if (name, harm) == ("run.json", "deleted"):
        assert code == 1
        one_line(err, contoured / "contours", "higfa did not make it", "move it away")
        return
    assert code == 0, err
    same(contoured, whole, "contours")


@pytest.mark.fault(
    "files",
    "metadata, plan, traces, gallery or record of `synthesize` cut or emptied",
    "later stages refuse; `synthesize` mends it",
)
@pytest.mark.parametrize(
    "name",
    [
        "images/metadata.jsonl",
        "plan.jsonl",
        "plan.json",
        "traces/batch-00000.jsonl",
        "traces/batch-00001.jsonl",
        "run.json",
    ],
)
@pytest.mark.parametrize("harm", ["cut", "emptied"])
def test_harmed_synthesis_is_mended(
    forks: Forks, recipe: Path, whole: Path, contoured: Path, name: str, harm: str
) -> None:
    shutil.copytree(whole / "synthesize", contoured / "synthesize")
    victim = contoured / "synthesize/higfa" / name
    if harm == "cut":
        cut(victim)
    else:
        victim.write_bytes(b"")
    code, _, err = forks.run("filter", recipe, "--workspace", contoured)
    assert code == 1
    one_line(err, "synthesize", "run")
    code, _, err = forks.run("synthesize", recipe, "--workspace", contoured)
    assert code == 0, err
    same(contoured, whole)


@pytest.mark.fault("files", "journal cut short", "its last row is dropped, its picture drawn again")
def test_journal_cut_short(forks: Forks, recipe: Path, whole: Path, contoured: Path) -> None:
    arguments = ["synthesize", recipe, "--workspace", contoured]
    child = forks.start(*arguments)
    wait_for(contoured / TRACES)
    child.send(signal.SIGKILL)
    child.end()
    (journal,) = (contoured / "synthesize" / "higfa").glob(".outputs*.jsonl")
    cut(journal)
    assert forks.run(*arguments)[0] == 0
    same(contoured, whole)


@pytest.mark.fault("files", "picture edited or deleted", "drawn again")
def test_edited_and_deleted_pictures_are_drawn_again(
    forks: Forks, recipe: Path, whole: Path, contoured: Path
) -> None:
    shutil.copytree(whole / "synthesize", contoured / "synthesize")
    first, second, *_ = sorted((contoured / "synthesize/higfa/images").rglob("*.png"))
    first.write_bytes(second.read_bytes())
    second.unlink()
    arguments = ["synthesize", recipe, "--workspace", contoured]
    found = json.loads(forks.run(*arguments, "--dry-run", "--json")[1])
    assert isinstance(found, dict)
    assert forks.run(*arguments)[0] == 0
    same(contoured, whole)


@pytest.mark.fault(
    "files",
    "the user's files in a stage's folder",
    "never removed after a finished run",
)
def test_files_of_the_user_are_never_removed(
    forks: Forks, recipe: Path, whole: Path, contoured: Path
) -> None:
    own = [contoured / "contours" / n for n in ("notes.txt", "images/mine.txt", "mine/deep/a.png")]
    for path in own:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("the user's")
    arguments = ["contours", recipe, "--workspace", contoured]
    assert forks.run(*arguments, "--force")[0] == 0
    assert forks.run(*arguments, "--set", "contours.per_image=2")[0] == 0
    assert [path.read_text() for path in own] == ["the user's"] * 3
    assert forks.run(*arguments)[0] == 0
    mine = {path.relative_to(contoured / "contours").as_posix() for path in own}
    left = {k: v for k, v in tree(contoured / "contours").items() if k not in mine}
    assert left == tree(whole / "contours")


@pytest.mark.fault("files", "stage folder is a link", "error; link and target untouched")
def test_stage_folder_that_is_a_link_is_left_alone(
    forks: Forks, recipe: Path, tmp_path: Path
) -> None:
    workspace, elsewhere = tmp_path / "w", tmp_path / "elsewhere"
    workspace.mkdir()
    (workspace / "contours").symlink_to(elsewhere)
    arguments = ["contours", recipe, "--workspace", workspace, "--force"]
    for there in (False, True):
        if there:
            elsewhere.mkdir()
        code, _, err = forks.run(*arguments)
        assert code == 1
        one_line(err, workspace / "contours", "--workspace")
        assert (workspace / "contours").is_symlink()
        assert not there or not list(elsewhere.iterdir())


# A machine with nothing


@pytest.mark.fault(
    "surroundings",
    "no network, dead proxies, no HOME, while drawing",
    "no effect with local models",
)
def test_drawing_without_home_network_or_temporary_folder(
    recipe: Path, whole: Path, contoured: Path, tmp_path: Path
) -> None:
    nowhere = "http://127.0.0.1:9"
    env = {
        **{"HOME": "/nonexistent", "TMPDIR": "/nonexistent", "OMP_NUM_THREADS": "1"},
        **{"HF_HUB_OFFLINE": None, "HF_HOME": None, "XDG_CACHE_HOME": None, "LC_ALL": "C"},
        **{"HTTP_PROXY": nowhere, "HTTPS_PROXY": nowhere, "ALL_PROXY": nowhere, "NO_PROXY": None},
        **{"http_proxy": nowhere, "https_proxy": nowhere, "all_proxy": nowhere, "no_proxy": None},
    }
    arguments = ["synthesize", recipe, "--workspace", contoured]
    ended = higfa(*arguments, env=env, before=obey_permissions)
    assert ended.code == 0, ended.err
    assert "Traceback" not in ended.err
    same(contoured, whole)
