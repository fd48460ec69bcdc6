"""The recipe: loading, overrides, errors that name the nearest key, YAML's traps, references."""

from __future__ import annotations

import json
import sys
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from higfa_cli.errors import RecipeError, UserError
from higfa_cli.recipe.builtin import builtin_names
from higfa_cli.recipe.keys import nearest_key, recipe_keys
from higfa_cli.recipe.load import load_recipe, override_recipe, recipe_schema
from higfa_cli.recipe.refs import resolve_ref
from higfa_cli.recipe.schema import Recipe
from higfa_cli.recipe.section import set_value
from higfa_cli.recipe.strict_yaml import dump_yaml, parse_yaml

MINIMAL = """\
name: mine
data: {root: photos}
model: {base: m, controlnet: c}
"""


def write(folder: Path, text: str) -> str:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def refused(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(folder, text), overrides)
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in message
    return message


def test_loads_a_file_with_its_folder_as_base(tmp_path: Path) -> None:
    loaded = load_recipe(write(tmp_path, MINIMAL))
    assert loaded.recipe.name == "mine"
    assert loaded.recipe.sampling.steps == 25
    assert loaded.base == tmp_path.resolve()
    assert loaded.origin == str(tmp_path.resolve() / "recipe.yaml")


def test_recipe_is_frozen(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, MINIMAL)).recipe
    with pytest.raises(ValidationError, match="frozen"):
        recipe.seed = 3  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        recipe.guidance.classifier.gamma = 3.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("seeed", "seed"),
        ("synthesize.stepz", "sampling.steps"),
        ("guidance.classifier.gama", "guidance.classifier.gamma"),
        ("synthesize.classifier.gama", "guidance.classifier.gamma"),
        ("contours.transforms.rotate", "contours.transforms.rotation"),
        ("steps", "sampling.steps"),
        ("synthesize.gamma", "guidance.classifier.gamma"),
        ("sythesize.steps", "sampling.steps"),
        ("synthesize.clasifier.scale", "guidance.classifier.scale"),
    ],
)
def test_nearest_key(wrong: str, meant: str) -> None:
    assert nearest_key(wrong) == meant


def test_unknown_key_in_file_names_the_nearest(tmp_path: Path) -> None:
    message = refused(tmp_path, MINIMAL + "contours: {transforms: {scalee: [1, 1]}}\n")
    assert "recipe.yaml" in message
    wrong, near = "`contours.transforms.scalee`", "`contours.transforms.scale`"
    assert f"unknown key {wrong}; did you mean {near}?" in message


def test_unknown_key_without_a_near_one_lists_the_section(tmp_path: Path) -> None:
    message = refused(tmp_path, MINIMAL + "guide: {qqqq: 1}\n")
    assert "unknown key `guide.qqqq`; valid keys are `guide.backbone`" in message


def test_unknown_key_comes_before_the_missing_one_it_explains(tmp_path: Path) -> None:
    message = refused(tmp_path, MINIMAL.replace("root:", "rooot:"))
    assert "unknown key `data.rooot`; did you mean `data.root`? (and 1 more)" in message


