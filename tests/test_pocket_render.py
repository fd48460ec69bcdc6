"""The pocket's renderer (its parts without VTK) and the data that ships with the pocket."""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from tools.pocket.pocket_render.ac3d import corners, is_aircraft_part, is_gear_part, parse_ac3d
from tools.pocket.pocket_render.captions import (
    CAPTION_RATES,
    draw_caption,
    family_words,
    siblings,
    with_article,
)
from tools.pocket.pocket_render.catalogue import airline_name, load_catalogue, load_classes
from tools.pocket.pocket_render.pools import (
    AIRLINE_POOLS,
    POOLS,
    airlines_pool,
    assign_pools,
    load_pools,
)
from tools.pocket.pocket_render.records import picture_id, read_records
from tools.pocket.pocket_render.sky import background
from tools.pocket.pocket_render.views import draw_view, picture_rng

ROOT = Path(__file__).parents[1]
DATA = ROOT / "pocket" / "higfa_pocket" / "data" / "aircraft"

# A group at (10, 0, 0) holds a square turned a quarter about z and moved up by 2.
TINY = """AC3Db
MATERIAL "white" rgb 1 1 1  amb 1 1 1  emis 0 0 0  spec 0 0 0  shi 1  trans 0
MATERIAL "red" rgb 1 0 0  amb 1 1 1  emis 0 0 0  spec 0 0 0  shi 1  trans 0
OBJECT world
kids 1
OBJECT group
name "whole"
loc 10 0 0
kids 1
OBJECT poly
name "fuselage"
data 4
x y
loc 0 2 0
rot 0 1 0 -1 0 0 0 0 1
texture "paint.png"
texrep 2 1
crease 30
numvert 4
0 0 0
3 0 0
3 1 0
0 1 0
numsurf 1
SURF 0x20
mat 1
refs 4
0 0 0
1 0.5 0
2 0.5 1
3 0 1
kids 0
"""


def test_ac3d_places_turns_and_reads_a_square() -> None:
    mesh = parse_ac3d(TINY)
    (part,) = mesh.parts
    assert (part.name, part.texture, part.crease_deg) == ("fuselage", "paint.png", 30.0)
    # The quarter turn takes x to y and y to -x; then (0, 2, 0) and (10, 0, 0) are added.
    expected = [[10, 2, 0], [10, 5, 0], [9, 5, 0], [9, 2, 0]]
    np.testing.assert_allclose(part.vertices, expected, atol=1e-12)
    assert part.surfaces[0].vertices == (0, 1, 2, 3)
    assert part.surfaces[0].uvs == ((0, 0), (1, 0), (1, 1), (0, 1))
    np.testing.assert_array_equal(mesh.materials, [[1, 1, 1], [1, 0, 0]])


def test_corners_carry_normals_and_colours() -> None:
    mesh = parse_ac3d(TINY)
    shape = corners(mesh.parts[0], mesh.materials)
    np.testing.assert_allclose(shape.normals, [[0, 0, 1]] * 4, atol=1e-12)
    np.testing.assert_array_equal(shape.colours, [[1, 0, 0]] * 4)
    assert shape.polygons == ((0, 1, 2, 3),)


@pytest.mark.parametrize(("crease", "smooth"), [(100, True), (80, False)])
def test_normals_are_smoothed_across_edges_below_the_crease_angle(
    crease: int, smooth: bool
) -> None:
    # Two unit squares that meet at a right angle along the y axis.
    text = f"""AC3Db
OBJECT poly
crease {crease}
numvert 6
0 0 0
1 0 0
1 1 0
0 1 0
0 0 -1
0 1 -1
numsurf 2
SURF 0x20
mat 0
refs 4
0 0 0
1 0 0
2 0 0
3 0 0
SURF 0x20
mat 0
refs 4
0 0 0
3 0 0
5 0 0
4 0 0
kids 0
"""
    mesh = parse_ac3d(text)
    shape = corners(mesh.parts[0], mesh.materials)
    # Faces point to +z and -x; on their common edge the smooth normal lies half-way.
    edge = [-(0.5**0.5), 0, 0.5**0.5] if smooth else [0, 0, 1]
    np.testing.assert_allclose(shape.normals[0], edge, atol=1e-12)
    np.testing.assert_allclose(shape.normals[1], [0, 0, 1], atol=1e-12)


