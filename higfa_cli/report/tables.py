"""Tables, and how their cells are made safe for Markdown, LaTeX and CSV.

Class and arm names are whatever a user's folders are called, so every writer escapes; the HTML
template escapes by itself.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from higfa_cli.artifacts.results import ArmRun
from higfa_cli.recipe.arms import REAL
from higfa_cli.report.stats import Answer, Difference, class_accuracy, mean_std
from higfa_cli.text import inert

NONE = "–"


@dataclass(frozen=True)
class Table:
    """Plain text cells under titles; `caption` says what they are and in which unit.

    All columns hold numbers, but the first where it is `named`.
    """

    caption: str
    titles: Sequence[str]
    rows: Sequence[Sequence[str]]
    named: bool = True

    @property
    def numeric(self) -> list[bool]:
        """By column."""
        return [index > 0 or not self.named for index in range(len(self.titles))]


@dataclass(frozen=True)
class Arm:
    """One arm's results over its seeds; accuracies are fractions, None where not measured."""

    name: str
    synthetic_images: int
    runs: tuple[ArmRun, ...]
    difference: Difference | None

    def spread(self, key: str) -> tuple[float, float | None] | None:
        """Mean and std over seeds of a run's value, None where any run lacks it."""
        values = [getattr(run, key) for run in self.runs]
        if not values or any(v is None for v in values):
            return None
        return mean_std([float(v) for v in values if v is not None])


def number(value: float | None, digits: int = 1, sign: bool = False) -> str:
    """Fixed-point text with a real minus sign; a dash for None; never a negative zero."""
    if value is None:
        return NONE
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = f"{0.0:.{digits}f}"
    elif sign and value > 0:
        text = f"+{text}"
    return text.replace("-", "−")


def significant(value: float | None, digits: int = 3) -> str:
    """Text with so many significant digits, for quantities of unknown magnitude."""
    if value is None:
        return NONE
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.{digits - 1}e}".replace("-", "−")
    return f"{value:.{digits}g}".replace("-", "−")


def spread_text(spread: tuple[float, float | None] | None) -> str:
    """`61.3 ± 1.2`, percent; without the spread for a single seed."""
    if spread is None:
        return NONE
    return " ± ".join(number(100 * value) for value in spread if value is not None)


def interval_text(difference: Difference | None) -> str:
    if difference is None:
        return NONE
    low, high = number(difference.low), number(difference.high)
    return f"{number(difference.points, sign=True)} [{low}, {high}]"


def arms_table(arms: Sequence[Arm], test: bool) -> Table:
    """The table of arms; without a test split it shows validation accuracy instead."""
    split, key = ("Test", "test_accuracy") if test else ("Validation", "val_accuracy")
    calibrated = test and all(run.test_ece for arm in arms for run in arm.runs)
    tested = ["Macro F1, %", f"Difference from {REAL}, points [95 %]"] if test else []
    tested += ["Calibration error, points [95 %]"] if calibrated else []
    titles = ["Arm", "Synthetic images", f"{split} accuracy, %", *tested, "Seconds per training"]
    rows = []
    for arm in arms:
        seconds = arm.spread("seconds")
        row = [arm.name, f"{arm.synthetic_images:,}", spread_text(arm.spread(key))]
        if test:
            row += [spread_text(arm.spread("test_macro_f1")), interval_text(arm.difference)]
        if calibrated:
            columns = zip(*(run.test_ece or () for run in arm.runs), strict=True)
            ece, low, high = (number(100 * mean_std(column)[0]) for column in columns)
            row.append(f"{ece} [{low}, {high}]")
        rows.append((*row, significant(seconds and seconds[0])))
    single = any(len(arm.runs) == 1 for arm in arms)
    alone = " (no spread with a single seed)" if single else ""
    return Table(f"Mean ± standard deviation over training seeds{alone}.", titles, rows)


