"""Recipes, word files, banks and split files from strangers: read, or refused in one line."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from higfa_cli.data.dataset import load_dataset
from higfa_cli.data.prompts import load_words, templates_for
from higfa_cli.errors import RecipeError, UserError
from higfa_cli.models.device import resolve_device
from higfa_cli.recipe.data import Data, Prompts
from higfa_cli.recipe.load import load_recipe
from tests.support.hostile import Canary, assert_inert, higfa, photo

MINIMAL = "name: mine\ndata: {root: photos}\nmodel: {base: m, controlnet: c}\n"
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join(['*' + before] * 9)}]}}\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)

# text or bytes of a recipe -> what the refusal must say
REFUSED: dict[str, tuple[str | bytes, str]] = {
    "python-apply": ("name: !!python/object/apply:os.system ['touch CANARY']", "is refused"),
    "python-new": ("name: !!python/object/new:pathlib.Path ['CANARY']", "is refused"),
    "python-name": ("name: !!python/name:os.system", "is refused"),
    "python-module": ("name: !!python/module:os", "is refused"),
    "python-tuple": ("name: !!python/tuple [1]", "is refused"),
    "own-tag": ("name: !evil x", "could not determine|is refused"),
    "tag-directive": ("%TAG ! tag:yaml.org,2002:python/\n---\nname: !object:a.B {}", "is refused"),
    "binary-tag": ("name: !!binary aGk=", "is refused"),
    "timestamp-tag": ("name: !!timestamp 2024-01-02", "is refused"),
    "set-tag": ("name: !!set {a}", "is refused"),
    "billion-laughs": (LAUGHS, "are refused; write the values out"),
    "billion-merges": (MERGES, "are refused; write the values out"),
    "alias-of-itself": ("name: &a [*a]", "are refused; write the values out"),
    "mapping-of-itself": ("name: &a {b: *a}", "are refused; write the values out"),
    "unknown-alias": ("name: *nowhere", "are refused; write the values out"),
    "anchor-alone": (MINIMAL + "guide: &g {epochs: 3}", "are refused; write the values out"),
    "alias": (MINIMAL + "guide: &g {epochs: 3}\ndownstream: *g", "line 4: anchors (&g)"),
    "merge-key": (MINIMAL + "guide: {<<: {epochs: 3}}", "unknown key `guide.<<`"),
    "nested-lists": ("name: " + "[" * 5000, "nested too deeply"),
    "nested-mappings": ("name: " + "{a: " * 5000, "nested too deeply"),
    "nested-blocks": ("".join(" " * i + "a:\n" for i in range(600)), "nested too deeply|unknown"),
    "nested-below-the-limit": (MINIMAL + "guide: " + "[" * 150 + "]" * 150, "guide"),
    "repeated-key": (MINIMAL + "name: other", "appears twice"),
    "repeated-key-quoted": (MINIMAL + '"name": other', "appears twice"),
    "key-not-text": (MINIMAL + "1: 2", "is not a text"),
    "key-a-list": (MINIMAL + "? [a]\n: 2", "key|hashable"),
    "no-is-a-word": (MINIMAL + "guide: {pretrained: no}", "guide.pretrained"),
    "octal": (MINIMAL + "seed: 0o17", "`seed`"),
    "underscore": (MINIMAL + "seed: 1_000", "`seed`"),
    "hexadecimal": (MINIMAL + "seed: 0x10", "`seed`"),
    "sexagesimal": (MINIMAL + "seed: 12:30", "`seed`"),
    "date": (MINIMAL + "seed: 2024-01-02", "`seed`"),
    "number-as-name": (MINIMAL.replace("mine", "737"), "put it in quotes"),
    "nan": (MINIMAL + "guide: {learning_rate: .nan}", "guide.learning_rate"),
    "infinity": (MINIMAL + "guide: {learning_rate: .inf}", "guide.learning_rate"),
    "overflow": (MINIMAL + "guide: {learning_rate: 1e999}", "guide.learning_rate"),
    "five-thousand-digits": (MINIMAL + "seed: " + "9" * 5000, "digits"),
    "ten-megabytes": (MINIMAL + "# " + "x" * 10_000_000, "bytes"),
    "many-characters": (MINIMAL + "# " + "x" * 300_000, "characters"),
    "binary": (bytes(range(256)), "not UTF-8"),
    "utf-16": (MINIMAL.encode("utf-16"), "not UTF-8"),
    "latin-1": ("name: caf\xe9".encode("latin-1"), "not UTF-8"),
    "nul": (MINIMAL.replace("mine", "mi\0ne"), "not valid YAML"),
    "nul-escaped": (MINIMAL.replace("photos", '"pho\\0tos"'), "control character"),
    "ansi": (MINIMAL.replace("mine", '"\\e[31mred"'), "control character"),
    "c1-control": (MINIMAL.replace("mine", '"\\x9b31mred"'), "control character"),
    "right-to-left-override": (MINIMAL.replace("mine", '"\\u202elmth"'), "control character"),
    "zero-width": (MINIMAL.replace("mine", '"a\\u200bb"'), "control character"),
    "half-a-pair": (MINIMAL.replace("mine", '"\\ud800"'), "control character"),
    "tabs": ("name: x\ndata:\n\troot: y\n", "line 3"),
    "empty": ("", "expected keys"),
    "comment-only": ("# nothing", "expected keys"),
    "list-at-the-top": ("[1, 2]", "expected keys"),
    "text-at-the-top": ("hello", "expected keys"),
    "null": ("~", "expected keys"),
    "two-documents": (MINIMAL + "---\n" + MINIMAL, "another document"),
    "unknown-key": (MINIMAL + "__class__: x", "unknown key"),
    "dunder-section": (MINIMAL + "guide: {__init__: {a: 1}}", "unknown key"),
    "size-huge": (MINIMAL + "size: 1000000000", "`size`"),
    "steps-huge": (MINIMAL + "sampling: {steps: 1000000000}", "sampling.steps"),
    "per-image-huge": (MINIMAL + "contours: {per_image: 1000000000}", "contours.per_image"),
    "per-contour-huge": (MINIMAL + "pictures: {per_contour: 1000000000}", "per_contour"),
    "image-size-huge": (MINIMAL + "guide: {image_size: 1000000000}", "guide.image_size"),
    "negative-steps": (MINIMAL + "sampling: {steps: -1}", "sampling.steps"),
    "negative-seed": (MINIMAL + "seed: -1", "`seed`"),
    "true-for-a-number": (MINIMAL + "sampling: {steps: true}", "sampling.steps"),
    "text-for-a-number": (MINIMAL + 'sampling: {steps: "20"}', "sampling.steps"),
    "list-for-a-text": (MINIMAL.replace("mine", "[a]"), "`name`"),
    "mapping-for-a-text": (MINIMAL.replace("mine", "{a: b}"), "`name`"),
    "text-for-a-section": (MINIMAL + "guide: x", "`guide`"),
    "format-string": (MINIMAL + "prompts: {templates: ['{0.x}']}", "{words}"),
}


@pytest.mark.fault("hostile", "recipes: tags, alias bombs, duplicate keys, depth, size", "refused")
@pytest.mark.parametrize("case", REFUSED)
def test_recipes_are_refused(tmp_path: Path, case: str) -> None:
    text, said = REFUSED[case]
    canary = Canary(tmp_path)
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    path = tmp_path / "recipe.yaml"
    path.write_bytes(data.replace(b"CANARY", str(canary.path).encode()))
    started = time.perf_counter()
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(path))
    assert time.perf_counter() - started < 20
    assert any(one in str(caught.value) for one in said.split("|")), caught.value
    assert not canary.dead
    code, printed = higfa("status", path, "--workspace", tmp_path / "out")
    assert (code, printed.count(b"\n")) == (2, 1)
    assert len(printed) < 1000
    assert_inert(printed)
    assert not (tmp_path / "out").exists()


READ = {
    "byte-order-mark": ("\ufeff" + MINIMAL, "name", "mine"),
    "scientific": (MINIMAL + "guide: {learning_rate: 1e-3}", "guide.learning_rate", 0.001),
    "no-as-a-name": (MINIMAL.replace("mine", "no"), "name", "no"),
    "environment": (MINIMAL.replace("photos", "$HOME/photos"), "data.root", "$HOME/photos"),
    "braces": (MINIMAL.replace("mine", "'{x} %s {0.__class__}'"), "name", "{x} %s {0.__class__}"),
    "markup": (MINIMAL.replace("mine", "'[red]<b>'"), "name", "[red]<b>"),
    "windows-lines": (MINIMAL.replace("\n", "\r\n"), "name", "mine"),
}


@pytest.mark.fault("hostile", "recipes: typing traps", "read as they stand")
@pytest.mark.parametrize("case", READ)
def test_recipes_are_read_as_they_stand(tmp_path: Path, case: str) -> None:
    text, key, value = READ[case]
    path = tmp_path / "recipe.yaml"
    path.write_bytes(text.encode("utf-8"))
    found = load_recipe(str(path)).recipe
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value


DEVICES = ("", "meta", "cpu:5000000000", "cuda:-1", "cuda:99999999999", "xla", "../x", "cpu\0")


@pytest.mark.parametrize("name", DEVICES)
def test_devices(name: str) -> None:
    with pytest.raises(UserError, match="device: "):
        resolve_device(name)


# --- class words, prompt banks, split files -----------------------------------------------------

WORDS: dict[str, tuple[str, str | bytes, str]] = {
    "python-apply": ("w.yaml", "!!python/object/apply:os.system ['touch CANARY']", "not a mapping"),
    "laughs": ("w.yaml", LAUGHS, "aliases .* are refused"),
    "nested": ("w.yaml", "a: " + "[" * 5000, "nested too deeply"),
    "nested-json": ("w.json", "[" * 100_000, "nested too deeply"),
    "repeated": ("w.yaml", "a: x\na: y\n", "appears twice"),
    "repeated-json": ("w.json", '{"a": "x", "a": "y"}', "appears twice"),
    "number-json": ("w.json", '{"a": 1e999}', "not a mapping"),
    "long-number-json": ("w.json", '{"a": ' + "9" * 5000 + "}", "is broken"),
    "key-a-list": ("w.yaml", "? [a]\n: b\n", "is not a text"),
    "list": ("w.yaml", "- a\n- b\n", "not a mapping"),
    "empty": ("w.yaml", "", "not a mapping"),
    "nul": ("w.yaml", "a: \0", "not valid YAML"),
    "binary": ("w.yaml", bytes(range(256)), "cannot be read"),
    "ten-megabytes": ("w.yaml", "a: " + "x" * 10_000_000, "bytes"),
}


@pytest.mark.fault("hostile", "class words, prompt banks, split files", "refused with the line")
@pytest.mark.parametrize("case", WORDS)
def test_class_words_and_prompt_banks(tmp_path: Path, case: str) -> None:
    name, text, said = WORDS[case]
    canary, path = Canary(tmp_path), tmp_path / name
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(data.replace(b"CANARY", str(canary.path).encode()))
    with pytest.raises(UserError, match=said) as caught:
        load_words(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError) as caught:
        templates_for(Prompts(bank=name), ("a",), tmp_path)
    assert "\n" not in str(caught.value)
    assert not canary.dead


def test_many_words_are_read_in_time(tmp_path: Path) -> None:
    """Looking for repetitions must not take the square of the number of classes."""
    (tmp_path / "w.yaml").write_text("".join(f"class {i}: words\n" for i in range(8000)))
    started = time.perf_counter()
    assert len(load_words(tmp_path / "w.yaml")) == 8000
    assert time.perf_counter() - started < 20


SPLITS: dict[str, tuple[str, str]] = {
    "empty": ("", "no column `path`"),
    "no-header": ("train/a/0.png,a,train\n", "no column `path`"),
    "binary": ("path,class,split\n\udc80\udc81", "cannot be read"),
    "huge-field": ("path,class,split\n" + "x" * 200_000 + ",a,train\n", "field larger"),
    "huge-header": ("x" * 200_000 + "\n", "field larger"),
    "unclosed-quote": ('path,class,split\n"train/a/0.png,a,train\n', "split"),
    "split-unknown": ("path,class,split\ntrain/a/0.png,a,TRAIN;rm -rf\n", "is not one of"),
    "no-class": ("path,class,split\ntrain/a/0.png,,train\n", "no class"),
    "twice": ("path,class,split\ntrain/a/0.png,a,train\n./train//a/0.png,a,test\n", "already in"),
    "a-folder": ("path,class,split\ntrain/a,a,train\n", "no image"),
    "short-line": ("path,class,split\ntrain/a/0.png\n", "is not one of"),
}


@pytest.mark.fault("hostile", "class words, prompt banks, split files")
@pytest.mark.parametrize("case", SPLITS)
def test_split_files(tmp_path: Path, case: str) -> None:
    text, said = SPLITS[case]
    photo(tmp_path / "data" / "train" / "a" / "0.png")
    (tmp_path / "s.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=said) as caught:
        load_dataset(Data(root="data", split_file="s.csv"), tmp_path, 0)
    assert "\n" not in str(caught.value) and "s.csv" in str(caught.value)
    assert len(str(caught.value)) < 600
