"""Class names from strangers: kept as they are, reversible on disk, inert where they are shown."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
import unicodedata
from html.parser import HTMLParser
from pathlib import Path

import pytest

from higfa_cli.artifacts.atomic import read_jsonl
from higfa_cli.artifacts.class_folders import class_dir, class_dirs, class_name
from higfa_cli.cli.output import (
    TerminalProgress,
    print_json,
    print_line,
    print_mapping,
    print_table,
)
from higfa_cli.data.dataset import load_dataset
from higfa_cli.data.prompts import prompts_for
from higfa_cli.errors import UserError
from higfa_cli.models.backbones import build_network
from higfa_cli.models.classifier import ClassifierSpec, save_classifier
from higfa_cli.recipe.data import Data, Prompts
from higfa_cli.report.tables import csv_cell, csv_text, latex_escape, markdown_escape
from higfa_cli.stages import report
from higfa_cli.text import inert
from higfa_cli.training.synthetic import list_synthetic
from tests.support import report_project
from tests.support.hostile import BACKBONE, assert_inert, higfa, photo
from tests.support.recipes import write_recipe
from tests.support.tiny import make_model

NAMES = {
    "slash": "F/A-18",
    "absolute": "/etc/passwd",
    "parent": "..",
    "parents": "../../../up",
    "dot": ".",
    "backslash": "a\\b",
    "drive": "C:\\x",
    "leading-dash": "-rf",
    "leading-dot": ".hidden",
    "leading-tilde": "~root",
    "leading-space": " x",
    "trailing-space": "x ",
    "trailing-dot": "x.",
    "only-spaces": "   ",
    "device": "CON",
    "device-with-suffix": "nul.txt",
    "device-console": "CONOUT$",
    "300-bytes": "long " * 60,
    "300-other-bytes": "long " * 59 + "wide ",
    "100-letters-of-3-bytes": "漢" * 100,
    "composed": "caf\u00e9",
    "decomposed": "cafe\u0301",
    "upper": "A320",
    "lower": "a320",
    "sharp-s": "stra\u00dfe",
    "double-s": "STRASSE",
    "dotless-i": "\u0131x",
    "emoji": "\U0001f6e9\ufe0f",
    "emoji-joined": "\U0001f469\u200d\u2708\ufe0f",
    "right-to-left-override": "gpj.\u202eexe",
    "isolate": "\u2067x",
    "zero-width": "a\u200bb",
    "byte-order-mark": "\ufeffx",
    "script": "<script>alert(1)</script>",
    "onerror": "<img src=x onerror=alert(1)>",
    "attribute": '" onmouseover="alert(1)',
    "style-end": "</style><style>*{display:none}",
    "comment": "--><!--",
    "entity": "&lt;b&gt;&#60;",
    "jinja": "{{ 7 * 7 }}{% raw %}",
    "format": "{x}",
    "placeholder": "{words}",
    "attribute-format": "{0.__class__.__mro__}",
    "percent-s": "%s%n%(x)s",
    "percent-encoded": "%25",
    "percent-letter": "%41320",
    "cut-mark": "x%~0123",
    "rich": "[red]x[/red]",
    "rich-link": "[link=http://evil.example]x[/link]",
    "rich-emoji": ":pile_of_poo:",
    "ansi": "\x1b[31mred\x1b[0m",
    "ansi-title": "\x1b]0;owned\x07",
    "ansi-clear": "\x1b[2J\x1bc",
    "c1": "\x9b31mred",
    "carriage-return": "safe\rerror: none",
    "newline": "a\nerror: all is well",
    "line-separator": "a\u2028b\u2029c\x85d",
    "nul": "a\x00b",
    "delete": "a\x7fb",
    "formula": "=cmd()|'/C calc'!A0",
    "formula-plus": "+1+1",
    "formula-at": "@SUM(A1)",
    "formula-quoted": "'=1+1",
    "quotes": "'\"`",
    "shell": "$(touch x); `id` && rm -rf ~",
    "comma": "a,b;c\td",
    "yaml-no": "no",
    "yaml-number": "1e3",
    "yaml-null": "~",
    "yaml-mapping": "a: {b: c}",
    "json": '{"a": [1, null]}',
    "markdown-image": "![x](http://evil.example/p.png)",
    "markdown-link": "[x](javascript:alert(1))",
    "markdown-heading": "# x",
    "markdown-list": "- x",
    "markdown-number": "1. x",
    "markdown-code": "```x",
    "address": "http://evil.example/ www.evil.example",
    "latex": "\\input{/etc/passwd}$x$^^M%",
    "table": "a|b||c",
}
ALL = tuple(NAMES.values())
each = pytest.mark.parametrize("name", ALL, ids=list(NAMES))


# --- folders ----------------------------------------------------------------------------------


@pytest.mark.fault(
    "hostile",
    "class names: slashes, dots, markup, format strings, case, Unicode forms",
    "reversible folder names, no collision, original kept",
)
@each
def test_folder_names_are_safe_and_reversible(tmp_path: Path, name: str) -> None:
    folder = class_dir(name)
    assert folder.isascii() and folder.isprintable() and len(folder) <= 240
    assert not set(folder) & set('/\\:*?"<>|')
    assert folder[0] not in ".-~ " and folder[-1] not in ". "
    assert class_name(folder) == (folder if "%~" in folder else name)
    (tmp_path / folder).mkdir()
    assert [p.name for p in tmp_path.iterdir()] == [folder]
    assert (tmp_path / folder).resolve().parent == tmp_path.resolve()


@pytest.mark.fault(
    "hostile",
    "class names: slashes, dots, markup, format strings, case, Unicode forms",
)
def test_no_two_classes_share_a_folder_on_any_file_system() -> None:
    folders = class_dirs(ALL)
    assert set(folders) == set(ALL)
    for fold in (str.lower, str.upper, str.casefold):
        for form in ("NFC", "NFD", "NFKC"):
            seen = {unicodedata.normalize(form, fold(folder)) for folder in folders.values()}  # type: ignore[arg-type]
            assert len(seen) == len(ALL)
    assert folders["A320"] == "%41320" and folders["a320"] == "a320"
    assert class_dirs(["A320", "disc"]) == {"A320": "A320", "disc": "disc"}


def test_pictures_of_every_class_are_found_again(tmp_path: Path) -> None:
    names = sorted(ALL)
    for name, folder in class_dirs(names).items():
        photo(tmp_path / folder / f"{names.index(name)}.png")
    found = list_synthetic(tmp_path, names)
    assert found.missing == ()
    assert [int(path.stem) for path in found.paths] == list(found.labels)


def test_two_folders_of_one_name_are_not_merged(tmp_path: Path) -> None:
    for name in ("caf\u00e9", "cafe\u0301"):
        photo(tmp_path / "data" / "train" / name / "0.png")
    with pytest.raises(UserError, match=r"caf\\xe9.*cafe\\u0301|cafe\\u0301.*caf\\xe9"):
        load_dataset(Data(root="data"), tmp_path, 0)


# --- text -------------------------------------------------------------------------------------


@pytest.mark.fault("hostile", "such class names in report, terminal and tables")
@each
def test_shown_text_is_inert(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_line(f"class {name}")
    print_mapping({"class": name, name: [name], "rows": [{"class": name}]})
    print_table([{"class": name, "count": 1}])
    TerminalProgress().note(f"warning: class {name}")
    print_json({"class": name})
    out, err = capsys.readouterr()
    assert_inert(out.encode())
    assert_inert(err.encode())
    assert len(out.splitlines()) == 1 + 5 + 2 + 3
    assert json.loads(out[out.index("{\n") :]) == {"class": name}
    if name.isprintable():
        # Nothing is lost either: no markup, no emoji codes.
        assert inert(name) == name and f"class {name}" in out


@pytest.mark.fault("hostile", "such class names in report, terminal and tables")
@each
def test_cells_of_every_format(name: str) -> None:
    cell = csv_cell(name)
    assert not re.match(r"[=+\-@\t\r]", cell)
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerow([cell])
    ((read,),) = csv.reader(io.StringIO(buffer.getvalue(), newline=""))
    assert csv_text(read) == name
    markdown = re.sub(r"&(amp|lt|gt|#\d+);", "", markdown_escape(name))
    assert "\n" not in markdown and not re.search(r"(?<!\\)[|`*_\[\]<>#]", markdown)
    assert "://" not in markdown and not re.match(r"[-+] |\d+[.)] ", markdown)
    # Every command in it is one of ours.
    latex = re.sub(r"\\text[a-z]+\{\}|\\[{}$&#%_]|\$\\pm\$|\{\[\}|\{\]\}", "", latex_escape(name))
    assert not set(latex) & set("\\{}$&#%_^~")
    assert_inert(markdown.encode())
    assert_inert(latex_escape(name).encode())


@each
def test_prompts_take_the_words_as_they_are(name: str) -> None:
    prompts = prompts_for(Prompts(templates=("a {words}, 100 %s",)), {name: name}, Path())
    assert prompts[name] == (f"a {name}, 100 %s",)


class Tags(HTMLParser):
    """Every element with its attribute names, and the values that lead or run somewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: set[tuple[str, tuple[str, ...]]] = set()
        self.led: set[str] = set()
        self.policy = ""
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add((tag, tuple(key for key, _ in attrs)))
        self.led |= {str(v).partition(":")[0] for k, v in attrs if k in ("href", "src", "style")}
        if dict(attrs).get("http-equiv") == "Content-Security-Policy":
            self.policy = str(dict(attrs)["content"])

    def handle_data(self, data: str) -> None:
        self.text += data


