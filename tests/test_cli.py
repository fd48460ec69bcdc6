"""The command line: help without torch, flags, errors in one line, exit codes, one JSON object."""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image, ImageDraw
from typer.testing import CliRunner

import higfa_cli
from higfa_cli.artifacts.lock import folder_lock
from higfa_cli.cli.app import app
from higfa_cli.cli.guard import Guarded
from higfa_cli.cli.options import DeviceFlags
from higfa_cli.cli.output import TerminalProgress, print_mapping
from higfa_cli.recipe.keys import recipe_keys
from tests.support.signals import heed_signals

ROOT = Path(__file__).parent.parent
COMMANDS = [
    [],
    ["init"],
    ["contours"],
    ["finetune-guide"],
    ["synthesize"],
    ["filter"],
    ["train-downstream"],
    ["report"],
    ["run"],
    ["status"],
    ["doctor"],
    ["predict"],
    ["export"],
    ["recipes"],
    ["recipes", "list"],
    ["recipes", "show"],
    ["recipes", "check"],
    ["recipes", "schema"],
]


def call(*arguments: str | Path) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command run in this process."""
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe over four small photos of two classes."""
    for number, cls in enumerate(("A320", "B[bold]/x")):
        folder = tmp_path / "photos" / "train" / cls.replace("/", "%2F")
        folder.mkdir(parents=True)
        for index in range(2):
            image = Image.new("RGB", (40, 30), "white")
            ImageDraw.Draw(image).rectangle((8 + 3 * index, 8, 28, 16 + 4 * number), fill="black")
            image.save(folder / f"{index}.png")
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "name: small\n"
        "workspace: " + str(tmp_path / "runs") + "\n"
        "data: {root: photos}\n"
        "size: 32\n"
        "model: {base: some/model, controlnet: some/controlnet}\n"
    )
    return path


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help(command: list[str]) -> None:
    code, out, _ = call(*command, "--help")
    assert code == 0
    assert "Usage:" in out and "--help" in out


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_ends_with_an_example_that_parses(command: list[str]) -> None:
    last = call(*command, "--help")[1].rstrip().splitlines()[-1]
    program, *words = shlex.split(last.removeprefix("  Example: ").partition(" > ")[0])
    assert program == "higfa" and words[: len(command)] == command
    inner: Any = typer.main.get_command(app)
    while words and hasattr(inner, "commands"):
        inner = inner.commands[words.pop(0)]
    inner.make_context("higfa", list(words))
    for key in re.findall(r"--set ([\w.]+)=", last):
        assert key in recipe_keys()


def test_the_commands_listed_here_are_all() -> None:
    registered = {info.name for info in app.registered_commands}
    assert registered | {"recipes"} == {command[0] for command in COMMANDS if command}


def test_help_does_not_import_torch_or_the_like() -> None:
    script = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from higfa_cli.cli.app import app\n"
        f"for command in {COMMANDS!r}:\n"
        "    assert CliRunner().invoke(app, [*command, '--help']).exit_code == 0\n"
        "heavy = {'torch', 'numpy', 'yaml', 'rich', 'PIL', 'cv2', 'higfa_cli.recipe.schema'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("command", [[], ["synthesize"]], ids=" ".join)
def test_help_is_quick(command: list[str]) -> None:
    def seconds(*arguments: str) -> float:
        # Processor time: equal to the time waited on an idle machine, and true on a busy one.
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # Against the help of a program of one flag, since machines differ more than any slip here.
    smallest = "import typer\ndef main(flag: int = 1) -> None: pass\ntyper.run(main)"
    pairs = [
        (seconds("-m", "higfa_cli", *command, "--help"), seconds("-c", smallest, "--help"))
        for _ in range(4)
    ]
    assert min(own for own, _ in pairs) < 2.5 * min(other for _, other in pairs)


def test_version() -> None:
    assert call("--version") == (0, f"higfa {higfa_cli.__version__}\n", "")


# Recipes


def test_recipes_list_show_check_schema() -> None:
    code, out, _ = call("recipes", "list", "--json")
    names = {row["name"] for row in json.loads(out)["recipes"]}
    assert code == 0 and {"aircraft-sdxl", "pocket-aircraft"} <= names
    assert "pocket-aircraft" in call("recipes", "list")[1]
    code, out, _ = call("recipes", "show", "pocket")
    assert code == 0 and out == (ROOT / "recipes" / "pocket-aircraft.yaml").read_text()
    assert call("recipes", "check", "aircraft")[:2] == (0, "built-in aircraft-sdxl: valid\n")
    out = call("recipes", "check", "aircraft", "--set", "sampling.steps=7", "--json")[1]
    assert json.loads(out)["sampling"]["steps"] == 7
    assert "properties" in json.loads(call("recipes", "schema")[1])


