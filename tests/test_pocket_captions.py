"""Captions that name airlines: at the recorded rate, of the web pool alone, nothing else new."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from tools.pocket.perfect import SCENERY, wanted_pictures
from tools.pocket.pocket_render.captions import AIRLINE_RATE, airline_names, draw_caption
from tools.pocket.pocket_render.catalogue import (
    AIRCRAFT_ROOT,
    Livery,
    load_catalogue,
    load_classes,
)
from tools.pocket.pocket_render.pools import load_pools
from tools.pocket.pocket_render.records import make_record, picture_id, write_records
from tools.pocket.pocket_render.views import draw_view, picture_rng
from tools.pocket.render import pool_liveries
from tools.pocket.train.words import without_airline

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "pocket-aircraft.yaml"
# Of the 780 pictures a class that were frozen before captions told airlines.
NAMELESS = "15c8bdd323c644260d4b1a4dee685955ec8e35297cae1bf3ec2a3cdb5c79cd13"


def test_only_web_airlines_have_a_name_to_tell() -> None:
    pools = load_pools()
    assert set(airline_names()) == {airline for airline, pool in pools.items() if pool == "web"}
    assert len(set(airline_names().values())) == len(airline_names())


def test_no_prompt_of_the_recipe_names_an_airline_that_is_not_of_the_web() -> None:
    prompts = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    told = json.dumps(prompts).lower()
    others = [airline for airline, pool in load_pools().items() if pool != "web"]
    squeezed = "".join(c for c in told if c.isalnum())
    assert not [a for a in others if len(a) > 5 and a in squeezed]


def test_half_of_the_captions_tell_the_airline_and_the_rest_is_as_without() -> None:
    classes, n, told = load_classes(), 1500, 0
    for k in range(n):
        with_name, without = (
            draw_caption(
                picture_rng(0, "web", "A319", k), classes["A319"], "at sunset", classes, name
            )
            for name in ("Aer Lingus", "")
        )
        assert (with_name.kind, with_name.words) == (without.kind, without.words)
        assert with_name.words in with_name.text and without.airline == ""
        row = {"caption": with_name.text, "caption_words": with_name.words}
        row["caption_airline"] = with_name.airline
        assert without_airline(row) == without.text
        if with_name.airline:
            told += 1
            assert "Aer Lingus" in with_name.text
        else:
            assert with_name == without
    # four standard errors of a binomial share
    assert told / n == pytest.approx(AIRLINE_RATE, abs=4 * (0.25 / n) ** 0.5)


def test_perfect_pictures_keep_the_pose_and_change_the_scenery() -> None:
    liveries = [Livery("A320", f"line {k}", "a.ac", f"{k}.png") for k in range(5)]
    wanted = wanted_pictures("A320", 3, liveries, photos=4, copies=3)
    assert [(w.photo, w.copy) for w in wanted] == [(p, c) for p in range(4) for c in range(3)]
    assert wanted == wanted_pictures("A320", 3, liveries, photos=4, copies=3)
    for one in wanted:
        pose = draw_view(picture_rng(0, "train", "A320", one.photo), sealed=False)
        same = {k: v for k, v in pose.__dict__.items() if k not in SCENERY}
        assert same == {k: v for k, v in one.view.__dict__.items() if k not in SCENERY}
        assert one.view.noise_seed != pose.noise_seed
    assert len({w.view.noise_seed for w in wanted}) == 12
    assert len({w.livery.airline for w in wanted}) > 1
    assert np.std([w.view.sun_azimuth for w in wanted]) > 1


@pytest.mark.skipif(not AIRCRAFT_ROOT.is_dir(), reason="needs flightgear-data-ai")
def test_without_airlines_the_first_records_are_those_of_the_first_world(tmp_path: Path) -> None:
    classes, rows = load_classes(), []
    for variant, aircraft in classes.items():
        number, liveries = list(load_catalogue()).index(variant), pool_liveries(variant, "web", 0)
        for i in range(780):
            rng = picture_rng(0, "web", variant, i)
            view, livery = draw_view(rng, sealed=False), liveries[i % len(liveries)]
            caption = draw_caption(rng, aircraft, view.scene, classes)
            identity = picture_id("web", number, i)
            row = make_record(identity, "web", aircraft, livery, view, caption)
            rows.append({name: value for name, value in row.items() if name != "caption_airline"})
    write_records(tmp_path / "records.jsonl", rows)
    found = hashlib.sha256((tmp_path / "records.jsonl").read_bytes()).hexdigest()
    assert found == NAMELESS