def page(root: Path, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setattr(report_project, "CLASSES", names)
    ctx = report_project.workspace(root, report_project.BETTER)
    record = json.loads((root / "train-downstream/run.json").read_text())
    record["argv"] = ["higfa", "run", *names[:10]]
    record["libraries"] = {"torch": names[-1]}
    report_project.dump(root / "train-downstream/run.json", record)
    report.run(ctx)
    made = (root / "report").iterdir()
    return {path.name: path.read_text("utf-8") for path in made if path.suffix != ".json"}


@pytest.mark.fault("hostile", "such class names in report, terminal and tables", "inert")
@pytest.mark.parametrize("start", range(0, len(ALL), 20))
def test_the_report_is_inert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: int) -> None:
    names = ALL[start : start + 20]
    clean = Tags(page(tmp_path / "clean", ("a", "b", "c", "d"), monkeypatch)["report.html"])
    files = page(tmp_path / "hostile", names, monkeypatch)
    found = Tags(files["report.html"])
    assert found.found == clean.found
    assert found.led == clean.led == {"data"}
    assert found.policy == clean.policy != ""
    for text in files.values():
        assert_inert(text.replace("\t", "").encode())
    for name in names[:4]:
        assert inert(name).split() == [] or inert(name) in found.text
    for row in csv.reader(io.StringIO(files["results.csv"])):
        assert not [cell for cell in row if re.match(r"[=+@\t\r]", cell)]


