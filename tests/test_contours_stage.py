"""The stage `contours`: files, manifest, seeds, refusals."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from higfa_cli.artifacts.rows import TransformRecord
from higfa_cli.artifacts.stage_state import stage_state
from higfa_cli.contour.extract import extract
from higfa_cli.contour.transform import apply_transform
from higfa_cli.data.images import fit_square, read_image
from higfa_cli.data.sheet import CAPTION, TILE
from higfa_cli.errors import UserError
from higfa_cli.recipe.contours import Contours, Transforms
from higfa_cli.recipe.data import Data
from higfa_cli.recipe.drawing import Model
from higfa_cli.recipe.schema import Recipe
from higfa_cli.stages import contours
from higfa_cli.stages.context import Context, load_photos, photo_notes
from higfa_cli.stages.inputs import contour_inputs
from higfa_cli.stages.plan import plan


def scene(path: Path, seed: int, size: tuple[int, int] = (48, 36)) -> None:
    """A picture with edges: rectangles on grey."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    pixels = np.full((size[1], size[0], 3), 120, dtype=np.uint8)
    for _ in range(3):
        x, y = rng.integers(2, 20, 2)
        pixels[y : y + 10, x : x + 14] = rng.integers(0, 256, 3)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for cls in ("A", "737-800", "ünï"):
        for index in range(2):
            scene(root / "train" / cls / f"p{index}.png", seed=index + len(cls))
    scene(root / "val" / "A" / "p0.png", seed=50)
    return root


def context(root: Path, **keys: Any) -> Context:
    seed = keys.pop("seed", 0)
    data = {name: keys.pop(name) for name in ("shots", "max_bad") if name in keys}
    recipe = Recipe(
        name="test",
        seed=seed,
        data=Data(root=str(root), **data),
        size=32,
        contours=Contours(**keys),
        model=Model(base="m", controlnet="c"),
    )
    return Context(recipe=recipe, base=root.parent, workspace=root.parent / "ws")