# Every key of earlier recipes that is elsewhere now.
MOVED_KEYS = {
    "device": "run.device",
    "contours.size": "size",
    "synthesize.model": "model.base",
    "synthesize.controlnet": "model.controlnet",
    "synthesize.revision": "model.revision",
    "synthesize.controlnet_revision": "model.controlnet_revision",
    "synthesize.variant": "model.variant",
    "synthesize.local_files_only": "run.local_files_only",
    "synthesize.gradient_autoencoder": "model.gradient_autoencoder",
    "synthesize.gradient_autoencoder_revision": "model.gradient_autoencoder_revision",
    "synthesize.dtype": "model.dtype",
    "synthesize.scheduler": "sampling.scheduler",
    "synthesize.steps": "sampling.steps",
    "synthesize.size": "size",
    "synthesize.batch_size": "run.batch_size",
    "synthesize.per_contour": "pictures.per_contour",
    "synthesize.composition": "guidance.composition",
    "synthesize.conditioning_scale": "sampling.conditioning_scale",
    "synthesize.conditioning_interval": "sampling.conditioning_interval",
    "synthesize.text.scale": "guidance.text.scale",
    "synthesize.text.floor": "guidance.text.floor",
    "synthesize.contour.scale": "guidance.contour.scale",
    "synthesize.contour.floor": "guidance.contour.floor",
    "synthesize.classifier.scale": "guidance.classifier.scale",
    "synthesize.classifier.gamma": "guidance.classifier.gamma",
    "synthesize.classifier.confidence": "guidance.classifier.confidence",
    "synthesize.classifier.modulation": "guidance.classifier.modulation",
    "synthesize.classifier.power": "guidance.classifier.power",
    "synthesize.classifier.gradient": "guidance.classifier.gradient",
    "synthesize.classifier.read": "guidance.classifier.read",
    "synthesize.classifier.grad_norm": "guidance.classifier.grad_norm",
    "synthesize.classifier.switch": "guidance.classifier.switch",
    "synthesize.classifier.switch_sigma": "guidance.classifier.switch_sigma",
    "synthesize.prompts.templates": "prompts.templates",
    "synthesize.prompts.bank": "prompts.bank",
    "synthesize.prompts.negative": "prompts.negative",
    "synthesize.memory.cpu_offload": "run.memory.cpu_offload",
    "synthesize.memory.gradient_checkpointing": "run.memory.gradient_checkpointing",
    "synthesize.memory.slicing": "run.memory.slicing",
    "synthesize.memory.tiling": "model.tiling",
    "synthesize.memory.channels_last": "run.memory.channels_last",
    "synthesize.memory.compile": "run.memory.compile",
    "synthesize.gallery": "pictures.gallery",
}


@pytest.mark.parametrize("old", MOVED_KEYS)
def test_a_key_that_moved_is_refused_with_its_new_name(tmp_path: Path, old: str) -> None:
    new = MOVED_KEYS[old]
    assert new in recipe_keys()
    said = f"`{old}` is now `{new}`; rename it"
    tree = parse_yaml(MINIMAL, "x")
    set_value(tree, old, 1)
    message = refused(tmp_path, dump_yaml(tree))
    assert message == f"recipe {tmp_path / 'recipe.yaml'}: {said}"
    assert refused(tmp_path, MINIMAL, f"{old}=1") == f"--set {old}=1: {said}"


def test_a_recipe_of_moved_keys_counts_them(tmp_path: Path) -> None:
    old = "name: x\ndevice: cpu\nsynthesize: {model: m, text: {scale: 2}, memory: {tiling: true}}\n"
    assert refused(tmp_path, old).endswith("`device` is now `run.device`; rename it (and 3 more)")


def test_a_slip_in_a_section_that_is_no_more(tmp_path: Path) -> None:
    near = "unknown key `synthesize.stepz`; did you mean `sampling.steps`?"
    assert near in refused(tmp_path, MINIMAL + "synthesize: {stepz: 3}\n")
    assert near in refused(tmp_path, MINIMAL, "synthesize.stepz=3")
    now = "`synthesize` is no section any more; its keys are in `size`, `model`, `run`, `sampling`"
    for empty in ("synthesize: {}\n", "synthesize:\n"):
        assert now in refused(tmp_path, MINIMAL + empty)


def test_missing_key(tmp_path: Path) -> None:
    message = refused(tmp_path, "name: x\nmodel: {base: m, controlnet: c}\n")
    assert message.endswith("the key `data` is missing; add it")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("contours: {per_image: 0}", "`contours.per_image`: input should be greater than"),
        ("contours: {per_image: true}", "`contours.per_image`: "),
        ("contours: {per_image: '2'}", "`contours.per_image`: "),
        ("contours: {transforms: {scale: [1.1, 0.9]}}", "scale must be [smallest, largest]"),
        ("contours: {transforms: {scale: [1.1, x]}}", "`contours.transforms.scale[1]`: "),
        ("contours: {transforms: {flip: .nan}}", "`contours.transforms.flip`: "),
        ("guide: {backbone: 18}", "put it in quotes"),
    ],
)
def test_bad_value_names_the_key(tmp_path: Path, text: str, part: str) -> None:
    assert part in refused(tmp_path, MINIMAL + text)