def test_ac3d_refuses_other_text_and_cut_files() -> None:
    with pytest.raises(ValueError, match="AC3D"):
        parse_ac3d("solid cube")
    with pytest.raises(ValueError, match="ends inside"):
        parse_ac3d(TINY[: TINY.index("numsurf") + 12])


def test_lights_and_ground_equipment_are_left_out() -> None:
    for name in ("NavLight", "flare.01", "lowerbecon", "Strobe", "Jetway", "Prop_Blur_L"):
        assert not is_aircraft_part(name)
    for name in ("fuselage", "Gear", "Gear_Open", "Prop_L", "winglets"):
        assert is_aircraft_part(name)
    assert is_gear_part("320_gear") and not is_gear_part("320_body")


def test_airline_names_are_normalised() -> None:
    assert airline_name("KLM-BXA") == airline_name("KLM") == "klm"
    assert airline_name("Hop!") == airline_name("Hop") == "hop"
    assert airline_name("AirCanadaRouge") == "aircanada"
    assert airline_name("LoganAir") == airline_name("Loganair")
    assert airline_name("PaintKit") is None


def test_caption_noise_comes_at_the_recorded_rates() -> None:
    classes = load_classes()
    rng = np.random.default_rng(7)
    n = 20_000
    drawn = [draw_caption(rng, classes["A319"], "at sunset", classes) for _ in range(n)]
    kinds = Counter(caption.kind for caption in drawn)
    assert sum(CAPTION_RATES.values()) == pytest.approx(1.0)
    for kind, rate in CAPTION_RATES.items():
        # Four standard errors of a binomial share.
        assert kinds[kind] / n == pytest.approx(rate, abs=4 * (rate * (1 - rate) / n) ** 0.5)
    said = defaultdict(set)
    for caption in drawn:
        said[caption.kind].add(caption.words)
        assert caption.words in caption.text
    assert said["variant"] == {"Airbus A319 airliner"}
    assert said["family"] == {"Airbus A320 family airliner"}
    assert said["maker"] == {"Airbus airliner"}
    assert said["wrong_sibling"] == {"Airbus A320 airliner", "Airbus A321 airliner"}


def test_siblings_fall_back_to_the_maker() -> None:
    classes = load_classes()
    assert siblings(classes["737-800"], classes) == ["737-300"]
    everything = load_catalogue()
    assert siblings(everything["737-800"], everything) == ["737-300", "737-900"]
    assert siblings(everything["CRJ-200"], everything) == ["CRJ-700", "CRJ-900"]
    assert family_words(classes["777-300"]) == "Boeing 777 family airliner"
    assert with_article("Embraer E-190 airliner") == "an Embraer E-190 airliner"
    assert with_article("Boeing airliner") == "a Boeing airliner"


def test_dropped_variants_are_in_the_catalogue_and_have_reasons() -> None:
    dropped = json.loads((ROOT / "tools/pocket/dropped_variants.json").read_text(encoding="utf-8"))
    assert set(dropped) | set(load_classes()) == set(load_catalogue())
    assert not set(dropped) & set(load_classes())
    assert all(len(reason) > 10 for reason in dropped.values())


def test_no_family_caption_is_an_exact_name() -> None:
    classes = load_classes()
    exact = {aircraft.words for aircraft in classes.values()}
    assert len(exact) == len(classes)
    assert not exact & {family_words(aircraft) for aircraft in classes.values()}


def test_views_depend_on_the_picture_alone_and_stay_in_range() -> None:
    first = draw_view(picture_rng(0, "web", "A320", 3), sealed=False)
    assert first == draw_view(picture_rng(0, "web", "A320", 3), sealed=False)
    assert first != draw_view(picture_rng(0, "test", "A320", 3), sealed=False)
    for k in range(300):
        view = draw_view(picture_rng(1, "web", "A320", k), sealed=False)
        other = draw_view(picture_rng(1, "sealed", "A320", k), sealed=True)
        assert abs(view.yaw) <= 25 and -5 <= view.pitch <= 12 and 0.85 <= view.fill <= 0.95
        assert abs(other.yaw) >= 22
        assert other.sky != view.sky and other.scene != view.scene


