"""The documentation is tested: keys, commands, links, figures, and the README's command lines."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer

from higfa_cli.cli.app import app
from higfa_cli.recipe.keys import is_section, recipe_keys
from higfa_cli.recipe.load import load_recipe
from tools import faults, make_docs
from tools.pocket.lab import pages

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def command_lines() -> list[str]:
    """Every line of a bash block that starts with `higfa`, continuation lines joined."""
    lines = []
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
            joined = block.replace("\\\n", " ")
            lines += [line for line in joined.splitlines() if line.startswith("higfa ")]
    return lines


def test_made_pages_are_up_to_date() -> None:
    check = [sys.executable, str(ROOT / "tools" / "make_docs.py"), "--check"]
    result = subprocess.run(check, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


#: A shown number of every file in docs/data, and the page that shows it.
SHOWN = [
    ("ablation.md", "ablation", ("parts", "plain", "rows", 3, "against_recipe", 0)),
    ("bars.md", "bars", ("parts", "gain", "difference", 1)),
    ("bars.md", "bars", ("parts", "trainings", "trainings", 2, "difference", 0)),
    ("checkpoints.md", "checkpoints", ("rows", 1, "arms", 0, "agreement", 2)),
    ("instruments.md", "instruments", ("parts", "text", 0, "value")),
    ("laboratory.md", "ablation", ("parts", "plain", "rows", 3, "agreement", 0)),
    ("laboratory.md", "laboratory", ("recipe_seed_1", "gain", 0)),
    ("laboratory.md", "softness", ("rows", 0, "powers", 0, 2)),
]


@pytest.mark.parametrize(("page", "file", "place"), SHOWN)
def test_a_page_follows_every_file_of_data_that_it_shows(
    page: str, file: str, place: tuple[str | int, ...], tmp_path: Path
) -> None:
    committed = (ROOT / "docs" / page).read_text(encoding="utf-8")
    shutil.copytree(ROOT / "docs" / "data", tmp_path / "data")
    assert make_docs.made_pages(tmp_path)[page]() == committed
    change_number(tmp_path / "data" / f"{file}.json", place)
    assert make_docs.made_pages(tmp_path)[page]() != committed


def test_a_page_that_is_not_up_to_date_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "docs", tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(make_docs, "DOCS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["make_docs.py", "--check"])
    assert make_docs.main() == 0
    page, file, place = SHOWN[0]
    change_number(tmp_path / "data" / f"{file}.json", place)
    assert make_docs.main() == 1
    assert f"docs/{page} is not up to date" in capsys.readouterr().err


def change_number(path: Path, place: tuple[str | int, ...]) -> None:
    """Add 0.01 to the number at a place of a JSON file."""
    data = json.loads(path.read_text(encoding="utf-8"))
    inner = data
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] += 0.01
    path.write_text(json.dumps(data), encoding="utf-8")


def test_every_file_of_data_says_where_its_numbers_come_from() -> None:
    data = pages.read(ROOT / "docs")
    assert {file for _, file, _ in SHOWN} | {"measurements"} == set(data)
    for name in ("ablation", "bars", "checkpoints", "instruments"):
        assert set(data[name]["made"]) == {"command", "commit", "weights", "machine"}


def marked(root: Path, *marks: str) -> Path:
    """A folder of tests with these marks."""
    (root / "tests").mkdir(parents=True)
    bodies = [
        f"@pytest.mark.fault({mark})\ndef test_{i}() -> None: ...\n" for i, mark in enumerate(marks)
    ]
    (root / "tests" / "test_some.py").write_text("".join(bodies), encoding="utf-8")
    return root


def test_faults_are_collected_from_the_marks_of_the_tests(tmp_path: Path) -> None:
    rows = faults.faults(
        marked(tmp_path, '"stop", "a", "ends"', '"files", "b", "x"', '"stop", "a"')
    )
    tests = ["tests/test_some.py::test_0", "tests/test_some.py::test_2"]
    assert rows["stop"] == {"a": faults.Fault("ends", tests)}
    text = faults.page(tmp_path)
    assert f"| a | ends | {', '.join(tests)} |" in text


@pytest.mark.parametrize(
    ("marks", "words"),
    [
        (('"weather", "a", "x"',), "no section `weather`"),
        (('"stop", "a"',), "no test gives the outcome of `a`"),
        (('"stop", "a", "x"', '"stop", "a", "y"'), "another outcome of `a`"),
    ],
)
def test_a_mark_that_makes_no_row_is_refused(
    marks: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        faults.page(marked(tmp_path, *marks))


def test_tables_of_figures_are_made_from_data() -> None:
    figure = re.compile(r"\**[-+−]?\d[\d.,]*( ?%| / s)?\**( [(\[].*)?")
    # docs/memory.md is computed, and compared, by `python -m tools.memory_table`.
    made = {*make_docs.made_pages(ROOT / "docs"), "memory.md"}
    for page in sorted((ROOT / "docs").glob("*.md")):
        rows = re.findall(r"^\|(.*)\|$", page.read_text(encoding="utf-8"), re.M)
        cells = [cell.strip() for row in rows for cell in row.split("|")[1:]]
        figures = [cell for cell in cells if figure.fullmatch(cell)]
        assert not figures or page.name in made, f"{page.name}: {figures[0]}"


def test_intervals_of_the_readme_stand_in_a_page_made_from_data() -> None:
    made = "".join((ROOT / "docs" / f"{name}.md").read_text("utf-8") for name in pages.PAGES)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.findall(r"\(([-+]?\d+\.\d) to ([-+]?\d+\.\d)", readme)
    assert found
    for low, high in ((low.lstrip("+"), high.lstrip("+")) for low, high in found):
        assert f"({low} to {high}" in made or f"[{low}, {high}]" in made, f"({low} to {high})"


def test_every_picture_is_shown_somewhere() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for path in (ROOT / "docs" / "pictures").iterdir():
        assert f"pictures/{path.name}" in text, f"no page shows {path.name}"


def test_every_recipe_key_is_documented_and_described() -> None:
    text = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w.]+)` \| .*? \| (.*) \|$", text, re.M))
    leaves = {key for key in recipe_keys() if not is_section(key)}
    assert set(rows) == leaves
    assert all(len(meaning) > 10 for meaning in rows.values())


def test_every_command_is_documented() -> None:
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert len(commands) >= 11
    for name, command in commands.items():
        assert command.help
        assert f"## higfa {name}\n" in text
        assert f"higfa {name}" in readme


@pytest.mark.parametrize("line", command_lines())
def test_commands_in_the_documentation_exist(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    command: click.Command = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]  # type: ignore[attr-defined]
    known = {flag for param in command.params for flag in param.opts} | {"--help"}
    for word in words:
        if word.startswith("--"):
            assert word.partition("=")[0] in known, f"{word} is not a flag of `{line}`"
    for key in re.findall(r"--(?:set|sweep) ([\w.]+)=", line):
        assert key in recipe_keys()


def test_documentation_has_command_lines_at_all() -> None:
    assert len(command_lines()) >= 10


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_builtin_recipes_validate(path: Path) -> None:
    assert load_recipe(path.stem).recipe.name == path.stem