def test_override(tmp_path: Path) -> None:
    overrides = [
        "sampling.steps=20",
        "guide.learning_rate=1e-3",
        "contours.transforms.scale=[0.9, 1]",
        "name=737",
        "prompts.negative=blurry: yes",
        "data.shots=null",
        "sampling.steps=21",
    ]
    recipe = load_recipe(write(tmp_path, MINIMAL), overrides).recipe
    assert recipe.sampling.steps == 21
    assert recipe.guide.learning_rate == 0.001
    assert recipe.contours.transforms.scale == (0.9, 1.0)
    assert recipe.name == "737"
    assert recipe.prompts.negative == "blurry: yes"
    assert recipe.data.shots is None


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("sampling.stepz=20", "--set sampling.stepz=20: unknown key `sampling.stepz`; did"),
        ("guidance.classifier.gama=1", "did you mean `guidance.classifier.gamma`?"),
        ("sampling.steps", "write KEY=VALUE"),
        ("sampling.steps=0", "--set sampling.steps=0: `sampling.steps`: input should be"),
        ("sampling.steps=[", "--set sampling.steps=["),
        ("guidance.text=4", "`guidance.text` is a section; set one of its keys: `guidance.t"),
    ],
)
def test_bad_override_names_flag_and_remedy(tmp_path: Path, override: str, part: str) -> None:
    assert part in refused(tmp_path, MINIMAL, override)


def test_override_recipe_validates(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, MINIMAL)).recipe
    assert override_recipe(recipe, {"guidance.classifier.scale": 2}).guidance.classifier == (
        replace(recipe.guidance.classifier, scale=2.0)
    )
    with pytest.raises(RecipeError, match=r"did you mean `sampling\.steps`"):
        override_recipe(recipe, {"sampling.stepz": 2})
    with pytest.raises(RecipeError, match="greater than or equal to 1"):
        override_recipe(recipe, {"sampling.steps": 0})


def test_yaml_numbers_and_words() -> None:
    text = "{a: 1e-3, b: no, c: 12:30, d: 2024-01-02, e: 007, f: -1E5, g: .5, h: 0x10, i: ~}"
    assert parse_yaml(text, "x") == {
        "a": 0.001,
        "b": "no",
        "c": "12:30",
        "d": "2024-01-02",
        "e": "007",
        "f": -100000.0,
        "g": 0.5,
        "h": "0x10",
        "i": None,
    }


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: 1\nb: 2\na: 3\n", "x.yaml, line 3: key `a` appears twice"),
        ("s:\n  a: 1\n  a: 1\n", "x.yaml, line 3: key `a` appears twice"),
        ("a: !!python/object/apply:os.system [ls]", "the tag '!!python/object/apply:os.system'"),
        ("a: !!set {x}", "the tag '!!set' is refused"),
        ("1: x", "key 1 is not a text; put it in quotes"),
        ("a: [1", "x.yaml, line 1"),
        ("a: *nowhere", "aliases (*nowhere) are refused"),
        ("a: \x07", "x.yaml: not valid YAML"),
    ],
)
def test_yaml_traps_are_refused(text: str, part: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_yaml(text, "x.yaml")
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_anchors_and_aliases_are_refused_with_their_line(tmp_path: Path) -> None:
    message = refused(tmp_path, MINIMAL + "guide: &g {epochs: 3}\ndownstream: *g\n")
    assert "line 4: anchors (&g) and aliases (*g) are refused; write the values out" in message


def test_recipe_that_is_a_list_or_absent(tmp_path: Path) -> None:
    assert "expected keys" in refused(tmp_path, "[1]")
    with pytest.raises(RecipeError, match=r"nowhere\.yaml does not exist.*higfa init"):
        load_recipe(str(tmp_path / "nowhere.yaml"))
    (tmp_path / "latin.yaml").write_bytes("name: caf\xe9".encode("latin-1"))
    with pytest.raises(RecipeError, match="not UTF-8"):
        load_recipe(str(tmp_path / "latin.yaml"))


plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


@given(st.dictionaries(st.text(), st.lists(plain) | plain))
def test_dumped_yaml_reads_back(value: dict[str, object]) -> None:
    assert parse_yaml(dump_yaml(value), "x") == value


def test_resolved_recipe_reads_back(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, MINIMAL), ["guide.learning_rate=1e-5"]).recipe
    again = write(tmp_path, dump_yaml(recipe.model_dump(mode="json")))
    assert load_recipe(again).recipe == recipe


