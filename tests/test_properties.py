"""Properties that hold for any input: names, recipes, manifests, contour transforms."""

from __future__ import annotations

import json
import math
import tempfile
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from higfa_cli.artifacts import artifact
from higfa_cli.artifacts.atomic import read_json, read_jsonl, write_jsonl
from higfa_cli.artifacts.class_folders import class_dir, class_dirs, class_name
from higfa_cli.artifacts.rows import ContourRow, TransformRecord
from higfa_cli.artifacts.safe_paths import why_outside
from higfa_cli.artifacts.stage_run import read_journal
from higfa_cli.artifacts.stage_state import read_record
from higfa_cli.contour.geometry import anisotropy
from higfa_cli.contour.transform import IDENTITY, apply_transform, draw_transform, homography
from higfa_cli.data.layouts.imagefolder import list_csv
from higfa_cli.data.prompts import load_words
from higfa_cli.errors import RecipeError, UserError
from higfa_cli.recipe.contours import Transforms
from higfa_cli.recipe.keys import is_section, recipe_keys
from higfa_cli.recipe.load import load_recipe, override_recipe
from higfa_cli.recipe.schema import Recipe
from higfa_cli.recipe.strict_yaml import dump_yaml, parse_yaml
from higfa_cli.text import inert
from tests.support.shapes import transform

# The same examples on every machine and every day.
settings.register_profile(
    "fixed",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
FIXED = settings(settings.get_profile("fixed"), max_examples=150)
FEW = settings(settings.get_profile("fixed"), max_examples=40)

RECIPE = Recipe.model_validate(
    {"name": "t", "data": {"root": "d"}, "model": {"base": "m", "controlnet": "c"}}
)

# --- names ------------------------------------------------------------------------------------

# Surrogates too: file names of other encodings hold them.
anything = st.text(st.characters(), min_size=1, max_size=40)
tricky = st.text("%~./\\ \0\n:CONcon2Fe\u0301\u00e9\u00dfAaİı", min_size=1, max_size=12)
long_ones = st.builds(lambda text, n: (text * n)[:500], anything, st.integers(20, 60))
names = anything | tricky | long_ones


@FIXED
@given(names)
def test_a_folder_name_gives_the_class_back(name: str) -> None:
    folder = class_dir(name)
    assert folder.isascii() and folder.isprintable() and 0 < len(folder) <= 240
    assert not set(folder) & set('/\\:*?"<>|') and folder[0] not in ".-~ "
    if "%~" in folder:
        assert class_name(folder) == folder
    else:
        assert class_name(folder) == name


@pytest.mark.fault("hostile", "any text, any bytes (property tests)")
@FIXED
@given(st.sets(names, max_size=8) | st.sets(st.text("aAbBéÉ.%", min_size=1, max_size=3)))
def test_folders_never_collide(found: set[str]) -> None:
    folders = class_dirs(found)
    assert set(folders) == found
    folded = {
        unicodedata.normalize("NFKD", folder.casefold()).casefold() for folder in folders.values()
    }
    assert len(folded) == len(found)
    for name, folder in folders.items():
        assert "%~" in folder or class_name(folder) == name


@FIXED
@given(st.text(st.characters()))
def test_inert_text_is_inert_and_stays(text: str) -> None:
    shown = inert(text)
    assert not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in shown)
    assert inert(shown) == shown
    if all(" " <= char <= "~" for char in text):
        assert shown == text


# --- recipes ----------------------------------------------------------------------------------

scalars: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from([10**9, 10**400, -1, "no", "1e-3", "../..", "{words}", "\0"])
)
keys = st.sampled_from(sorted({part for key in recipe_keys() for part in key.split(".")}))
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(keys | st.text(max_size=6), inner, max_size=5)
    ),
    max_leaves=25,
)
lines = st.lists(
    st.sampled_from(
        [
            *("name: x", "data:", "  root: y", "\t- a", "&a", "*a", "<<: *a", "? [", "]", "}"),
            *("model: {base: m", "---", "...", "%YAML 1.1", "|", ">", "'", '"', "- - -"),
            "!!python/name:os",
        ]
    ),
    max_size=8,
).map("\n".join)


def parse(text: str) -> Any:
    try:
        return parse_yaml(text, "x.yaml")
    except RecipeError as error:
        assert str(error).startswith("x.yaml")
        return None


@pytest.mark.fault("hostile", "any text, any bytes (property tests)", "read or refused")
@FIXED
@given(st.text() | lines | st.text("&*[]{}:-!<>|%'\"\n a1"))
def test_any_text_is_read_or_refused_as_a_recipe(text: str) -> None:
    value = parse(text)
    # What is read is JSON, whatever the tags and anchors were.
    json.dumps(value)


