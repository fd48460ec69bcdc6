"""Split files as people have them: what has one meaning is read, the rest is named."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from higfa_cli.data.dataset import Dataset, load_dataset
from higfa_cli.errors import UserError
from higfa_cli.recipe.data import Data
from tests.support.folders import lines, put

HEADER = "path,class,split"


def birds(root: Path, form: str = "NFC") -> list[str]:
    """Six photos of two classes below `root`/birds, their names in a Unicode form; and the list."""
    rows = [HEADER]
    for cls in ("Mésange", "Wren"):
        for n in range(6):
            put(root / "birds", unicodedata.normalize(form, f"{cls}/é{n}.jpg"))
            rows.append(f"{cls}/é{n}.jpg,{cls},{'train' if n < 4 else 'test'}")
    return rows


def load(root: Path, rows: list[str], encoding: str = "utf-8") -> Dataset:
    lines(root / "s.csv", *rows, encoding=encoding)
    data = load_dataset(Data(root="birds", split_file="s.csv"), root, 0)
    assert data.classes == ("Mésange", "Wren")
    assert [len(data.of(split)) for split in ("train", "val", "test")] == [8, 0, 4]
    assert all(sample.path.is_file() for sample in data.samples)
    return data


@pytest.mark.fault(
    "lists",
    "lists saved by a spreadsheet, or written on another system",
    "read where they have one meaning, named where not",
)
@pytest.mark.parametrize(
    "change",
    [
        lambda row: row.replace(",", ";"),
        lambda row: row.replace(",", "\t"),
        lambda row: row + "\r",
        lambda row: row.replace(",train", ",Train").replace(",test", ",TESTING"),
        lambda row: row.replace("path,class,split", "Path, Class ,SPLIT"),
        lambda row: row.replace("/", "\\"),
        lambda row: f"./{row}" if "/" in row else row,
        lambda row: row.replace(".jpg", ".JPG"),
        lambda row: f"birds/{row}" if "/" in row else row,
        lambda row: f"{row},note",
        lambda row: unicodedata.normalize("NFD", row),
    ],
)
def test_what_has_one_meaning_is_read(tmp_path: Path, change) -> None:
    load(tmp_path, [change(row) for row in birds(tmp_path)])


@pytest.mark.fault("lists", "lists saved by a spreadsheet, or written on another system")
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_encodings_that_say_so_are_read(tmp_path: Path, encoding: str) -> None:
    load(tmp_path, birds(tmp_path), encoding)


@pytest.mark.fault("lists", "lists saved by a spreadsheet, or written on another system")
def test_empty_rows_are_no_photos(tmp_path: Path) -> None:
    load(tmp_path, [*birds(tmp_path), ",,", "", " , ,"])


@pytest.mark.fault("lists", "names in another Unicode form than the files", "found")
def test_names_are_found_in_either_unicode_form(tmp_path: Path) -> None:
    data = load(tmp_path, birds(tmp_path, "NFD"))
    assert all(unicodedata.is_normalized("NFD", sample.key) for sample in data.samples)


@pytest.mark.fault("lists", "absolute paths below the data folder", "read")
def test_absolute_paths_below_the_root_are_read(tmp_path: Path) -> None:
    header, *rows = birds(tmp_path)
    data = load(tmp_path, [header, *(f"{tmp_path}/birds/{row}" for row in rows)])
    assert data.samples[0].key == "Mésange/é0.jpg"
    with pytest.raises(UserError, match="leaves the data folder"):
        load(tmp_path, [header, *rows, "/etc/passwd,Wren,train"])


@pytest.mark.fault("lists", "lists saved by a spreadsheet, or written on another system")
@pytest.mark.parametrize(
    ("rows", "encoding", "words"),
    [
        (birds, "cp1252", ["line 2 is not UTF-8", "CSV UTF-8"]),
        (lambda root: ["image,label", *birds(root)[1:]], "utf-8", ["no column `path`", "image,la"]),
        (lambda root: [*birds(root), "Wren/gone.jpg,Wren,test"], "utf-8", ["line 14", "gone.jpg"]),
        (lambda root: [*birds(root), "Wren/é0.JPG,Wren,test"], "utf-8", ["already in", "line 8"]),
        (lambda root: [*birds(root), "Wren/é0.jpg,Wren,soon"], "utf-8", ["`soon`", "train, val"]),
    ],
)
def test_what_has_none_is_named(tmp_path: Path, rows, encoding: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, rows(tmp_path), encoding)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.fault("lists", "two files that a name could mean", "neither is taken")
def test_an_unclear_name_is_not_guessed(tmp_path: Path) -> None:
    put(tmp_path / "birds", "a/x.jpg", "a/X.JPG")
    lines(tmp_path / "s.csv", HEADER, "a/x.Jpg,a,train")
    with pytest.raises(UserError, match=r"no image .*x\.Jpg"):
        load_dataset(Data(root="birds", split_file="s.csv"), tmp_path, 0)


@pytest.mark.fault("lists", "classes that are also names of other folders", "the list is right")
def test_a_list_says_the_class_whatever_the_folders(tmp_path: Path) -> None:
    rows = [HEADER]
    for make, model in (("1", "1"), ("1", "78"), ("78", "3"), ("7", "12")):
        put(tmp_path / "cars", *(f"{make}/{model}/2014/{n}.jpg" for n in range(4)))
        rows += [f"{make}/{model}/2014/{n}.jpg,{model},train" for n in range(4)]
    lines(tmp_path / "s.csv", *rows)
    data = load_dataset(Data(root="cars", split_file="s.csv"), tmp_path, 0)
    assert data.classes == ("1", "12", "3", "78")
    lines(tmp_path / "s.csv", *rows[:-1], "7/12/2014/3.jpg,112,train")
    with pytest.raises(UserError, match=r"unknown class `112`.*did you mean `12`"):
        load_dataset(Data(root="cars", split_file="s.csv"), tmp_path, 0)
