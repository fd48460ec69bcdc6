"""The documentation is tested: keys, commands, links, and the README's command lines."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer

from higfa_cli.cli.app import app
from higfa_cli.recipe.keys import is_section, recipe_keys
from higfa_cli.recipe.load import load_recipe

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
