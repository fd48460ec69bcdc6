"""Prompt banks and class words that higfa ships, and the user's own bank files."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from torchvision.datasets import Flowers102

from higfa_cli.data.prompts import (
    BANKS,
    default_words,
    load_words,
    negative_for,
    prompts_for,
    templates_for,
)
from higfa_cli.errors import UserError
from higfa_cli.recipe.data import Prompts
from higfa_cli.recipe.refs import WORDS, resolve_ref

DATA = Path(__file__).resolve().parent.parent / "higfa_cli" / "data"
CLASSES = ("daisy", "747")
NOUNS = {"birds": "bird", "cars": "car", "dogs": "dog", "flowers": "flower", "textures": "texture"}
# More words, digits and punctuation than any shipped name has.
LONGEST = "Fairchild Swearingen SA-227 Metroliner twin turboprop regional commuter airliner"


def bank(name: str) -> tuple[str, ...]:
    return templates_for(Prompts(bank=name), ["x"], Path())["x"]


def words_of(name: str) -> dict[str, str]:
    path = resolve_ref(f"words:{name}", Path())
    assert isinstance(path, Path)
    return load_words(path)


def plain(text: str) -> str:
    """Lower case, letters and digits alone: what is left equal is the same scene twice."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def token_bound(text: str) -> int:
    """An estimate from above of CLIP's tokens, whose merges are not here to count with.

    CLIP makes every digit and every run of punctuation one token, a common English word one and
    a rarer one two or three: two per word on average is generous. Start and end are two more.
    """
    words = re.findall(r"[^\W\d_]+", text)
    rest = re.findall(r"\d|[^\w\s]+|_+", text)
    return 2 * len(words) + len(rest) + 2


# --- shipped banks


def test_every_bank_file_has_its_name_in_the_list() -> None:
    assert sorted(path.stem for path in (DATA / "banks").glob("*.yaml")) == list(BANKS)
    assert sorted(path.stem for path in (DATA / "words").glob("*.yaml")) == list(WORDS)


def test_the_wheel_takes_every_data_file_along() -> None:
    project = tomllib.loads((DATA.parent.parent / "pyproject.toml").read_text(encoding="utf-8"))
    globs = project["tool"]["setuptools"]["package-data"]["higfa_cli.data"]
    taken = {path for pattern in globs for path in DATA.glob(pattern)}
    assert taken == set(DATA.rglob("*.yaml"))
    assert len(taken) == len(BANKS) + len(WORDS)


@pytest.mark.parametrize("name", BANKS)
def test_a_bank_has_many_different_scenes(name: str) -> None:
    templates = bank(name)
    assert len(templates) >= 64
    assert len({plain(t) for t in templates}) == len(templates)
    scenes = {plain(t.partition("{words}")[2]) for t in templates}
    assert len(scenes - {""}) >= 60
    vocabulary = {word for t in templates for word in plain(t).split()}
    assert len(vocabulary) >= 100


@pytest.mark.parametrize("name", BANKS)
def test_every_template_is_short_and_names_the_class_once(name: str) -> None:
    for template in bank(name):
        assert template.count("{words}") == 1, template
        assert not re.search(r"[{}%<>()\[\]]", template.replace("{words}", "")), template
        assert len(template.replace("{words}", " ").split()) <= 25, template
        assert token_bound(template.replace("{words}", LONGEST)) < 77, template
        assert NOUNS.get(name, "") in plain(template).split() or name not in NOUNS, template
        assert re.search(r"photo|snapshot|shot|print|scan", template), template


@pytest.mark.parametrize("name", BANKS)
def test_a_bank_has_a_short_negative_prompt_for_more_than_one_thing(name: str) -> None:
    negative = negative_for(Prompts(bank=name), Path())
    assert "\n" not in negative
    assert "{words}" not in negative
    assert len(negative.split(", ")) >= 8
    assert token_bound(negative) < 77


def test_the_token_bound_counts_what_it_says() -> None:
    assert token_bound("a Boeing 737-800, at dusk") == 2 * 4 + 6 + 2 + 2


def test_no_shipped_words_are_longer_than_the_bound_assumes() -> None:
    every = [words for name in WORDS for words in words_of(name).values()]
    assert max(map(token_bound, every)) <= token_bound(LONGEST)


# --- shipped class words


@pytest.mark.parametrize(
    ("name", "count"), [("fgvc-aircraft", 100), ("flowers102", 102), ("oxford-pets", 37)]
)
def test_shipped_words_are_complete_and_different(name: str, count: int) -> None:
    words = words_of(name)
    assert len(words) == count
    assert len({plain(text) for text in words.values()}) == count
    assert all(re.search(r"[A-Za-z]{3}", text) for text in words.values())
    assert all(text == " ".join(text.split()) for text in words.values())


