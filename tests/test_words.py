"""What messages say: no name of the program's inside, and remedies that exist."""

from __future__ import annotations

import ast
import errno
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from higfa_cli.cli.app import app
from higfa_cli.cli.guard import _described
from higfa_cli.errors import RecipeError
from higfa_cli.forecast.doctor import failed
from higfa_cli.recipe.keys import recipe_keys
from higfa_cli.recipe.load import load_recipe, override_recipe
from higfa_cli.recipe.schema import Recipe

#: Words of pydantic, Python and JSON that nobody writes in a recipe.
INSIDE = re.compile(
    r"constrained|function-|literal\[|tuple|dictionary|instance of|dataclass|pydantic|valid array|"
    r"an object|after validation|pattern|\b[A-Z]\w*Error\b"
)
PACKAGE = Path(__file__).parent.parent / "higfa_cli"
COMMANDS = typer.main.get_group(app).commands  # type: ignore[attr-defined]
SECTIONS = sorted({key.partition(".")[0] for key in recipe_keys() if "." in key} | {"memory"})
FILES = (".safetensors", ".json", ".jsonl", ".yaml", ".py", ".csv", ".png", ".html")
#: Modules whose messages are seen in some commands only.
ONLY_IN = {
    "cli/app.py": (),
    "cli/init.py": ("init",),
    "cli/options.py": (),
    "cli/predict.py": ("predict",),
    "cli/recipes.py": (),
    "cli/stage.py": (),
    "data/layouts/imagefolder.py": ("init",),
    "data/layouts/labels.py": ("init",),
    "init/photos.py": ("init",),
    "data/rejected.py": ("contours",),
    "recipe/data.py": ("contours",),
    "recipe/drawing.py": ("synthesize",),
    "forecast/capacity.py": ("synthesize",),
    "init/project.py": ("init",),
    "stages/arms.py": ("train-downstream",),
    "stages/context.py": ("synthesize", "filter"),
    "stages/engines.py": ("synthesize",),
    "stages/pipeline.py": ("run",),
    "stages/preview.py": ("synthesize",),
    "training/synthetic.py": ("train-downstream",),
}
#: Flags of pip and of the hub's own command.
OF_OTHERS = ("--force-reinstall", "--revision", "--include")
COMMAND = re.compile(r"`higfa ([a-z][a-z-]*)((?: (?:(?:\{\})+|RECIPE|--?[\w-]+|real))*)`")
KEY = re.compile(rf"(?<![\w./{{-])((?:{'|'.join(SECTIONS)})\.[a-z_.]*[a-z_])")
ODD = (1.0, "x", [], {"a": 1})


@pytest.mark.fault(
    "words",
    "a recipe's key holds a value of another kind",
    "one line with the key as it is written and what it takes; no validator's name",
)
def test_no_validator_is_named_whatever_a_key_holds() -> None:
    recipe = load_recipe("pocket").recipe
    refused = 0
    for key in recipe_keys():
        for value in ODD:
            try:
                override_recipe(recipe, {key: value})
            except RecipeError as error:
                refused += 1
                message = re.sub(r"\(got .*", "", str(error))
                assert not INSIDE.search(message), message
                for name in re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)", message):
                    shown = name in recipe_keys() or name.startswith("arms.")
                    assert shown or "unknown key" in message, message
    assert refused > 200


