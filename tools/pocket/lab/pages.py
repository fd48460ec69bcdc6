"""The laboratory's pages, as a function of the numbers in docs/data and of nothing else.

A measuring command writes `data/NAME.json` and then has its page rendered from that file;
`tools/make_docs.py` renders all of them again, and compares.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from higfa_cli.artifacts.atomic import write_text
from tools.pocket.lab import text
from tools.pocket.lab.thresholds import CONTENT, blame, met, verdicts

TEMPLATES = Path(__file__).parent / "templates"
PAGES = ("bars", "ablation", "instruments", "checkpoints", "laboratory", "measurements")
#: Axes whose strips of pictures the page of the ablation shows.
SHOWN = ("conditions", "text-scale", "grad-norm")


def read(docs: Path) -> dict[str, Any]:
    """All of docs/data: name of a file without its ending -> what it holds."""
    files = sorted((docs / "data").glob("*.json"))
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in files}


def render(name: str, data: Mapping[str, Any]) -> str:
    """One page. Raises jinja2.UndefinedError where the data lack a figure that it shows."""
    env = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters = (text.percent, text.points, text.share, text.fixed, text.written, negated, valued)
    env.filters.update({function.__name__: function for function in filters})
    env.globals.update(
        verdicts=verdicts, met=met, blame=blame, content=CONTENT, summary=summary, shown=SHOWN
    )
    return env.get_template(f"{name}.md.j2").render(data)


def publish(docs: Path, name: str, numbers: Mapping[str, Any]) -> str:
    """Write `data/NAME.json`, in the order of its keys, and the page made of it; returns that."""
    write_text(docs / "data" / f"{name}.json", json.dumps(numbers, indent=1) + "\n")
    page = render(name, read(docs))
    write_text(docs / f"{name}.md", page)
    return page


def negated(figure: Sequence[float]) -> list[float]:
    """The difference the other way round, with its interval."""
    value, low, high = figure
    return [-value, -high, -low]


def valued(rows: Sequence[Mapping[str, Any]], value: str) -> Mapping[str, Any]:
    """The row of an axis that has this value. Raises KeyError."""
    for row in rows:
        if row["value"] == value:
            return row
    raise KeyError(value)


def summary(axis: Mapping[str, Any]) -> dict[str, Any]:
    """An axis in one line: the best and the worst of the other values, against the recipe.

    `better`, `worse`: how many of them lie beyond their 95 % intervals.
    """
    others = [row for row in axis["rows"] if not row["is_recipe"]]
    ordered = sorted(others, key=lambda row: row["against_recipe"][0])
    return {
        "recipe": next(row["value"] for row in axis["rows"] if row["is_recipe"]),
        "best": ordered[-1],
        "worst": ordered[0],
        "count": len(others),
        "better": sum(row["against_recipe"][1] > 0 for row in others),
        "worse": sum(row["against_recipe"][2] < 0 for row in others),
    }