def test_aircraft_words_keep_the_variant_and_say_what_it_is() -> None:
    words = words_of("fgvc-aircraft")
    assert list(words) == sorted(words)
    assert {"737-800", "BAE 146-200", "F-16A/B", "F/A-18", "Hawk T1", "Il-76"} <= set(words)
    assert words["737-800"] == "Boeing 737-800 airliner"
    kinds = ("airliner", "jet", "aircraft", "plane", "biplane")
    for name, text in words.items():
        assert text.endswith(kinds), text
        digits = re.search(r"\d+", name)
        assert digits is None or digits[0] in text, (name, text)


def test_flower_words_are_the_published_names_in_their_order() -> None:
    words = words_of("flowers102")
    assert list(words) == [str(number) for number in range(1, 103)]
    differing = {a: b for a, b in zip(Flowers102.classes, words.values(), strict=True) if a != b}
    assert differing == {
        "barbeton daisy": "barberton daisy",
        "pink-yellow dahlia?": "pink-yellow dahlia",
    }


def test_pet_words_name_cats_by_capital_keys_and_dogs_by_small_ones() -> None:
    words = words_of("oxford-pets")
    assert list(words) == sorted(words)
    assert sum(text.endswith(" cat") for text in words.values()) == 12
    assert sum(text.endswith(" dog") for text in words.values()) == 25
    for name, text in words.items():
        assert name[0].isupper() == text.endswith(" cat"), name
        assert plain(default_words(name)).split()[0] in plain(text).split(), name
        assert text[0].isupper()
    assert words["american_bulldog"] == "American Bulldog dog"


@pytest.mark.parametrize(
    ("ref", "match"),
    [
        ("words:oxford-pet", "unknown reference `words:oxford-pet`; did you mean `words:oxford-p"),
        ("words:xyz", "known are fgvc-aircraft, flowers102, oxford-pets"),
        ("words:../banks/birds", "unknown reference"),
        ("words:", "known are"),
        ("pocket:aircraf", "did you mean `pocket:aircraft`"),
    ],
)
def test_an_unknown_shipped_name_is_refused_with_the_nearest(ref: str, match: str) -> None:
    with pytest.raises(UserError, match=match):
        resolve_ref(ref, Path())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("n02085620-Chihuahua", "Chihuahua"),
        ("n02088094-Afghan_hound", "Afghan hound"),
        ("n02096294-Australian_terrier", "Australian terrier"),
        ("n02105855-Shetland-sheepdog", "Shetland sheepdog"),
        ("n0208562-Chihuahua", "n0208562-Chihuahua"),
        ("n02085620-", "n02085620-"),
    ],
)
def test_a_wordnet_number_is_no_word(name: str, words: str) -> None:
    assert default_words(name) == words


# --- the user's own file


def own(tmp_path: Path, text: str) -> Prompts:
    (tmp_path / "bank.yaml").write_text(text, encoding="utf-8")
    return Prompts(bank="bank.yaml")


def test_without_a_bank_the_recipes_templates_are_every_classes(tmp_path: Path) -> None:
    prompts = Prompts(templates=("one {words}", "two {words}"))
    expected = ("one {words}", "two {words}")
    assert templates_for(prompts, CLASSES, tmp_path) == dict.fromkeys(CLASSES, expected)
    assert negative_for(prompts, tmp_path) == ""


def test_a_list_and_a_mapping_serve_every_class(tmp_path: Path) -> None:
    expected = dict.fromkeys(CLASSES, ("a {words}", "the {words}, 100 % real"))
    lines = "- a {words}\n- ' the {words}, 100 % real '\n"
    assert templates_for(own(tmp_path, lines), CLASSES, tmp_path) == expected
    assert negative_for(own(tmp_path, lines), tmp_path) == ""
    mapping = own(tmp_path, f"negative: ' dull '\ntemplates:\n{lines}")
    assert templates_for(mapping, CLASSES, tmp_path) == expected
    assert negative_for(mapping, tmp_path) == "dull"


def test_a_list_per_class_may_leave_the_words_out(tmp_path: Path) -> None:
    text = "747:\n  - a {words} at dusk\n  - a jumbo jet\ndaisy: [no]\n"
    prompts = own(tmp_path, text)
    expected = {"daisy": ("no",), "747": ("a {words} at dusk", "a jumbo jet")}
    assert templates_for(prompts, CLASSES, tmp_path) == expected
    assert negative_for(prompts, tmp_path) == ""
    filled = prompts_for(prompts, {"daisy": "a daisy", "747": "Boeing {0}"}, tmp_path)
    assert filled == {"daisy": ("no",), "747": ("a Boeing {0} at dusk", "a jumbo jet")}


