"""How many pictures each class is given: as the photos, a number, or up to a total."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from higfa_cli.artifacts.plan import make_plan, sample
from higfa_cli.artifacts.seeds import seed_for
from higfa_cli.errors import UserError
from higfa_cli.forecast.doctor import doctor
from higfa_cli.forecast.estimate import count_pictures
from higfa_cli.recipe.contours import Contours
from higfa_cli.recipe.data import Data
from higfa_cli.recipe.drawing import Model, Pictures
from higfa_cli.recipe.load import load_recipe
from higfa_cli.recipe.schema import Recipe
from higfa_cli.stages import contours
from higfa_cli.stages.context import Context, make_context
from higfa_cli.stages.inputs import synthesize_inputs
from higfa_cli.stages.plan import plan
from higfa_cli.stages.recipe_checks import check_run
from tests.support.folders import put
from tests.support.shapes import contour_row

PHOTOS = {"common": 21, "middle": 8, "one": 1, "rare": 4}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """Two contours of every photo of a long tail."""
    root = tmp_path_factory.mktemp("tail")
    for cls, count in PHOTOS.items():
        put(root, f"photos/train/{cls}/{{{count}}}.png")
    recipe = Recipe(
        name="tail",
        data=Data(root="photos"),
        size=32,
        contours=Contours(per_image=2),
        model=Model(base="m", controlnet="c"),
    )
    ctx = Context(recipe=recipe, base=root, workspace=root / "ws")
    contours.run(ctx)
    return ctx


def asking(ctx: Context, **pictures: Any) -> Context:
    return replace(ctx, recipe=ctx.recipe.model_copy(update={"pictures": Pictures(**pictures)}))


def counts(ctx: Context, **pictures: Any) -> dict[str, int]:
    """Pictures per class of the plan; as counted before and after the contours."""
    ctx = asking(ctx, **pictures)
    items = plan(ctx)
    assert len({item.seed for item in items}) == len({item.file_name for item in items})
    assert len({(i.source, i.replica) for i in items}) == len(items)
    by_class = dict(Counter(item.cls for item in items))
    for workspace in (ctx.workspace, ctx.workspace / "nothing"):
        counted = count_pictures(replace(ctx, workspace=workspace))
        assert (counted.images, counted.classes) == (len(items), len(by_class))
    return by_class


@pytest.mark.fault(
    "numbers",
    "classes of very different size",
    "a key gives every class so many pictures, or fills photos and pictures up to a total",
)
@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ({}, {"common": 42, "middle": 16, "one": 2, "rare": 8}),
        ({"per_contour": 3}, {"common": 126, "middle": 48, "one": 6, "rare": 24}),
        ({"per_class": 20}, dict.fromkeys(PHOTOS, 20)),
        ({"per_class": 1}, dict.fromkeys(PHOTOS, 1)),
        ({"total_per_class": 21}, {"middle": 13, "one": 20, "rare": 17}),
        ({"total_per_class": 10}, {"middle": 2, "one": 9, "rare": 6}),
        ({"total_per_class": 50}, {"common": 29, "middle": 42, "one": 49, "rare": 46}),
    ],
)
def test_pictures_per_class(drawn: Context, keys: dict[str, int], wanted: dict[str, int]) -> None:
    assert counts(drawn, **keys) == wanted


@pytest.mark.fault("numbers", "classes of very different size")
def test_pictures_are_spread_over_the_photos(drawn: Context) -> None:
    for number in (5, 8, 9, 20, 43):
        items = plan(asking(drawn, per_class=number))
        for cls, photos in PHOTOS.items():
            of_photo = Counter(item.source for item in items if item.cls == cls)
            of_contour = Counter(item.contour for item in items if item.cls == cls)
            every = [*of_contour.values(), *[0] * (2 * photos - len(of_contour))]
            assert max(every) - min(every) <= 1
            assert len(of_photo) == min(photos, number)
    more = {item.id for item in plan(asking(drawn, per_class=2))}
    assert more > {item.id for item in plan(asking(drawn, per_class=1))}


def test_as_the_photos_is_as_it_was() -> None:
    """The seeds and their order, by the formula."""
    rows = [contour_row(source=s, index=i, file_name=f"{s}{i}") for s in "ba" for i in (1, 0, 2)]
    for again in (1, 2):
        items = make_plan(rows, {"a": ["p"]}, "", {"a": 6 * again}, 7)
        replicas = [(s, i, i * again + k) for s in "ab" for i in range(3) for k in range(again)]
        assert [(i.contour, i.seed) for i in items] == [
            (f"{s}{i}", seed_for(7, "image", "a", s, replica)) for s, i, replica in replicas
        ]


@pytest.mark.fault("numbers", "classes of very different size")
def test_a_total_that_all_have_is_refused_at_once(drawn: Context) -> None:
    ctx = asking(drawn, total_per_class=21)
    assert len(sample(plan(ctx), 8, 0)) == 8
    ctx = asking(replace(drawn, workspace=drawn.workspace / "nothing"), total_per_class=1)
    for refused in (lambda: check_run(ctx, ["synthesize"]), lambda: count_pictures(ctx)):
        with pytest.raises(UserError, match="nothing to draw; raise it"):
            refused()
    rows = {row["check"]: row for row in doctor(ctx, "")["checks"]}
    assert rows["data"]["status"] == "failed" and rows["data"]["remedy"] == "raise it"
    assert "nothing to draw" not in rows["memory"]["detail"]


def test_two_numbers_are_refused() -> None:
    for keys in ({"per_class": 2, "total_per_class": 3}, {"per_class": 2, "per_contour": 2}):
        with pytest.raises(ValidationError, match="give one of `per_contour`, `per_class`"):
            Pictures(**keys)
    resolved = Pictures(per_class=2).model_dump(mode="json")
    assert Pictures(**resolved) == Pictures(per_class=2)


def test_published_sizes_are_counted(tmp_path: Path) -> None:
    def images(*overrides: str) -> int:
        loaded = load_recipe("aircraft-sdxl", ("pictures.per_contour=1", *overrides))
        return count_pictures(make_context(loaded, tmp_path / "ws")).images

    assert images("pictures.per_class=50") == 100 * 50
    assert images("pictures.total_per_class=50") == 100 * 50 - 3334
    assert images("pictures.total_per_class=50", "data.shots=5") == 100 * 45


def test_the_keys_make_pictures_stale_and_nothing_else_does(drawn: Context) -> None:
    """A workspace whose recipe names none of them keeps its inputs."""

    def parameters(**pictures: Any) -> Any:
        ctx = replace(asking(drawn, **pictures), base=drawn.base)
        (drawn.base / "m").mkdir(exist_ok=True)
        (drawn.base / "c").mkdir(exist_ok=True)
        recipe = ctx.recipe.model_copy(update={"guidance": ctx.recipe.guidance.switched(1.0)})
        return synthesize_inputs(replace(ctx, recipe=recipe).arm("text+contour")).parameters

    assert parameters()["pictures"] == {"per_contour": 1, "sample": None}
    assert parameters(per_class=3)["pictures"]["per_class"] == 3
    assert parameters(total_per_class=3)["train"] == PHOTOS