def test_recipes_check_refuses(recipe: Path) -> None:
    recipe.write_text(recipe.read_text() + "samplling: {}\n")
    code, out, err = call("recipes", "check", recipe)
    assert (code, out) == (2, "")
    assert err.startswith("error: recipe ") and err.count("\n") == 1
    assert "unknown key `samplling`; did you mean `sampling`?" in err


# Mistakes in flags


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["contours"], "no recipe chosen"),
        (["contours", "a.yaml", "--dataset", "aircraft"], "choose one recipe"),
        (["contours", "--recipe", "a.yaml"], "is an argument, higfa contours a.yaml"),
        (["status", "pocket", "--dataset", "aircraft"], "choose one recipe"),
        (["contours", "nowhere.yaml"], "nowhere.yaml does not exist"),
        (["contours", "--dataset", "nowhere"], "no built-in recipe `nowhere`"),
        (["contours", "--dataset", "recipe.yaml"], "no built-in recipe `recipe.yaml`"),
        (["contours", "--nonsense"], "--nonsense"),
        (["contours", "pocket", "again"], "unexpected extra argument"),
        (["nonsense"], "nonsense"),
        (["predict", "a.jpg"], "no photo: higfa predict RECIPE IMAGE..."),
        (["predict", "a.yaml", "b.jpg", "--model", "m", "--dataset", "pocket"], "not both"),
        (["export", "--out", "x", "--format", "onnx"], "no model: give a recipe or --model"),
        (["predict", "a.jpg", "--model", "m", "--dataset", "pocket"], "not both"),
        (["synthesize", "--preview", "2", "--sweep", "seed=1"], "one of --preview, --sweep"),
        (["synthesize", "--sweep", "steps=1"], "did you mean `sampling.steps`?"),
        (["synthesize", "--sweep", "sampling.steps"], "write KEY=VALUE,VALUE"),
        (["export", "--out", "x", "--format", "gguf"], "gguf"),
        (["init"], "--root"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_in_flags_exit_2(arguments: list[str], part: str) -> None:
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert part in err


def test_bad_set_is_one_line_and_writes_nothing(recipe: Path) -> None:
    code, out, err = call("contours", recipe, "--set", "contours.blurr=1")
    assert (code, out) == (2, "")
    assert err == (
        "error: --set contours.blurr=1: unknown key `contours.blurr`; "
        "did you mean `contours.blur`?\n"
    )
    assert not (recipe.parent / "runs").exists()


def test_run_refuses_stages_that_are_none_or_out_of_order(recipe: Path) -> None:
    code, _, err = call("run", recipe, "--from", "contour")
    assert code == 2 and "--from contour: no such stage; stages are contours," in err
    code, _, err = call("run", recipe, "--from", "report", "--until", "contours")
    assert code == 2 and "comes after" in err


# A stage, from the command line


def test_stage_runs_then_is_fresh_then_forced(recipe: Path) -> None:
    manifest = recipe.parent / "runs" / "contours" / "manifest.jsonl"
    code, out, _ = call("contours", recipe, "--quiet")
    assert code == 0 and out.startswith("contours: ") and "images: 4" in out
    first = manifest.read_bytes()
    code, out, _ = call("contours", recipe, "--json")
    result = json.loads(out)
    assert code == 0 and (result["action"], result["summary"]) == ("skipped", {})
    assert "is fresh in" in call("contours", recipe)[1]
    result = json.loads(call("contours", recipe, "--json", "--force")[1])
    assert (result["stage"], result["action"]) == ("contours", "ran")
    assert result["summary"]["images"] == 4
    assert manifest.read_bytes() == first


def test_dry_run_says_what_and_writes_nothing(recipe: Path) -> None:
    code, out, _ = call("contours", recipe, "--dry-run", "--json")
    result = json.loads(out)
    assert code == 0 and result["kind"] == "missing"
    assert result["parameters"]["size"] == 32
    assert "manifest.jsonl" in result["writes"]
    assert not (recipe.parent / "runs").exists()
    assert "dry run, nothing written" in call("contours", recipe, "--dry-run")[1]


def test_a_dry_run_of_all_stages(recipe: Path) -> None:
    code, out, _ = call("run", str(recipe), "--dry-run")
    assert code == 0 and "nothing written" in out and "after finetune-guide" in out
    code, out, _ = call("run", str(recipe), "--dry-run", "--from", "synthesize", "--json")
    assert code == 1
    assert [row["action"] for row in json.loads(out)["stages"]][:2] == ["fail", "not reached"]
    assert not (recipe.parent / "runs").exists()


def test_bad_data_is_one_line_with_nothing_written(recipe: Path) -> None:
    code, out, err = call("contours", recipe, "--set", "data.root=elsewhere", "--json")
    assert (code, out) == (1, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and "elsewhere" in err
    assert not (recipe.parent / "runs").exists()


def test_workspace_flag_and_run_until(recipe: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    arguments = ["run", recipe, "--until", "contours", "--workspace", other]
    code, out, _ = call(*arguments, "--json")
    result = json.loads(out)
    assert code == 0 and result["report"] is None
    assert [(row["stage"], row["action"]) for row in result["stages"]] == [("contours", "ran")]
    assert (other / "contours" / "manifest.jsonl").is_file()
    code, out, _ = call(*arguments)
    assert code == 0 and out.startswith("contours           fresh, skipped\ntotal ")


def test_busy_folder_exits_75(recipe: Path) -> None:
    with folder_lock(recipe.parent / "runs" / "contours"):
        done = subprocess.run(
            [sys.executable, "-m", "higfa_cli", "contours", str(recipe)],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 75
    assert f"in use by process {os.getpid()} on " in done.stderr
    assert done.stdout == ""


def test_words_repeat_the_choice() -> None:
    flags = DeviceFlags("my recipe.yaml", None, None, ["name=a b"], Path("w"), device="cpu")
    assert flags.words == ("'my recipe.yaml' --set 'name=a b' --workspace w --device cpu")
    assert DeviceFlags("pocket").words == "pocket"


def test_status_says_a_missing_folder_once(recipe: Path) -> None:
    flags = ("--set", "data.root=gone", "--set", "size=32")
    _, out, _ = call("status", recipe, *flags)
    assert out.count("gone does not exist") == 1
    assert next(line for line in out.splitlines() if "guide" in line).endswith("  as above")
    assert out.splitlines()[-1] == f"next: higfa doctor {recipe} {' '.join(flags)}"


# Printing


def test_what_is_none_has_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    print_mapping({"peak_memory": None, "reasons": {}, "parameters": {"shots": None}})
    assert capsys.readouterr().out == (
        "  peak memory: not known\n  parameters:\n    shots: not set\n"
    )


def test_user_text_is_never_markup(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"class": "[bold]x[/bold]", "p": 0.12345}]
    print_mapping({"a_b": "[red]y[/red]", "rows": rows, "none": [], "deep": {"k": [1, 2]}})
    TerminalProgress().note("[link=x]z")
    assert list(TerminalProgress().track(iter("ab"), "[b]")) == ["a", "b"]
    captured = capsys.readouterr()
    assert "a b: [red]y[/red]" in captured.out
    assert "[bold]x[/bold]  0.1235" in captured.out
    assert "none: none" in captured.out and "k: 1, 2" in captured.out
    assert captured.err == "[link=x]z\n"


# Errors. A small program under the same guard, so that each kind can be made to happen.

SCRIPT = """
import sys, time, typer
from higfa_cli.cli.guard import Guarded
from higfa_cli.errors import UserError
app = typer.Typer(cls=Guarded, pretty_exceptions_enable=False)
@app.command()
def broken() -> None:
    raise ValueError("two\\nlines")
@app.command()
def wait() -> None:
    print("ready", flush=True)
    time.sleep(30)
@app.command()
def pour() -> None:
    for _ in range(100000):
        print("x" * 80)
app()
"""


def guarded(name: str, debug: str = "0") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, name],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"HIGFA_DEBUG": debug},
    )