# --- commands ---------------------------------------------------------------------------------

MODEL_NAMES = tuple(sorted(set(ALL) - {NAMES["decomposed"]}))


def test_predictions_are_printed_inert(tmp_path: Path) -> None:
    spec = ClassifierSpec(BACKBONE, MODEL_NAMES, 32, (0.5,) * 3, (0.5,) * 3)
    save_classifier(tmp_path / "m.safetensors", build_network(BACKBONE, len(MODEL_NAMES), 32), spec)
    picture = photo(tmp_path / "\x1b[31mred.png")
    for flags in ([], ["--json"]):
        code, printed = higfa(
            "predict", "--model", tmp_path / "m.safetensors", picture, "--top", "100", *flags
        )
        assert code == 0
        assert_inert(printed)


WHOLE = (
    NAMES["script"],
    NAMES["formula"],
    NAMES["ansi"],
    NAMES["parents"],
    "{words} %s {x} [red]",
    "A320",
    "a320",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """All stages over classes of such names, from a split file; and what was printed."""
    root = tmp_path_factory.mktemp("whole")
    with (root / "split.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "class", "split"])
        for index, name in enumerate(WHOLE):
            for number, split in enumerate(("train", "train", "val", "test")):
                path = photo(root / "photos" / f"{index}-{number}.png", 4 * index + number)
                writer.writerow([path.name, name, split])
    training = {"epochs": 1, "batch_size": 8}
    write_recipe(
        root / "whole.yaml",
        make_model(root / "model"),
        name="[red]<b>whole",
        data={"split_file": "split.csv"},
        guide=training | {"noised_per_image": 1},
        guidance={"classifier": {"switch": 0.5}},
        sampling={"steps": 2},
        pictures={"gallery": 7},
        run={"batch_size": 14},
        filter={"constant": 0.0},
        downstream=training | {"seeds": [0]},
    )
    outside = {path for path in root.rglob("*") if path.is_file()}
    flags = [root / "whole.yaml", "--workspace", root / "out"]
    # As a program of its own: its libraries are then silent too.
    command = [sys.executable, "-m", "higfa_cli", "run", *flags]
    done = subprocess.run(command, capture_output=True, check=False)
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed
    for command in (["status"], ["doctor"], ["contours", "--dry-run"], ["status", "--json"]):
        printed += higfa(*command, *flags)[1]
    now = {path for path in root.rglob("*") if path.is_file() and root / "out" not in path.parents}
    assert now == outside, "nothing may be written outside the workspace"
    return root / "out", printed


@pytest.mark.fault(
    "hostile",
    "class names: slashes, dots, markup, format strings, case, Unicode forms",
)
def test_the_whole_pipeline_keeps_the_names(run: tuple[Path, bytes]) -> None:
    workspace, printed = run
    assert_inert(printed)
    rows = read_jsonl(workspace / "synthesize/higfa/images/metadata.jsonl")
    assert {row["class"] for row in rows} == set(WHOLE)
    folders = class_dirs(WHOLE)
    assert {row["file_name"].split("/")[0] for row in rows} == set(folders.values())
    for row in rows:
        assert (workspace / "synthesize/higfa/images" / row["file_name"]).is_file()
        assert row["prompt"].startswith("a photo of a ")
    assert any("{words} %s {x} [red]" in row["prompt"] for row in rows)
    assert {p.name for p in (workspace / "contours/images").iterdir()} == set(folders.values())


def test_the_whole_pipeline_s_files_are_inert(run: tuple[Path, bytes]) -> None:
    workspace, _ = run
    path = next((workspace / "train-downstream").rglob("predictions.csv"))
    with path.open(newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if re.match(r"[=+\-@\t\r]", cell)]
    assert NAMES["formula"] in map(csv_text, cells)
    found = Tags((workspace / "report/report.html").read_text("utf-8"))
    assert not {tag for tag, _ in found.found} & {"script", "b", "iframe", "object", "form"}
    assert found.led == {"data"} and "default-src 'none'" in found.policy
    assert not [key for _, keys in found.found for key in keys if key.startswith("on")]
    assert NAMES["script"] in found.text
