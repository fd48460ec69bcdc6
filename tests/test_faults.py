"""Surroundings that go wrong: full disks, folders without permission, streams, locale, clock."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from pathlib import Path

import pytest

from higfa_cli.artifacts.atomic import read_jsonl
from tests.support.fault_project import ROOT, higfa, obey_permissions, one_line, tree, write_project


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def whole(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What an undisturbed run leaves."""
    folder = tmp_path_factory.mktemp("whole") / "w"
    ended = higfa("contours", recipe, "--workspace", folder)
    assert (ended.code, ended.err) == (0, "")
    found = tree(folder)
    assert sum(name.startswith("contours/images/") for name in found) == 40
    assert "contours/manifest.jsonl" in found
    return found


def runs_whole(recipe: Path, folder: Path, whole: dict[str, str]) -> None:
    """The same command, undisturbed, ends well and leaves the same bytes."""
    ended = higfa("contours", recipe, "--workspace", folder)
    assert (ended.code, ended.err) == (0, "")
    assert tree(folder) == whole


# No room


@pytest.mark.fault(
    "surroundings",
    "disk full",
    "one line with path, bytes and remedy; earlier artifacts intact; resumes",
)
def test_full_disk(recipe: Path, whole: dict[str, str], tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    # All in one shell: the disk is there for as long as the name space of its mounts is.
    script = (
        'mount -t tmpfs -o size=4m none "$DISK" && cd "$DISK" || exit 77\n'
        'head -c 4112000 /dev/zero > filler; "$@"; echo $? > "$DISK/../code"\n'
        'rm filler; cp -r . ../first; "$@" && cp -r . ../second\n'
    )
    (tmp_path / "run.sh").write_text(script)
    shell = f'exec unshare --mount sh "{tmp_path / "run.sh"}" "$@"'
    ended = higfa(
        *("contours", recipe, "--workspace", disk / "w", "--quiet"),
        shell=shell,
        env={"DISK": str(disk)},
    )
    if ended.code != 0 and not (tmp_path / "code").exists():
        pytest.skip("mounting is not allowed here")
    assert (tmp_path / "code").read_text() == "1\n"
    one_line(ended.err, disk / "w" / "contours", "No space left on device", "free some space")
    assert "bytes to write" in ended.err
    assert not list((tmp_path / "first").rglob(".higfa-tmp-*"))
    assert tree(tmp_path / "second" / "w") == whole


@pytest.mark.fault("surroundings", "stdout on a full disk", "error; the artifacts are whole")
@pytest.mark.parametrize(
    "arguments", [["--version"], ["--help"], ["recipes", "list"], ["recipes", "show", "pocket"]]
)
def test_standard_output_on_a_full_disk(arguments: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        ended = higfa(*arguments, stdout=full)
    assert ended.code == 1
    one_line(ended.err, "standard output: No space left on device", "send it elsewhere")


@pytest.mark.fault("surroundings", "stdout on a full disk")
@pytest.mark.parametrize("flag", ["--json", "--quiet"])
def test_result_that_cannot_be_printed_is_an_error_and_the_work_is_kept(
    recipe: Path, whole: dict[str, str], tmp_path: Path, flag: str
) -> None:
    arguments = ["contours", recipe, "--workspace", tmp_path / "w", flag]
    with Path("/dev/full").open("wb") as full:
        ended = higfa(*arguments, stdout=full)
    assert ended.code == 1
    one_line(ended.err, "standard output: No space left on device", "files written are whole")
    assert tree(tmp_path / "w") == whole
    assert "skipped" in higfa(*arguments, "--json").out


@pytest.mark.fault("surroundings", "output path is a device or a pipe", "refused, never replaced")
def test_a_device_is_never_replaced_by_a_file(recipe: Path, tmp_path: Path) -> None:
    device = tmp_path / "device.yaml"
    os.mkfifo(device)
    photos = recipe.parent / "photos" / "train"
    ended = higfa("init", "--root", photos, "--out", device, "--force", "--quiet")
    assert ended.code == 1
    one_line(ended.err, device, "no ordinary file")
    assert stat.S_ISFIFO(device.stat().st_mode)


# No permission


@pytest.mark.fault(
    "surroundings",
    "read-only output folder or parent",
    "error before anything is removed",
)
def test_read_only_folders(recipe: Path, whole: dict[str, str], tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    workspace = outside / "w"
    arguments = ["contours", recipe, "--workspace", workspace]
    outside.chmod(0o555)
    ended = higfa(*arguments, before=obey_permissions)
    assert ended.code == 1
    one_line(ended.err, workspace, "Permission denied", "--workspace")
    assert not list(outside.iterdir())
    outside.chmod(0o755)
    runs_whole(recipe, workspace, whole)
    for folder in (workspace / "contours", workspace):
        folder.chmod(0o555)
        ended = higfa(*arguments, "--force", before=obey_permissions)
        assert ended.code == 1
        one_line(ended.err, workspace / "contours", "Permission denied", "--workspace")
        # What needs no writing still works.
        assert "is fresh" in higfa(*arguments, before=obey_permissions).out
        folder.chmod(0o755)
    assert tree(workspace) == whole


@pytest.mark.fault(
    "surroundings",
    "unreadable photo; unreadable folder",
    "listed with the reason; error",
)
def test_unreadable_photo_is_listed_and_an_unreadable_folder_is_an_error(tmp_path: Path) -> None:
    recipe = write_project(tmp_path, per_class=2)
    photo = tmp_path / "photos/train/red disc/1.png"
    arguments = ["contours", recipe, "--workspace", tmp_path / "w"]
    photo.chmod(0)
    ended = higfa(*arguments, before=obey_permissions)
    assert ended.code in (0, 3), ended.err
    (row,) = read_jsonl(tmp_path / "w/contours/rejected.jsonl")
    assert row["path"] == "train/red disc/1.png" and "denied" in row["detail"]
    photo.chmod(0o644)
    below = photo.parent / "more"
    below.mkdir()
    photo.rename(below / "1.png")
    for folder in (below, photo.parent, tmp_path / "photos/train", tmp_path / "photos"):
        folder.chmod(0)
        ended = higfa(*arguments, before=obey_permissions)
        folder.chmod(0o755)
        assert ended.code == 1
        one_line(ended.err, folder, "Permission denied", "permissions")


@pytest.mark.fault("surroundings", "a file where a folder should be", "error; the file stays")
@pytest.mark.parametrize("where", ["w", "w/contours", "w/.contours.lock/x"])
def test_a_file_where_a_folder_should_be(recipe: Path, tmp_path: Path, where: str) -> None:
    blocked = tmp_path / where
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.write_text("the user's")
    ended = higfa("contours", recipe, "--workspace", tmp_path / "w")
    assert ended.code == 1
    one_line(ended.err, tmp_path / "w", "--workspace")
    assert blocked.read_text() == "the user's"


# Clock, zone, locale, home


@pytest.mark.fault(
    "surroundings",
    "times of files in 1970 or the future",
    "no effect: contents count",
)
def test_times_of_files_do_not_matter(recipe: Path, tmp_path: Path) -> None:
    shutil.copytree(recipe.parent, tmp_path / "p")
    arguments = ["contours", tmp_path / "p" / "recipe.yaml", "--workspace", tmp_path / "w"]
    assert higfa(*arguments).code == 0
    for seconds in (0, 4_000_000_000):
        for path in tmp_path.rglob("*"):
            os.utime(path, (seconds, seconds))
        ended = higfa(*arguments)
        assert (ended.code, ended.err) == (0, "")
        assert "is fresh" in ended.out


@pytest.mark.fault("surroundings", "odd or unknown time zone", "no effect, records are in UTC")
@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "No/Such-Zone"])
def test_time_zone(recipe: Path, whole: dict[str, str], tmp_path: Path, zone: str) -> None:
    ended = higfa("contours", recipe, "--workspace", tmp_path / "w", env={"TZ": zone})
    assert (ended.code, ended.err) == (0, "")
    assert tree(tmp_path / "w") == whole
    record = json.loads((tmp_path / "w" / "contours" / "run.json").read_text())
    assert record["started"].endswith("+00:00") and record["started"] <= record["ended"]


PLAIN = {"LANG": None, "LC_ALL": None, "LC_CTYPE": None}
LOCALES = {
    "C": PLAIN | {"LC_ALL": "C"},
    "POSIX": PLAIN | {"LC_ALL": "POSIX"},
    "none": dict(PLAIN),
    "ascii streams": {"PYTHONIOENCODING": "ascii"},
    "latin-1 streams": {"PYTHONIOENCODING": "latin-1"},
}


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe and a class with letters that ASCII lacks, and its contours in `plain`."""
    folder = tmp_path_factory.mktemp("foreign") / "Größe 航空"
    recipe = write_project(folder, per_class=1)
    for split in ("train", "test"):
        photos = folder / "photos" / split
        (photos / "red disc").rename(photos / "disque très rouge 赤")
    assert higfa("contours", recipe, "--workspace", folder / "plain").code == 0
    return recipe


@pytest.mark.fault(
    "surroundings",
    "locale C or POSIX or none, ASCII or Latin-1 streams",
    "same bytes; valid JSON",
)
@pytest.mark.parametrize("locale", LOCALES)
def test_locale(foreign: Path, tmp_path: Path, locale: str) -> None:
    folder = tmp_path / "wörk 赤"
    arguments = ["contours", foreign, "--workspace", folder]
    ended = higfa(*arguments, "--json", env=LOCALES[locale])
    assert (ended.code, ended.err) == (0, "")
    assert json.loads(ended.out)["directory"] == str(folder / "contours")
    assert tree(folder) == tree(foreign.parent / "plain")
    ended = higfa(*arguments, env=LOCALES[locale])
    assert (ended.code, ended.err) == (0, "") and "is fresh in" in ended.out
    if "streams" in locale:
        missing = foreign.parent / "fehlt à.yaml"
        ended = higfa("contours", missing, env=LOCALES[locale])
        assert ended.code == 2 and ended.err.startswith("error: ") and ended.err.count("\n") == 1


@pytest.mark.fault("surroundings", "UTF-8 file names switched off", "error naming `PYTHONUTF8=1`")
def test_locale_that_cannot_name_the_files_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    recipe = write_project(tmp_path / "p", per_class=1)
    (recipe.parent / "photos").rename(recipe.parent / "Größe")
    recipe.write_text(recipe.read_text().replace("root: photos", "root: Größe"), encoding="utf-8")
    narrow = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ended = higfa("contours", recipe, "--workspace", tmp_path / "w", env=narrow)
    assert ended.code == 1
    one_line(ended.err, "set PYTHONUTF8=1")
    ended = higfa("contours", recipe, "--workspace", tmp_path / "w", env={"LC_ALL": "C"})
    assert ended.code == 0


HOMES = {
    "unset": {"HOME": None},
    "absent": {"HOME": "/nonexistent"},
    "no temporary folder": {"TMPDIR": "/nonexistent", "TMP": None, "TEMP": None},
    "nothing": {name: None for name in os.environ if name not in ("PATH", "LD_LIBRARY_PATH")},
}


@pytest.mark.fault("surroundings", "no HOME, no temporary folder, empty environment", "no effect")
@pytest.mark.parametrize("home", HOMES)
def test_no_home(recipe: Path, whole: dict[str, str], tmp_path: Path, home: str) -> None:
    ended = higfa("contours", recipe, "--workspace", tmp_path / "w", env=HOMES[home])
    assert (ended.code, ended.err) == (0, "")
    assert tree(tmp_path / "w") == whole


@pytest.mark.fault("surroundings", "read-only HOME", "no effect, nothing written there")
def test_read_only_home(recipe: Path, whole: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o555)
    env = {"HOME": str(tmp_path / "home"), "HF_HOME": None, "XDG_CACHE_HOME": None}
    arguments = ["contours", recipe, "--workspace", tmp_path / "w"]
    ended = higfa(*arguments, env=env, before=obey_permissions)
    assert (ended.code, ended.err) == (0, "")
    assert tree(tmp_path / "w") == whole
    assert not list((tmp_path / "home").iterdir())


@pytest.mark.fault("surroundings", "home folder of an unknown user", "error")
def test_home_of_nobody_is_an_error(recipe: Path) -> None:
    ended = higfa("contours", recipe, "--workspace", "~no-such-user/w")
    assert ended.code in (1, 2)
    one_line(ended.err, "~no-such-user/w", "--workspace")


@pytest.mark.fault(
    "surroundings",
    "current folder deleted",
    "absolute paths work; a relative one is an error",
)
def test_deleted_working_folder(recipe: Path, whole: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    shell = f'cd "{tmp_path}/gone" && rmdir "{tmp_path}/gone" && exec "$@"'
    ended = higfa("contours", recipe, "--workspace", tmp_path / "w", shell=shell)
    assert (ended.code, ended.err) == (0, "")
    assert tree(tmp_path / "w") == whole
    (tmp_path / "gone").mkdir()
    ended = higfa("contours", recipe, "--workspace", "w", shell=shell)
    assert ended.code == 1
    one_line(ended.err, "current folder")


# Closed streams


@pytest.mark.fault(
    "surroundings",
    "stdin, stdout or stderr closed",
    "no effect on files or exit code",
)
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(recipe: Path, whole: dict[str, str], tmp_path: Path, closed: str) -> None:
    arguments = ["contours", recipe, "--workspace", tmp_path / "w"]
    ended = higfa(*arguments, shell=f'exec "$@" {closed}')
    assert (ended.code, ended.err) == (0, "")
    assert tree(tmp_path / "w") == whole
    broken = higfa("contours", tmp_path / "none.yaml", shell=f'exec "$@" {closed}')
    assert broken.code == 2 and "Traceback" not in broken.err


@pytest.mark.fault("surroundings", "the reader of stdout leaves (`head`)", "quiet end")
@pytest.mark.parametrize("what", ["recipes schema", "recipes list", "--help"])
def test_reader_that_leaves_early(what: str) -> None:
    ended = higfa(*what.split(), shell='{ sleep 0.2; "$@"; echo "code $?" >&2; } | true')
    assert ended.err in ("code 1\n", "code 141\n")


@pytest.mark.fault("surroundings", "nobody reads stderr", "progress is lost, the run goes on")
def test_progress_that_nobody_reads_stops_nothing(
    recipe: Path, whole: dict[str, str], tmp_path: Path
) -> None:
    arguments = ["contours", recipe, "--workspace", tmp_path / "w"]
    for number, end in enumerate(("2>/dev/full", "2>&1 >/dev/null | true")):
        folder = tmp_path / str(number)
        arguments = ["contours", recipe, "--workspace", folder]
        assert higfa(*arguments, shell=f'"$@" {end}').code == 0
        assert tree(folder) == whole


@pytest.mark.fault("surroundings", "output is no terminal", "no control characters")
def test_no_control_characters_where_nobody_sits(recipe: Path, tmp_path: Path) -> None:
    env = {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
    ended = higfa("contours", recipe, "--workspace", tmp_path / "w", env=env)
    listed = higfa("recipes", "list", env=env)
    for text in (ended.out, ended.err, listed.out, listed.err):
        assert not set(text) & {"\x1b", "\r", "\b"}
    assert ended.err == ""


# The documentation


def test_every_test_of_the_table_exists() -> None:
    text = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.count("|") == 4 and "tests/" in line]
    assert len(rows) >= 55
    for row in rows:
        named = re.findall(r"(tests/\w+\.py)::(\w+)", row)
        assert named, row
        for file, test in named:
            assert re.search(rf"^def {test}\(", (ROOT / file).read_text("utf-8"), re.M), test
    for file in ("tests/test_faults.py", "tests/test_faults_stop.py"):
        for test in re.findall(r"^def (test_\w+)", (ROOT / file).read_text("utf-8"), re.M):
            assert f"{file}::{test}" in text or test == "test_every_test_of_the_table_exists"