def test_unexpected_error_is_one_line_and_a_traceback_on_request() -> None:
    done = guarded("broken")
    assert done.returncode == 1
    assert done.stderr == (
        f"error: a fault of higfa {higfa_cli.__version__}: two lines; please report it to the "
        "project, with what the command prints under HIGFA_DEBUG=1\n"
    )
    assert "Traceback" in guarded("broken", debug="1").stderr


def test_interrupt_exits_130() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "wait"],
        cwd=ROOT,
        preexec_fn=heed_signals,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdout and child.stdout.readline() == b"ready\n"
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=10)
    assert (child.returncode, err) == (
        130,
        b"error: interrupted; run the same command again to go on\n",
    )


def test_reader_that_leaves_early_is_no_traceback() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "pour"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdout and child.stderr
        child.stdout.readline()
        child.stdout.close()
        assert child.stderr.read() == b""
    assert child.returncode == 1


def test_typers_own_exits_pass_through() -> None:
    small = typer.Typer(cls=Guarded)

    @small.command()
    def leave() -> None:
        raise typer.Exit(7)

    @small.command()
    def other() -> None:
        raise typer.BadParameter("wrong")

    assert CliRunner().invoke(small, ["leave"]).exit_code == 7
    assert CliRunner().invoke(small, ["other"]).exit_code == 2
