"""docs/faults.md from the marks of the tests: what can go wrong, what happens then, what proves it.

A test says what it proves with `@pytest.mark.fault(SECTION, FAULT, OUTCOME)`; further tests of the
same fault leave the outcome out. The marks are read from the source, so no test is imported.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

SECTIONS = {
    "stop": "Stopped and killed",
    "processes": "Several processes",
    "surroundings": "Room, permission, streams, surroundings",
    "files": "Files that were changed",
    "images": "Bad images",
    "hostile": "Hostile input",
    "numbers": "Numbers and memory",
    "models": "Models as people have them",
    "costly": "Known before the costly part",
    "words": "What messages say",
    "folders": "Folders of photos as people have them",
    "lists": "Lists and tables as people have them",
}


@dataclass
class Fault:
    """One row: `outcome` is "" until a mark gives it; `tests` are pytest's own names."""

    outcome: str = ""
    tests: list[str] = field(default_factory=list)


def page(root: Path) -> str:
    """The whole page. Raises ValueError as `faults`."""
    env = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    template = env.get_template("faults.md.j2")
    return template.render(sections=SECTIONS, faults=faults(root))


def faults(root: Path) -> dict[str, dict[str, Fault]]:
    """Section -> fault -> outcome and tests, in the order of the tests' files and lines.

    Raises ValueError: an unknown section, a fault of no outcome or of two.
    """
    found: dict[str, dict[str, Fault]] = {section: {} for section in SECTIONS}
    for test, words in marks(root):
        section, fault, *outcome = words
        if section not in found:
            raise ValueError(f"{test}: no section `{section}`; sections are {', '.join(SECTIONS)}")
        row = found[section].setdefault(fault, Fault())
        row.tests.append(test)
        if outcome and row.outcome not in ("", outcome[0]):
            raise ValueError(f"{test}: another outcome of `{fault}` than {row.tests[0]}")
        row.outcome = outcome[0] if outcome else row.outcome
    for rows in found.values():
        for fault, row in rows.items():
            if not row.outcome:
                raise ValueError(f"{row.tests[0]}: no test gives the outcome of `{fault}`")
    return found


def marks(root: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The words of every mark, with the name of its test."""
    for path in sorted((root / "tests").glob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.FunctionDef):
                continue
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.fault":
                    words = tuple(ast.literal_eval(word) for word in mark.args)
                    yield f"{path.relative_to(root).as_posix()}::{node.name}", words