def test_builtin_recipes_load_and_unknown_names_are_helped() -> None:
    assert {"aircraft-sdxl", "pocket-aircraft"} <= set(builtin_names())
    for name in builtin_names():
        loaded = load_recipe(name)
        assert loaded.origin == f"built-in {name}"
        assert loaded.base == Path.cwd()
    assert load_recipe("pocket").origin == "built-in pocket-aircraft"
    assert load_recipe("aircraft").origin == "built-in aircraft-sdxl"
    with pytest.raises(RecipeError, match="did you mean `aircraft`"):
        load_recipe("aircarft")


def test_builtin_name_wins_over_a_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pocket").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_recipe("pocket").origin == "built-in pocket-aircraft"


def test_every_leaf_key_has_a_description() -> None:
    schema = recipe_schema()
    assert json.loads(json.dumps(schema)) == schema
    assert schema["additionalProperties"] is False
    sections = {"Recipe": schema, **schema["$defs"]}
    assert sections.pop("JsonValue") == {}
    for section, content in sections.items():
        for key, spec in content["properties"].items():
            refers = "$ref" in spec or "allOf" in spec
            assert refers or spec.get("description"), f"{section}.{key}"
    assert set(schema["properties"]) == set(Recipe.model_fields)
    assert "guidance.classifier.gamma" in recipe_keys()


def test_resolve_ref(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, here = tmp_path / "base", tmp_path / "here"
    (base / "a").mkdir(parents=True)
    (here / "a").mkdir(parents=True)
    (here / "b").mkdir()
    monkeypatch.chdir(here)
    assert resolve_ref("a", base) == base / "a"
    assert resolve_ref("b", base) == "b"
    assert resolve_ref("owner/model", base) == "owner/model"
    with pytest.raises(UserError, match=r"\./c does not exist"):
        resolve_ref("./c", base)
    with pytest.raises(UserError, match="does not exist"):
        resolve_ref(str(tmp_path / "gone"), base)
    with pytest.raises(UserError, match="did you mean `pocket:aircraft`"):
        resolve_ref("pocket:aircarft", base)


def test_pocket_package_present_incomplete_and_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A real package of that name, found before any installed one.
    package = tmp_path / "first" / "higfa_pocket"
    (package / "data" / "aircraft").mkdir(parents=True)
    (package / "__init__.py").touch()
    others = [entry for entry in sys.path if not (Path(entry) / "higfa_pocket").is_dir()]
    hooks = [hook for hook in sys.meta_path if "editable" not in str(hook).lower()]
    # set, then deleted: the module that was there, or none, is what comes back after the test
    monkeypatch.setitem(sys.modules, "higfa_pocket", ModuleType("higfa_pocket"))
    del sys.modules["higfa_pocket"]
    monkeypatch.setattr(sys, "meta_path", hooks)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "first"), *others])
    assert resolve_ref("pocket:aircraft", tmp_path) == package / "data" / "aircraft"
    with pytest.raises(UserError, match="has no sd: pip install"):
        resolve_ref("pocket:sd", tmp_path)
    sys.modules.pop("higfa_pocket", None)
    monkeypatch.setattr(sys, "path", others)
    with pytest.raises(UserError, match="higfa-pocket package is not installed: pip install"):
        resolve_ref("pocket:sd", tmp_path)