def manifest(ctx: Context, name: str = "manifest.jsonl") -> list[dict[str, Any]]:
    text = (ctx.stage_dir("contours") / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def rejected(ctx: Context) -> list[dict[str, Any]]:
    return manifest(ctx, "rejected.jsonl")


def test_every_row_can_be_redone_from_its_source(root: Path) -> None:
    ctx = context(root, per_image=2)
    summary = contours.run(ctx)
    assert (summary["images"], summary["sources"], summary["classes"]) == (12, 6, 3)
    rows = manifest(ctx)
    assert len({row["file_name"] for row in rows}) == 12
    assert {row["split"] for row in rows} == {"train"}
    for row in rows:
        path = ctx.stage_dir("contours") / row["file_name"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == row["sha256"]
        with Image.open(path) as image:
            assert (image.mode, image.size) == ("L", (32, 32))
            written = np.array(image)
        source = root / row["source"]
        assert hashlib.sha256(source.read_bytes()).hexdigest() == row["source_sha256"]
        contour = extract(read_image(source), ctx.recipe.contours, ctx.recipe.size)
        record = TransformRecord.model_validate(row["transform"])
        assert (apply_transform(contour, record) == written).all()
        assert row["edge_fraction"] == pytest.approx(written.mean() / 255)
    assert rows[0]["file_name"] == "images/737-800/p0-0.png"
    assert len({json.dumps(row["transform"]) for row in rows}) == len(rows)
    assert [row["class_id"] for row in rows[::4]] == [0, 1, 2]


def test_a_run_repeats_and_other_photos_do_not_matter(root: Path) -> None:
    first = context(root)
    contours.run(first)
    rows = {row["source"]: row for row in manifest(first)}
    contours.run(first)
    assert {row["source"]: row for row in manifest(first)} == rows
    scene(root / "train/737-800/a0.png", seed=77)
    scene(root / "train/000/x.png", seed=78)
    contours.run(replace(first))
    more = {row["source"]: row for row in manifest(first)}
    assert len(more) == 8
    for key, row in rows.items():
        assert more[key]["transform"] == row["transform"]
        assert more[key]["sha256"] == row["sha256"]
    other = context(root, seed=1)
    contours.run(other)
    assert manifest(other)[0]["transform"] != rows["train/737-800/p0.png"]["transform"]


def test_freshness_goes_by_content_and_parameters(root: Path) -> None:
    ctx = context(root)
    folder = ctx.stage_dir("contours")
    assert stage_state(folder, contour_inputs(ctx)).kind == "missing"
    contours.run(ctx)
    assert stage_state(folder, contour_inputs(ctx)).kind == "fresh"
    lower = stage_state(folder, contour_inputs(context(root, canny_low=10.0)))
    assert lower.kind == "stale" and "contours.canny_low" in lower.reasons[0]
    before = manifest(ctx)
    scene(root / "val/A/p0.png", seed=51)  # every split is checked, but only train is drawn
    assert stage_state(folder, contour_inputs(ctx)).reasons == (
        "data/val has other content: val/A/p0.png changed",
    )
    contours.run(ctx)
    assert stage_state(folder, contour_inputs(ctx)).kind == "fresh"
    assert manifest(ctx) == before
    scene(root / "train/A/p0.png", seed=51)
    assert stage_state(folder, contour_inputs(ctx)).kind == "stale"


def test_other_splits_on_request_alone(root: Path) -> None:
    ctx = context(root, splits=("train", "val"))
    contours.run(ctx)
    rows = manifest(ctx)
    assert sum(row["split"] == "val" for row in rows) == 1
    # train/A/p0 and val/A/p0 share class and stem, and both are kept.
    assert len({row["file_name"].lower() for row in rows}) == len(rows) == 7
    for splits, match in ((("test",), "asks for `test`"), ((), "contours.splits")):
        with pytest.raises(UserError, match=match):
            contour_inputs(context(root, splits=splits))


def test_shots_limit_the_sources(root: Path) -> None:
    assert contours.run(context(root, shots=1))["sources"] == 3


@pytest.mark.parametrize(("kind", "reason"), [("unreadable", "not-an-image"), ("flat", "no-edges")])
def test_a_bad_photo_is_listed_and_the_rest_goes_on(root: Path, kind: str, reason: str) -> None:
    bad = root / "train/A/z.png"
    if kind == "flat":
        Image.new("RGB", (20, 20), (90, 90, 90)).save(bad)
    else:
        bad.write_bytes(b"no picture")
    ctx = context(root, max_bad=1)
    summary = contours.run(ctx)
    assert (summary["images"], summary["sources"]) == (6, 6)
    assert summary["photos"] == {"found": 8, "accepted": 7, "rejected": 1}
    assert summary["rejected"] == {reason: 1}
    assert [row["reason"] for row in rejected(ctx)] == [reason]
    assert len(list((ctx.stage_dir("contours") / "images").rglob("*.png"))) == 6
    assert stage_state(ctx.stage_dir("contours"), contour_inputs(ctx)).kind == "fresh"
    bad.unlink()
    assert contours.run(replace(ctx))["photos"] == {"found": 7, "accepted": 7, "rejected": 0}
    assert rejected(ctx) == []


def test_photos_without_edges_count_and_depend_on_the_settings(root: Path) -> None:
    faint = np.full((20, 20, 3), 90, dtype=np.uint8)
    faint[5:15, 5:15] = 95
    Image.fromarray(faint).save(root / "train/A/z.png")
    strict = context(root, max_bad=0)
    for _ in range(2):  # the second time it is the list of the first that says so
        with pytest.raises(UserError, match=r"z\.png \(no-edges\).*canny_low"):
            contour_inputs(strict)
            contours.run(strict)
    assert not (strict.stage_dir("contours") / "manifest.jsonl").exists()
    lower = context(root, max_bad=0, canny_low=0.5, canny_high=1.0)
    contour_inputs(lower)
    assert contours.run(lower)["images"] == 7


def test_a_photo_whose_contour_is_moved_out_of_the_picture_gives_none(root: Path) -> None:
    far = Transforms(translation=1.0)
    for seed in range(30):
        ctx = context(root, seed=seed, transforms=far, max_bad="100%")
        try:
            summary = contours.run(ctx)
        except UserError as error:
            assert "gives a contour" in str(error)
            continue
        if summary["rejected"]:
            break
    lost = [row["key"] for row in rejected(ctx)]
    assert sum(summary["rejected"].values()) == len(lost)
    assert "transformed contour 0 " in rejected(ctx)[0]["detail"]
    assert not set(lost) & {row["source"] for row in manifest(ctx)}
    assert len(manifest(ctx)) == 6 - len(lost) == summary["sources"]


def test_a_class_without_a_single_contour_is_an_error(root: Path) -> None:
    for photo in (root / "train/A").iterdir():
        Image.new("RGB", (20, 20), (90, 90, 90)).save(photo)
    with pytest.raises(
        UserError, match=r"no photo of class `A` gives a contour .*2 no-edges.*canny_low"
    ):
        contours.run(context(root, max_bad="100%"))


def test_progress_counts_the_photos(root: Path) -> None:
    seen: list[tuple[str, int | None, int]] = []

    class Counting:
        def track(self, items: Iterable[Any], description: str, total: int | None = None):
            items = list(items)
            seen.append((description, total, len(items)))
            yield from items

        def note(self, message: str) -> None:
            raise AssertionError(message)

    plain = context(root)
    ctx = Context(plain.recipe, plain.base, plain.workspace, progress=Counting())
    contours.run(ctx)
    assert seen == [("checking photos", 7, 7), ("contours", 6, 6)]


def drawn_edges(root: Path, **shares: float) -> None:
    """A photo of noise over so much of it, in class A."""
    for name, share in shares.items():
        pixels = np.full((32, 32, 3), 120, dtype=np.uint8)
        noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        side = round(32 * share**0.5)
        pixels[:side, :side] = noise[:side, :side]
        Image.fromarray(pixels).save(root / f"train/A/{name}.png")


STILL = Transforms(flip=0, rotation=0, scale=(1, 1), translation=0, perspective=0, aspect=0)


@pytest.mark.fault(
    "images",
    "a photo of nearly no or nearly only edges",
    "listed with its part of edges, gives no picture, still trains; a sheet shows it first",
)
def test_contours_of_too_few_and_too_many_edges_are_left_out(root: Path) -> None:
    drawn_edges(root, few=0.02, half=0.3, full=1.0)
    ctx = context(root, edge_fraction=(0.02, 0.25), max_bad=3, transforms=STILL)
    summary = contours.run(ctx)
    listed = {row["path"]: row for row in rejected(ctx)}
    assert {key: row["reason"] for key, row in listed.items()} == {
        "train/A/few.png": "few-edges",
        "train/A/full.png": "many-edges",
    }
    assert "of its contour is edge; the bound is 0.25" in listed["train/A/full.png"]["detail"]
    assert summary["rejected"] == {"few-edges": 1, "many-edges": 1}
    assert summary["photos"] == {"found": 10, "accepted": 8, "rejected": 2}
    assert summary["images"] == 7
    rows = manifest(ctx)
    assert {row["source"] for row in rows}.isdisjoint(listed)
    assert all(0.02 <= row["edge_fraction"] <= 0.25 for row in rows)
    assert len(load_photos(ctx).of("train")) == 9
    assert not any("few.png" in item.source for item in plan(replace(ctx)))
    assert any("2 photos were left out (1 " in note for note in photo_notes(ctx))


@pytest.mark.fault("images", "a photo of nearly no or nearly only edges")
def test_the_part_of_edges_has_digits_enough(root: Path) -> None:
    """However close to the bound, the number shows on which side of it the photo lies."""
    drawn_edges(root, noise=0.3)
    contours.run(context(root, transforms=STILL))
    (part,) = [r["edge_fraction"] for r in manifest(context(root)) if "noise" in r["source"]]
    for bounds in ((0, part - 1e-6), (part + 1e-6, 1)):
        ctx = context(root, edge_fraction=bounds, max_bad="100%", transforms=STILL)
        with contextlib.suppress(UserError):
            contours.run(ctx)
        (row,) = [r for r in rejected(ctx) if "noise" in r["path"]]
        share = float(row["detail"].split(" of its contour")[0])
        assert not bounds[0] <= share <= bounds[1]


@pytest.mark.fault("images", "a photo of nearly no or nearly only edges")
def test_a_class_that_loses_all_contours_is_an_error(root: Path) -> None:
    for bounds, reason in (((0.0, 0.001), "2 many-edges"), ((0.9, 1.0), "2 few-edges")):
        with pytest.raises(UserError, match=f"gives a contour .*{reason}.*edge_fraction"):
            contours.run(context(root, edge_fraction=bounds, max_bad="100%"))
    with pytest.raises(ValueError, match=r"must be \[least, most\]"):
        Contours(edge_fraction=(0.5, 0.1))


@pytest.mark.fault("images", "a photo of nearly no or nearly only edges")
def test_what_holds_without_the_key(root: Path) -> None:
    """A dot is little to draw by; graded edges of noise are bright all over."""
    drawn_edges(root, full=1.0)
    pixels = np.full((128, 128, 3), 120, dtype=np.uint8)
    pixels[56:70, 56:70] = 255
    Image.fromarray(pixels).save(root / "train/A/dot.png")
    summary = contours.run(context(root, max_bad=2, transforms=STILL, edge_fraction=(0.02, 0.6)))
    assert summary["rejected"] == {"few-edges": 1}
    soft = context(root, extractor="soft", blur=0, max_bad=2, transforms=STILL)
    assert contours.run(soft)["rejected"] == {"many-edges": 1}


@pytest.mark.fault(
    "images", "contours that nobody has looked at", "a sheet of bounded size beside them"
)
def test_the_sheet_shows_what_was_left_out_first(root: Path) -> None:
    for number in range(70):
        scene(root / f"train/737-800/more{number}.png", seed=100 + number)
    ctx = context(root, edge_fraction=(0.02, 1.0), max_bad=9, transforms=STILL, per_image=2)
    drawn_edges(root, few=0.01)
    summary = contours.run(ctx)
    sheet = read_image(ctx.ws.contours.sheet)
    assert summary["sheet"] == str(ctx.ws.contours.sheet)
    height = TILE + CAPTION
    assert sheet.shape == (12 * height, 12 * TILE, 3)
    left_out = [fit_square(read_image(root / row["key"]), TILE) for row in rejected(ctx)]
    assert any((sheet[:TILE, :TILE] == photo).all() for photo in left_out)
    assert (sheet[:TILE, 2 * TILE : 3 * TILE] == 255).all(axis=2).mean() > 0.9  # no moved contour
    before = ctx.ws.contours.sheet.read_bytes()
    contours.run(replace(ctx))
    assert ctx.ws.contours.sheet.read_bytes() == before
    assert "sheet.png" in ctx.ws.contours.writes
    one = context(root, shots=1, max_bad=9)
    contours.run(one)
    assert read_image(one.ws.contours.sheet).shape == (height, 9 * TILE, 3)