@pytest.mark.parametrize(
    ("key", "value", "takes"),
    [
        ("data.max_bad", "1.0", "a whole number or a percentage such as 10% (got 1.0)"),
        ("data.max_bad", "ten", 'a whole number or a percentage such as 10% (got "ten")'),
        ("run.batch_size", "1.5", "a whole number or 'auto' (got 1.5)"),
        ("contours.transforms.scale", "[1]", "the list is too short; write all its values"),
    ],
)
def test_a_key_of_two_kinds_names_both(key: str, value: str, takes: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("pocket", [f"{key}={value}"])
    assert str(caught.value).endswith(takes), str(caught.value)
    assert f"`{key}`" in str(caught.value)


@pytest.mark.fault(
    "words",
    "higfa itself is at fault",
    "one line that says so, with the version; no class of the program is named",
)
@pytest.mark.parametrize(
    "error", [KeyError("x"), RuntimeError("Given groups=1"), AssertionError(), MemoryError()]
)
def test_a_fault_of_higfa_says_so(error: Exception) -> None:
    message = _described(error)
    assert not INSIDE.search(message) and "\n" not in message
    assert "a fault of higfa 0." in message or "memory is full" in message
    row = failed("memory", error)
    assert "a fault of higfa" in row.detail and not INSIDE.search(row.detail)


def messages() -> Iterator[tuple[Path, str]]:
    """Every text of the program that is a sentence, with {} for what is filled in."""
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inside = {id(v) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for v in n.values}
        inside |= {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
        for node in ast.walk(tree):
            if id(node) in inside:
                continue
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            texts = [
                part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else ""
                for part in parts
            ]
            if " " in (text := "{}".join(texts)):
                yield path.relative_to(PACKAGE), text


def described(schema: object) -> Iterator[str]:
    """The descriptions of a recipe's keys: a table and an editor show them, no message does."""
    if isinstance(schema, dict):
        yield from (text for key, text in schema.items() if key == "description")
    children = schema.values() if isinstance(schema, dict) else schema
    for child in children if isinstance(schema, dict | list) else ():
        yield from described(child)


@pytest.mark.fault(
    "words", "a message", "two lines at most, of a hundred columns, without the names in it"
)
def test_no_message_is_longer_than_two_lines() -> None:
    keys = {" ".join(text.split()) for text in described(Recipe.model_json_schema())}
    texts = [(module, text) for module, text in messages() if " ".join(text.split()) not in keys]
    assert len(texts) > 500
    for module, text in texts:
        assert len(text) <= 200, (module, text)


def flags_of(command: str) -> set[str]:
    params = COMMANDS[command].params
    return {flag for param in params for flag in (*param.opts, *param.secondary_opts)}


def commands_of(module: Path) -> list[str]:
    """The commands in which a module's messages can be seen: of a general one, every stage."""
    if module.as_posix() in ONLY_IN:
        return list(ONLY_IN[module.as_posix()])
    name = module.stem.replace("_", "-")
    return [name] if name in COMMANDS else ["contours", "synthesize", "train-downstream", "run"]


@pytest.mark.fault(
    "words",
    "a remedy names a flag, a command or a key",
    "it exists: the flag on every command that can print the message, the key in the recipe",
)
def test_every_remedy_exists() -> None:
    seen, wrong = 0, []
    for module, text in messages():
        rest = text
        for said in COMMAND.finditer(text):
            command, words = said.groups()
            flags = flags_of(command) if command in COMMANDS else set()
            if command not in COMMANDS or not set(re.findall(r"--[a-z-]+", words)) <= flags:
                wrong.append((module, said[0]))
            rest, seen = rest.replace(said[0], ""), seen + 1
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+", rest):
            needy = [name for name in commands_of(module) if flag not in flags_of(name)]
            if needy and flag not in OF_OTHERS:
                wrong.append((module, flag, *needy))
            seen += 1
        for key in KEY.findall(rest):
            if key not in recipe_keys() and not key.endswith(FILES):
                wrong.append((module, key))
            seen += 1
    assert not wrong
    assert seen > 150


@pytest.mark.fault(
    "words",
    "`init` cannot write its recipe",
    "the remedy names --out, the flag that it has",
)
@pytest.mark.parametrize(
    ("command", "flag"), [("init", "--out"), ("export", "--out"), ("contours", "--workspace")]
)
def test_where_to_write_is_named_by_the_commands_own_flag(
    monkeypatch: pytest.MonkeyPatch, command: str, flag: str
) -> None:
    def refuse(self: object, ctx: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", "recipe.classes.yaml")

    monkeypatch.setattr(type(COMMANDS[command]), "invoke", refuse)
    needed = {"init": ["--root", "."], "export": ["pocket", "--out", "x", "--format", "onnx"]}
    said = CliRunner().invoke(app, [command, *needed.get(command, ["pocket"])])
    assert said.stderr == (
        "error: recipe.classes.yaml: Read-only file system; change its permissions, or choose "
        f"another {flag}\n"
    )
    assert flag in flags_of(command)