def class_table(
    reference: Mapping[int, Sequence[Answer]],
    other: Mapping[int, Sequence[Answer]],
    name: str,
) -> Table:
    """Accuracy by class of the two arms, largest loss first."""
    before, after = class_accuracy(reference), class_accuracy(other)
    gains = sorted((after[cls][0] - before[cls][0], cls) for cls in before)
    rows = [
        (cls, str(photos), number(accuracy), number(accuracy + gain), number(gain, sign=True))
        for gain, cls in gains
        for accuracy, photos in (before[cls],)
    ]
    titles = ("Class", "Test photos", f"{REAL}, %", f"{name}, %", "Difference, points")
    return Table("Test accuracy by class, mean over seeds, largest loss first.", titles, rows)


class Verbatim(str):
    """Markdown that is already written; the template engine does not escape it again."""


def markdown_escape(text: str) -> str:
    """Text that no Markdown renderer reads as markup, on one line, safe in a table cell."""
    line = inert(" ".join(str(text).split()))
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*_\[\]|~#$])", r"\\\1", line)
    # A list item at the start of a line; addresses, which some renderers make links of.
    line = re.sub(r"^(\d*)([-+.)])(?= |$)", r"\1\\\2", line)
    return re.sub(r"(?i):(?=//)|(?<=\bwww)\.", lambda match: f"&#{ord(match[0])};", line)


def markdown_code(text: str) -> Verbatim:
    """An inline code span, with a fence longer than any run of backticks inside."""
    line = inert(" ".join(text.split()))
    fence = "`" * (max((len(run) for run in re.findall(r"`+", line)), default=0) + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return Verbatim(f"{fence}{pad}{line}{pad}{fence}")


def markdown_table(table: Table) -> Verbatim:
    head, *body = ([markdown_escape(cell) for cell in row] for row in (table.titles, *table.rows))
    rule = ["---:" if numeric else ":---" for numeric in table.numeric]
    lines = [f"| {' | '.join(cells)} |" for cells in (head, rule, *body)]
    return Verbatim("\n".join([*lines, "", f"*{markdown_escape(table.caption)}*"]))


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "–": "--",
    # A cell that starts with a bracket would be read as the optional argument of the `\\` before.
    "[": "{[}",
    "]": "{]}",
}


def latex_escape(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in inert(" ".join(str(text).split())))


def latex_table(table: Table) -> str:
    """A `tabular` for the booktabs package."""
    spec = "".join("r" if numeric else "l" for numeric in table.numeric)
    head, *body = (
        " & ".join(map(latex_escape, row)) + r" \\" for row in (table.titles, *table.rows)
    )
    lines = [f"% {latex_escape(table.caption)} Needs \\usepackage{{booktabs}}."]
    lines += [f"\\begin{{tabular}}{{{spec}}}", r"\toprule", head, r"\midrule", *body]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


# Quotes before it count, so that a text which has one already can be told from a cell.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")


def csv_cell(value: Any) -> Any:
    """A text cell that no spreadsheet runs as a formula; numbers stay numbers, None is empty."""
    if isinstance(value, str) and _FORMULA.match(value):
        return "'" + value
    return "" if value is None else value


def csv_text(cell: str) -> str:
    """The text of which `csv_cell` made this cell."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def as_csv(rows: Iterable[Sequence[object]]) -> str:
    """CSV of rows whose first is the header; every cell as `csv_cell`."""
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerows([csv_cell(v) for v in row] for row in rows)
    return out.getvalue()


def arms_csv(arms: Sequence[Arm]) -> str:
    """One row per arm, full precision; accuracies as fractions, differences in points."""
    rows = []
    for arm in arms:
        row: dict[str, object] = {"arm": arm.name, "synthetic_images": arm.synthetic_images}
        row["seeds"] = " ".join(str(run.seed) for run in arm.runs)
        for key in ("test_accuracy", "test_macro_f1", "val_accuracy", "seconds"):
            row[f"{key}_mean"], row[f"{key}_std"] = arm.spread(key) or (None, None)
        d = arm.difference
        names = ("difference_points", "difference_low", "difference_high", "paired_seeds")
        values = (d.points, d.low, d.high, len(d.seeds), d.images, d.verdict) if d else (None,) * 6
        row |= zip((*names, "paired_test_images", "verdict"), values, strict=True)
        rows.append(row)
    return as_csv([list(rows[0]), *(list(row.values()) for row in rows)])