def test_class_names_agree_in_either_unicode_form(tmp_path: Path) -> None:
    prompts = own(tmp_path, "cafe\u0301: [a cup]\n")
    assert templates_for(prompts, ["caf\u00e9"], tmp_path) == {"caf\u00e9": ("a cup",)}


def test_the_recipes_negative_wins_even_when_empty(tmp_path: Path) -> None:
    own(tmp_path, "templates: ['a {words}']\nnegative: dull\n")
    for given in ("", "blurry"):
        assert negative_for(Prompts(bank="bank.yaml", negative=given), tmp_path) == given
    assert negative_for(Prompts(bank="bank.yaml"), tmp_path) == "dull"
    assert negative_for(Prompts(negative="blurry"), tmp_path) == "blurry"


def test_a_shipped_bank_may_be_copied_and_changed(tmp_path: Path) -> None:
    text = (DATA / "banks" / "birds.yaml").read_text(encoding="utf-8")
    assert templates_for(own(tmp_path, text), ["x"], tmp_path)["x"] == bank("birds")
    assert yaml.safe_load(text)["templates"] == list(bank("birds"))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("- a {words}\n- a photo\n", r"template 2 \(`a photo`\) has no \{words\}; write it as"),
        ("templates: [a photo]\n", r"template 1 .* has no \{words\}"),
        ("- a {words}: at dusk\n", "template 1 is not text; put it in quotes"),
        ("- {words}\n", "template 1 is not text; put it in quotes"),
        ("- {words} at dusk\n", "line 1: .* needs quotes"),
        ("- ''\n", "template 1 .* is empty"),
        ("- a {words}\n-\n", "template 2 .* is empty"),
        ("[]\n", "list of templates is empty; add one"),
        ("{}\n", "no list of templates; write a list"),
        ("", "no list of templates; write a list"),
        ("a {words}\n", "no list of templates; write a list"),
        ("templates: []\n", "list of templates is empty"),
        ("templates: a {words}\n", "no list of templates"),
        ("templates: ['{words}']\nnegativ: x\n", "`negativ` does not.*mean `negative`"),
        ("templates: ['{words}']\nnegative: [x]\n", "`negative` must be one text"),
        (
            "templates: ['{words}']\ntemplates: ['{words}']\n",
            "line 2: key `templates` appears twice",
        ),
        ("daisy: [x]\n", r"class `747` has no templates .*; add `\"747\":`"),
        ("daisy: [x]\n747: []\n", "class `747`: the list of templates is empty"),
        ("daisy: [x]\n747:\n", "class `747`: there is no list of templates"),
        ("daisy: [x]\n747: y\n", "class `747`: there is no list of templates"),
        ("daisy: [x, ' ']\n747: [y]\n", "class `daisy`: template 2 .* is empty"),
        ("daisy: [x, [z]]\n747: [y]\n", "class `daisy`: template 2 is not text"),
        ("dasy: [x]\n747: [y]\n", "unknown class `dasy`.*did you mean `daisy`"),
        ("daisy: [x]\n747: [y]\nnegative: z\n", r"move it to the recipe, prompts\.neg"),
        ("daisy: [x]\ndaisy: [z]\n747: [y]\n", "line 2: key `daisy` appears twice"),
        ("cafe\u0301: [x]\ncaf\u00e9: [y]\n", "class `caf\u00e9` occurs twice"),
        ("daisy: [\n", "line 2: expected the node content"),
        ("? [a]\n: [b]\n", "line 1: key .* is not a text"),
    ],
)
def test_a_broken_bank_names_file_place_and_remedy(tmp_path: Path, text: str, match: str) -> None:
    prompts = own(tmp_path, text)
    with pytest.raises(UserError, match=match) as caught:
        templates_for(prompts, CLASSES, tmp_path)
    assert "bank.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("bird", "`bird` is neither a shipped bank .nearest: birds.*correct prompts"),
        ("xyz", "nearest: aircraft, birds, cars"),
        ("./nowhere.yaml", r"prompts\.bank: \./nowhere\.yaml does not exist"),
        ("folder", r"folder cannot be read; correct prompts\.bank"),
        ("latin.yaml", r"latin\.yaml cannot be read"),
    ],
)
def test_a_bank_that_is_not_there_is_named(tmp_path: Path, name: str, match: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "latin.yaml").write_bytes("- caf\u00e9 {words}\n".encode("latin-1"))
    for ask in (lambda p: templates_for(p, CLASSES, tmp_path), lambda p: negative_for(p, tmp_path)):
        with pytest.raises(UserError, match=match):
            ask(Prompts(bank=name))
