"""The built-in recipes: valid, consistent, pinned, and honest about what was never run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import higfa_cli
from higfa_cli.data.layouts import layout_of
from higfa_cli.recipe.builtin import ALIASES, builtin_names, builtin_text
from higfa_cli.recipe.keys import check_key, parse_value
from higfa_cli.recipe.load import load_recipe, override_recipe
from higfa_cli.recipe.schema import Recipe

SHIPPED = Path(higfa_cli.__file__).parent / "data"
NAMES = builtin_names()
FULL = [name for name in NAMES if not name.startswith("pocket")]
COMMIT = re.compile(r"[0-9a-f]{40}")


def recipe(name: str) -> Recipe:
    return load_recipe(name).recipe


def header(name: str) -> str:
    """The comment at the head of a recipe, as one line without its marks."""
    text = builtin_text(name)[1]
    lines = text[: text.index("\nname:")].splitlines()
    assert all(line.startswith("#") for line in lines)
    return " ".join(line.lstrip("# ") for line in lines)


def test_the_promised_recipes_are_there() -> None:
    kinds = ("aircraft", "cub", "cars", "dogs", "flowers", "pets", "dtd")
    assert set(FULL) == {"aircraft-sd15", *(f"{kind}-sdxl" for kind in kinds)}
    for kind in kinds:
        assert ALIASES[kind] == f"{kind}-sdxl"
    main = load_recipe("aircraft")
    assert main.origin == "built-in aircraft-sdxl"
    assert "stable-diffusion-xl" in main.recipe.model.base
    assert "canny-sdxl" in main.recipe.model.controlnet
    assert not set(ALIASES) & set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_size_is_one_that_every_family_draws(name: str) -> None:
    settings = recipe(name)
    assert settings.name == name
    assert settings.size % 64 == 0


@pytest.mark.parametrize("name", FULL)
def test_data_is_a_published_dataset(name: str) -> None:
    data = recipe(name).data
    published = layout_of(data.layout)
    assert published is not None
    assert published.page in header(name)
    assert data.crop_bottom == (20 if data.layout == "fgvc-aircraft" else 0)


@pytest.mark.parametrize("name", FULL)
def test_bank_and_class_words_are_shipped(name: str) -> None:
    settings = recipe(name)
    assert (SHIPPED / "banks" / f"{settings.prompts.bank}.yaml").is_file()
    words = settings.data.class_words
    if words is not None:
        kind, _, file = words.partition(":")
        assert kind == "words" and (SHIPPED / "words" / f"{file}.yaml").is_file()


@pytest.mark.parametrize("name", FULL)
def test_hub_models_are_pinned_to_a_commit(name: str) -> None:
    settings = recipe(name).model
    for model, revision in (
        (settings.base, settings.revision),
        (settings.controlnet, settings.controlnet_revision),
    ):
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", model)
        assert revision is not None and COMMIT.fullmatch(revision)


@pytest.mark.parametrize("name", FULL)
def test_the_tiny_autoencoder_of_the_comment_fits_the_recipe(name: str) -> None:
    found = re.findall(r"^  # (gradient_autoencoder\w*): (\S+)$", builtin_text(name)[1], re.M)
    settings = load_recipe(name, [f"model.{key}={value}" for key, value in found]).recipe
    tiny = "madebyollin/taesdxl" if settings.size == 1024 else "madebyollin/taesd"
    assert settings.model.gradient_autoencoder == tiny
    assert COMMIT.fullmatch(settings.model.gradient_autoencoder_revision or "")


@pytest.mark.parametrize("name", NAMES)
def test_a_resolved_recipe_can_be_read_back_and_swept(name: str) -> None:
    settings = recipe(name)
    swept = override_recipe(settings, {"guidance.classifier.scale": 7.0})
    assert swept.guidance.classifier.scale == 7.0
    back = {"guidance.classifier.scale": settings.guidance.classifier.scale}
    assert override_recipe(swept, back) == settings


@pytest.mark.parametrize("name", FULL)
def test_the_header_says_untuned_and_how_to_tune(name: str) -> None:
    text = header(name)
    assert "UNTUNED" in text and "Open RAIL" in text
    assert f"higfa synthesize {name} --preview 16" in text
    sweep = re.search(rf"higfa synthesize {name} --sweep (\S+)=(\S+)", text)
    assert sweep is not None
    check_key(sweep[1], "header")
    values = [parse_value(sweep[1], value, "header") for value in sweep[2].split(",")]
    assert recipe(name).guidance.classifier.scale in values
    needs_mat = recipe(name).data.layout in ("stanford-cars", "stanford-dogs", "flowers102")
    assert ('pip install "higfa[mat]"' in text) == needs_mat


@pytest.mark.parametrize("name", FULL)
def test_classifiers_are_alike_and_seeds_are_three(name: str) -> None:
    settings = recipe(name)
    guide, downstream = settings.guide, settings.downstream
    assert (guide.backbone, guide.image_size) == (downstream.backbone, downstream.image_size)
    assert guide.pretrained and downstream.pretrained
    assert downstream.seeds == (0, 1, 2)