def test_background_paints_ground_below_the_horizon() -> None:
    views = (draw_view(picture_rng(0, "web", "x", k), sealed=False) for k in range(200))
    view = next(v for v in views if v.ground == "field" and v.sky == "blue")
    picture = background(view, 64)
    assert picture.shape == (64, 64, 3)
    sky, field = picture[:20].mean((0, 1)), picture[-4:].mean((0, 1))
    assert sky[2] > sky[1] > sky[0] and field[1] > field[2]


def test_picture_ids_are_unique_and_seven_digits() -> None:
    ids = {picture_id(p, c, i) for p in POOLS for c in range(26) for i in range(0, 600, 7)}
    assert len(ids) == len(POOLS) * 26 * 86
    assert {len(identity) for identity in ids} == {7}
    with pytest.raises(ValueError, match="range"):
        picture_id("web", 0, 10_000)


def test_pool_assignment_is_disjoint_complete_and_repeatable() -> None:
    names = [f"line{k}" for k in range(16)]
    flown = {"one": set(names[:10]), "two": set(names[4:]), "three": set(names[::2])}
    pools = assign_pools(flown, seed=1, steps=4000)
    assert pools == assign_pools(flown, seed=1, steps=4000)
    assert sorted(pools) == sorted(names)
    for airlines in flown.values():
        counts = Counter(pools[a] for a in airlines)
        assert counts["web"] >= 3
        assert all(counts[pool] >= 1 for pool in ("own", "test"))


def test_recorded_pools_name_each_airline_once() -> None:
    text = (ROOT / "tools" / "pocket" / "airline_pools.json").read_text(encoding="utf-8")
    pools = load_pools()
    assert text.count('": "') == len(pools) > 100
    assert set(pools.values()) == set(AIRLINE_POOLS)


def test_shipped_data_has_the_promised_counts_and_lists() -> None:
    variants = (DATA / "variants.txt").read_text(encoding="utf-8").split("\n")[:-1]
    assert variants == sorted(load_classes()) and len(variants) >= 12
    for split, count in (("train", 33), ("val", 20), ("test", 40)):
        lines = (DATA / f"images_variant_{split}.txt").read_text(encoding="utf-8").splitlines()
        labels = Counter(line.split(" ", 1)[1] for line in lines)
        assert labels == dict.fromkeys(variants, count)
        ids = (DATA / f"images_{split}.txt").read_text(encoding="utf-8").split()
        assert ids == [line.split(" ", 1)[0] for line in lines]
        assert all((DATA / "images" / f"{identity}.jpg").is_file() for identity in ids)
        for label, row_key in (("family", "family"), ("manufacturer", "manufacturer")):
            rows = (DATA / f"images_{label}_{split}.txt").read_text(encoding="utf-8").splitlines()
            for line, variant_line in zip(rows, lines, strict=True):
                variant = variant_line.split(" ", 1)[1]
                expected = getattr(load_classes()[variant], row_key)
                assert line == f"{variant_line.split(' ', 1)[0]} {expected}"


def test_no_airline_of_the_shipped_data_is_in_two_pools() -> None:
    pools = load_pools()
    rows = read_records(DATA / "records.jsonl")
    assert len(rows) == 93 * len(load_classes())
    for row in rows:
        assert row["pool"] in ("train", "val", "test")
        assert pools[row["airline"]] == airlines_pool(row["pool"])
    assert len({row["id"] for row in rows}) == len(rows)


def test_shipped_pictures_are_square_and_small() -> None:
    paths = sorted((DATA / "images").glob("*.jpg"))
    with Image.open(paths[0]) as image:
        assert image.size[0] == image.size[1] >= 64 and image.mode == "RGB"
    assert sum(path.stat().st_size for path in paths) < 15_000_000