@FIXED
@given(st.binary(max_size=200) | st.text().map(str.encode) | trees.map(dump_yaml).map(str.encode))
def test_any_file_is_a_recipe_or_an_error(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_bytes(data)
        try:
            loaded = load_recipe(str(path))
        except RecipeError as error:
            assert error.exit_code == 2 and "\n" not in inert(str(error))
        else:
            assert isinstance(loaded.recipe, Recipe)


@FIXED
@given(st.sampled_from(sorted(k for k in recipe_keys() if not is_section(k))), trees)
def test_any_value_of_any_key_is_taken_or_refused(key: str, value: Any) -> None:
    try:
        recipe = override_recipe(RECIPE, {key: value})
    except RecipeError:
        return
    # What is taken survives being written to a workspace and read again.
    again = parse_yaml(dump_yaml(recipe.model_dump(mode="json")), "x.yaml")
    assert Recipe.model_validate_json(json.dumps(again), strict=True) == recipe


# --- manifests --------------------------------------------------------------------------------

jsons = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=8,
)
bytes_of_files = (
    st.binary(max_size=200)
    | jsons.map(json.dumps).map(str.encode)
    | st.lists(jsons.map(json.dumps), max_size=4).map(lambda rows: "\n".join(rows).encode())
    | st.sampled_from([b"[" * 50_000, b"9" * 5000, b'{"a":' * 50_000, b"\xff\xfe", b"{}\0{}"])
)
READERS = {
    "json": read_json,
    "jsonl": read_jsonl,
    "rows": lambda path: artifact.read_rows(path, ContourRow),
    "journal": read_journal,
    "record": lambda path: read_record(path.parent),
    "csv": lambda path: list_csv(path.parent, path),
    "words": load_words,
}


@pytest.mark.fault("hostile", "any text, any bytes (property tests)")
@pytest.mark.parametrize("reader", READERS)
@FEW
@given(data=bytes_of_files)
def test_any_bytes_are_read_or_refused(reader: str, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.json"
        path.write_bytes(data)
        try:
            READERS[reader](path)
        except UserError as error:
            assert str(path) in str(error)


@FIXED
@given(st.lists(st.dictionaries(st.text(max_size=6), st.text(max_size=6) | st.integers())))
def test_rows_read_back(rows: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"
        write_jsonl(path, rows)
        assert read_jsonl(path) == rows


@FIXED
@given(st.text(max_size=20) | st.lists(st.sampled_from("../a\\~:C"), max_size=9).map("".join))
def test_a_contained_name_is_contained(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if why_outside(root, name) is None:
            assert (root / name).resolve().is_relative_to(root.resolve())
            assert (root / name) != root


# --- contour transforms -----------------------------------------------------------------------

fractions = st.floats(0, 1, width=32)
transforms = st.builds(
    lambda flip, rotation, low, ratio, shift, corner, aspect, stretch, elastic: Transforms(
        flip=flip,
        rotation=rotation,
        scale=(low, low * ratio),
        translation=shift,
        perspective=corner,
        aspect=aspect,
        anisotropic=stretch,
        elastic=elastic,
    ),
    fractions,
    st.floats(0, 180),
    st.floats(0.25, 2),
    st.floats(1, 3),
    fractions,
    fractions,
    st.floats(0, 0.03),
    st.sampled_from([0.0, 0.3]),
    st.sampled_from([0.0, 0.2]),
)
seeds = st.integers(0, 2**32 - 1)


def contour(seed: int, soft: bool) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 256, (24, 24)) * (rng.random((24, 24)) < 0.15)
    return (values if soft else 255 * (values > 0)).astype(np.uint8)


@FEW
@given(transforms, seeds, st.booleans())
def test_a_record_always_redraws_the_same(wanted: Transforms, seed: int, soft: bool) -> None:
    record = draw_transform(wanted, np.random.default_rng(seed))
    assert record == draw_transform(wanted, np.random.default_rng(seed))
    picture = contour(seed, soft)
    before = picture.copy()
    moved = apply_transform(picture, record)
    assert moved.shape == picture.shape and moved.dtype == np.uint8
    assert np.array_equal(picture, before)
    # As it is read from a manifest.
    told = artifact.parse(json.loads(json.dumps(record.plain())), TransformRecord, "a row")
    assert told == record
    assert np.array_equal(apply_transform(picture, told), moved)
    if not soft:
        assert set(np.unique(moved)) <= {0, 255}


@FIXED
@given(transforms, seeds)
def test_no_transform_changes_the_aspect_unasked(wanted: Transforms, seed: int) -> None:
    plain = wanted.model_copy(update={"anisotropic": 0.0, "elastic": 0.0})
    record = draw_transform(plain, np.random.default_rng(seed))
    assert anisotropy(homography(record)) <= 1 + plain.aspect + 1e-6 <= 1.03 + 1e-6
    assert all(math.isfinite(value) for value in np.ravel(homography(record)))


@FEW
@given(seeds, st.booleans())
def test_identity_and_flip(seed: int, soft: bool) -> None:
    picture = contour(seed, soft)
    assert np.array_equal(apply_transform(picture, IDENTITY), picture)
    flipped = apply_transform(picture, transform(flip=True))
    assert np.array_equal(flipped, picture[:, ::-1])
    assert np.array_equal(apply_transform(flipped, transform(flip=True)), picture)


@FIXED
@given(trees)
def test_any_record_is_read_or_refused(value: Any) -> None:
    try:
        artifact.parse(value, TransformRecord, "a row")
    except UserError:
        return
    raise AssertionError("no such value is a record")


@FEW
@given(st.dictionaries(st.sampled_from(list(IDENTITY.plain())), jsons))
def test_any_change_of_a_record_is_read_or_refused(changes: dict[str, Any]) -> None:
    try:
        record = artifact.parse(IDENTITY.plain() | changes, TransformRecord, "a row")
    except UserError:
        return
    assert np.isfinite(homography(record)[:2]).all()
