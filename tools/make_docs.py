"""Write the pages of docs/ that follow from something else.

recipe.md from the schema, commands.md from the commands' own help, the laboratory's pages from the
numbers in docs/data, faults.md from the marks of the tests.

python tools/make_docs.py            write them
python tools/make_docs.py --check    exit 1 where a file is not what would be written
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
import typer
from pydantic.fields import FieldInfo

from higfa_cli.cli.app import app
from higfa_cli.recipe.keys import is_section, recipe_keys

ROOT = Path(__file__).resolve().parent.parent
# Run as a file, this program finds its own folder and not the checkout.
sys.path.insert(0, str(ROOT))

from tools import faults  # noqa: E402
from tools.pocket.lab import pages  # noqa: E402

DOCS = ROOT / "docs"


def default(field: FieldInfo) -> str:
    """The default as YAML would show it."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "none"
    return f"`{list(value) if isinstance(value, tuple) else value}`"


def allowed(annotation: object) -> str:
    """The choices of a Literal, wherever it stands in the annotation; "" beside other types."""
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(annotation))
    inner = [allowed(one) for one in get_args(annotation) if one not in (type(None), ...)]
    return next(filter(None, inner), "") if all(inner) or len(inner) == 1 else ""


def cell(text: str) -> str:
    """Text that stays in its table cell."""
    return text.replace("|", "\\|").replace("\n", " ")


def recipe_page() -> str:
    """One table per section of the recipe."""
    lines = [
        "# Recipe keys",
        "",
        "Made by `python tools/make_docs.py` from the schema. `higfa recipes schema` prints the",
        "JSON schema for editors; `--set KEY=VALUE` changes a key on the command line.",
    ]
    section = None
    for key, field in recipe_keys().items():
        if is_section(key):
            continue
        here = key.rpartition(".")[0] or "recipe"
        if here != section:
            section = here
            lines += ["", f"## {section}", "", "| key | default | meaning |", "| --- | --- | --- |"]
        choices = allowed(field.annotation)
        meaning = (field.description or "") + (f" One of {choices}." if choices else "")
        lines.append(f"| `{key}` | {cell(default(field))} | {cell(meaning)} |")
    return "\n".join(lines) + "\n"


def commands_page() -> str:
    """What all commands share (`commands_head.md`), then the help text of each."""
    lines = [(Path(__file__).parent / "commands_head.md").read_text(encoding="utf-8").rstrip()]
    root: Any = typer.main.get_command(app)
    for name, command in walk(root, "higfa"):
        with click.Context(command, info_name=name, terminal_width=96) as context:
            help_text = command.get_help(context).rstrip()
        lines += ["", f"## {name}", "", "```text", help_text, "```"]
    return "\n".join(lines) + "\n"


def walk(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """A command and its subcommands."""
    yield name, command
    for child, inner in getattr(command, "commands", {}).items():
        yield from walk(inner, f"{name} {child}")


def made_pages(docs: Path) -> dict[str, Callable[[], str]]:
    """Every made page of a docs folder, and what makes it."""
    measured = {f"{name}.md": partial(pages.render, name, pages.read(docs)) for name in pages.PAGES}
    return {
        "recipe.md": recipe_page,
        "commands.md": commands_page,
        "faults.md": partial(faults.page, ROOT),
        **measured,
    }


def main() -> int:
    """Write the pages, or check them."""
    stale = []
    for name, page in made_pages(DOCS).items():
        path, text = DOCS / name, page()
        if "--check" in sys.argv:
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                stale.append(name)
        else:
            path.write_text(text, encoding="utf-8")
    for name in stale:
        print(f"docs/{name} is not up to date: run python tools/make_docs.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
