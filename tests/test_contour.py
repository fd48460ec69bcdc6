"""Extractors and geometric transforms against hand-worked pictures."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from higfa_cli.artifacts.artifact import parse
from higfa_cli.artifacts.rows import TransformRecord
from higfa_cli.contour.extract import canny, edge_fraction, extract, soft
from higfa_cli.contour.geometry import CORNERS, anisotropy, project, similarity
from higfa_cli.contour.transform import IDENTITY, apply_transform, draw_transform, homography
from higfa_cli.errors import UserError
from higfa_cli.recipe.contours import Contours, Transforms
from tests.support.shapes import transform

SIZE = 64
WILD = Transforms(anisotropic=0.2, elastic=0.1)


def lines() -> np.ndarray:
    """A binary contour: a rectangle and a diagonal, one pixel wide."""
    contour = np.zeros((SIZE, SIZE), dtype=np.uint8)
    contour[16, 12:50] = contour[44, 12:50] = 255
    contour[16:45, 12] = contour[16:45, 49] = 255
    np.fill_diagonal(contour[20:40, 20:40], 255)
    return contour


def graded() -> np.ndarray:
    y, x = np.mgrid[:SIZE, :SIZE]
    return np.uint8(255 * np.exp(-(((x - 24) / 9) ** 2) - ((y - 30) / 5) ** 2))


def draw(transforms: Transforms, seed: int) -> TransformRecord:
    return draw_transform(transforms, np.random.default_rng(seed))


# --- extraction


@pytest.mark.parametrize("extractor", ["canny", "soft"])
def test_a_step_gives_one_edge_at_the_step(extractor: str) -> None:
    step = np.zeros((32, 32, 3), dtype=np.uint8)
    step[:, 16:] = 255
    edges = canny(step, 50, 120, 0.8) if extractor == "canny" else soft(step, 0.8)
    assert edges.dtype == np.uint8 and edges.shape == (32, 32)
    assert set(edges.argmax(axis=1)) <= {15, 16}
    assert not edges[:, :10].any() and not edges[:, 22:].any()
    if extractor == "canny":
        assert (np.count_nonzero(edges, axis=1) == 1).all()
        assert set(np.unique(edges)) == {0, 255}


def test_soft_edges_are_graded_and_a_flat_picture_has_none() -> None:
    picture = np.zeros((32, 32, 3), dtype=np.uint8)
    picture[:, 8:] = 60
    picture[:, 20:] = 200
    edges = soft(picture, 1.0)
    weak, strong = edges[16, 6:10].max(), edges[16, 18:22].max()
    assert strong > weak + 50 > 50
    assert not soft(np.full((32, 32, 3), 127, dtype=np.uint8), 1.0).any()
    # One grey level of noise must not be blown up to white.
    noise = np.random.default_rng(0).integers(127, 129, (32, 32, 3), dtype=np.uint8)
    assert soft(noise, 1.0).max() < 80


def test_soft_sees_edges_of_equal_brightness() -> None:
    picture = np.zeros((32, 32, 3), dtype=np.uint8)
    picture[:, :16] = (200, 0, 0)
    picture[:, 16:] = (0, 102, 0)  # the same grey
    assert soft(picture, 0.8)[16, 14:18].max() > 200


@pytest.mark.parametrize("extractor", ["canny", "soft"])
def test_padding_gives_no_edges(extractor: str) -> None:
    bright = np.full((20, 80, 3), 230, dtype=np.uint8)
    recipe = Contours(extractor=extractor)
    assert not extract(bright, recipe, 64).any()
    bright[:, 40:] = 20
    contour = extract(bright, recipe, 64)
    assert contour.shape == (64, 64)
    assert not contour[:24].any() and not contour[40:].any()
    assert contour[24:40, 30:34].any()
    assert edge_fraction(np.full((2, 2), 51, dtype=np.uint8)) == pytest.approx(0.2)


# --- transforms


@pytest.mark.parametrize("picture", [lines, graded])
def test_identity_and_double_flip(picture) -> None:
    contour = picture()
    assert (apply_transform(contour, transform()) == contour).all()
    flip = transform(flip=True)
    once = apply_transform(contour, flip)
    assert (once == np.fliplr(contour)).all()
    assert (apply_transform(once, flip) == contour).all()


@pytest.mark.parametrize("picture", [lines, graded])
@pytest.mark.parametrize("transforms", [Transforms(), WILD])
def test_a_record_redoes_its_transform(picture, transforms: Transforms) -> None:
    for seed in range(4):
        record = draw(transforms, seed)
        again = parse(json.loads(json.dumps(record.plain())), TransformRecord, "a row")
        assert again == record
        moved = apply_transform(picture(), record)
        assert moved.tobytes() == apply_transform(picture(), again).tobytes()
        assert (moved != picture()).any()


def test_a_known_rotation_of_a_point() -> None:
    # Right of the centre goes above it by a quarter turn counter-clockwise; y points down.
    turned = project(similarity(False, 1.0, 90.0, 1.0, 0.0, 0.0), np.array([[0.25, 0.0]]))
    assert np.allclose(turned, [[0.0, -0.25]])
    dot = np.zeros((SIZE, SIZE), dtype=np.uint8)
    dot[32, 48] = 255  # centre at (16.5, 0.5) pixels from the middle
    moved = apply_transform(dot, transform(rotation=90.0))
    assert np.argwhere(moved).tolist() == [[15, 32]]  # (0.5, -16.5): row 32 - 17, column 32
    soft_dot = dot // 2
    moved = apply_transform(soft_dot, transform(rotation=90.0))
    assert np.unravel_index(moved.argmax(), moved.shape) == (15, 32)


def test_order_flip_stretch_rotate_scale_shift_by_hand() -> None:
    matrix = similarity(True, 4.0, 90.0, 0.5, 0.1, -0.2)
    # (0.2, 0.1) -flip-> (-0.2, 0.1) -stretch x2, /2-> (-0.4, 0.05) -turn-> (0.05, 0.4)
    # -scale-> (0.025, 0.2) -shift-> (0.125, 0.0)
    assert np.allclose(project(matrix, np.array([[0.2, 0.1]])), [[0.125, 0.0]])


def test_corner_shifts_land_where_they_say() -> None:
    corners = ((0.01, 0.02), (-0.03, 0.0), (0.0, -0.01), (0.02, 0.02))
    moved = project(homography(transform(corners=corners)), np.array(CORNERS))
    assert np.allclose(moved, np.array(CORNERS) + np.array(corners))


def test_translation_moves_whole_pixels_and_brings_in_black() -> None:
    moved = apply_transform(lines(), transform(dx=4 / SIZE, dy=-8 / SIZE))
    expected = np.zeros_like(moved)
    expected[:-8, 4:] = lines()[8:, :-4]
    assert (moved == expected).all()
    graded_moved = apply_transform(graded(), transform(dx=4 / SIZE))
    assert np.abs(graded_moved[:, 4:].astype(int) - graded()[:, :-4]).max() <= 8
    assert not graded_moved[:, :3].any()


@pytest.mark.parametrize("record", [transform(rotation=30.0), transform(scale=1.6)])
def test_binary_lines_stay_thin_whole_and_binary(record: TransformRecord) -> None:
    line = np.zeros((SIZE, SIZE), dtype=np.uint8)
    line[32, 14:50] = 255
    moved = apply_transform(line, record)
    assert set(np.unique(moved)) == {0, 255}
    columns = np.flatnonzero(moved.any(axis=0))
    assert (np.diff(columns) == 1).all()
    angle = np.deg2rad(record.rotation)
    assert len(columns) == pytest.approx(36 * np.cos(angle) * record.scale, abs=2)
    assert np.count_nonzero(moved) <= 1.15 * len(columns)


def test_a_step_of_a_line_is_not_cut_short() -> None:
    step = np.zeros((SIZE, SIZE), dtype=np.uint8)
    step[31, 31] = step[31, 32] = step[32, 32] = 255
    moved = apply_transform(step, transform(scale=8.0))
    assert np.count_nonzero(moved) == 8 + 8 + 1  # two straight pieces, no diagonal


def test_soft_contours_stay_graded() -> None:
    moved = apply_transform(graded(), transform(rotation=20.0, scale=0.9))
    assert len(np.unique(moved)) > 50
    assert moved.max() > 200


def test_a_far_shift_leaves_nothing() -> None:
    for contour in (lines(), graded()):
        assert not apply_transform(contour, transform(dx=2.0)).any()


def test_anisotropy_by_hand() -> None:
    assert anisotropy(similarity(True, 1.0, 33.0, 0.7, 0.1, 0.2)) == pytest.approx(1.0)
    assert anisotropy(similarity(False, 1.2, 33.0, 0.7, 0.0, 0.0)) == pytest.approx(1.2)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    perspective=st.floats(0, 0.5),
    aspect=st.floats(0, 0.03),
    rotation=st.floats(0, 180),
)
def test_default_family_keeps_proportions(
    seed: int, perspective: float, aspect: float, rotation: float
) -> None:
    transforms = Transforms(perspective=perspective, aspect=aspect, rotation=rotation)
    record = draw(transforms, seed)
    assert record.stretch == 1.0 and record.elastic == ()
    # Singular values of the Jacobian by central differences, independent of the code's formula.
    matrix, step = homography(record), 1e-5
    line = np.linspace(-0.5, 0.5, 13)
    points = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    dx, dy = np.array([step, 0.0]), np.array([0.0, step])
    jacobians = np.stack(
        [project(matrix, points + d) - project(matrix, points - d) for d in (dx, dy)], axis=-1
    )
    values = np.linalg.svd(jacobians / (2 * step), compute_uv=False)
    assert (values[:, 0] / values[:, 1]).max() <= 1 + aspect + 1e-6


def test_default_perspective_is_bounded_but_not_idle() -> None:
    shifts = [np.abs(draw(Transforms(), seed).corners).max() for seed in range(50)]
    assert max(shifts) <= 0.02
    assert np.median(shifts) > 0.004
    # Without the shrinking many draws would break the bound.
    bent = [anisotropy(homography(draw(Transforms(), seed))) for seed in range(50)]
    assert max(bent) > 1.02


def test_settings_reach_their_part_alone() -> None:
    base = draw(Transforms(), 3)
    turned = draw(Transforms(rotation=0.0), 3)
    assert turned.rotation == 0.0
    assert (turned.flip, turned.scale, turned.dx) == (base.flip, base.scale, base.dx)
    assert draw(Transforms(flip=0.0), 3).flip is False
    assert draw(Transforms(flip=1.0), 3).flip is True
    scales = [draw(Transforms(), seed).scale for seed in range(100)]
    assert 0.85 <= min(scales) < 0.88 and 1.07 < max(scales) <= 1.1
    stretches = [draw(WILD, seed).stretch for seed in range(50)]
    assert 1 / 1.2 <= min(stretches) < 0.9 and 1.1 < max(stretches) <= 1.2


def test_elastic_moves_points_as_its_lookup_says() -> None:
    record = transform(elastic=draw(Transforms(elastic=0.15), 1).elastic)
    assert np.abs(record.elastic).max() > 0.01
    dot = np.zeros((SIZE, SIZE), dtype=np.uint8)
    dot[20, 40] = 255
    (redrawn,) = np.argwhere(apply_transform(dot, record))
    spread = apply_transform(dot // 2, record).astype(float)
    centre = np.array(np.meshgrid(*[np.arange(SIZE)] * 2, indexing="ij")).reshape(2, -1)
    resampled = (centre * spread.ravel()).sum(axis=1) / spread.sum()
    assert np.abs(redrawn - resampled).max() < 0.8
    assert np.abs(redrawn - [20, 40]).max() > 0


@pytest.mark.parametrize(
    "change", [{"scale": "big"}, {"dx": float("nan")}, {"corners": [[0, 0]]}, {"extra": 1}]
)
def test_broken_records_are_refused(change: dict) -> None:
    with pytest.raises(UserError, match="higfa contours"):
        parse({**IDENTITY.plain(), **change}, TransformRecord, "a row")
