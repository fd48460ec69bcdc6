"""Readers of public datasets as their authors pack them: tiny trees in the true file formats."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from higfa_cli.data.dataset import Dataset, load_dataset
from higfa_cli.data.layouts import CLASS_FOLDERS, layout_of
from higfa_cli.errors import UserError
from higfa_cli.recipe.data import Data, Layout
from tests.support.layouts import car_annotations, cells, dog_list, lines, mat, put

# --- the trees


def cub(root: Path) -> None:
    albatross, wren = "001.Black_footed_Albatross", "200.Common_Yellowthroat"
    names = [f"{albatross}/A_0001_1.jpg", f"{albatross}/A_0002_2.jpg", f"{wren}/C_0003_3.jpg"]
    put(root / "images", *names)
    lines(root / "classes.txt", f"1 {albatross}", f"200 {wren}")
    lines(root / "images.txt", *(f"{n} {name}" for n, name in enumerate(names, start=1)))
    lines(root / "image_class_labels.txt", "1 1", "2 1", "3 200")
    lines(root / "train_test_split.txt", "1 0", "2 1", "3 1")


def cars(root: Path) -> None:
    put(root / "cars_train", "00001.jpg", "00002.jpg")
    put(root / "cars_test", "00001.jpg")
    mat(
        root / "devkit/cars_meta.mat",
        class_names=cells("AM General Hummer SUV 2000", "Ram C/V Cargo Van Minivan 2012").T,
    )
    train = root / "devkit/cars_train_annos.mat"
    car_annotations(train, ("00001.jpg", 2), ("00002.jpg", 1))
    car_annotations(root / "cars_test_annos_withlabels.mat", ("00001.jpg", 2))


CHIHUAHUA, SPANIEL = "n02085620-Chihuahua", "n02085782-Japanese_spaniel"


def dogs(root: Path) -> None:
    photos = [f"{CHIHUAHUA}/n02085620_1.jpg", f"{SPANIEL}/n02085782_2.jpg"]
    put(root / "Images", *photos, f"{SPANIEL}/n02085782_3.jpg")
    # MATLAB's numbers are floating point unless told otherwise.
    dog_list(root / "train_list.mat", (photos[0], 1.0), (photos[1], 2.0))
    dog_list(root / "test_list.mat", (f"{SPANIEL}/n02085782_3.jpg", 2.0))


def flowers(root: Path) -> None:
    put(root / "jpg", *(f"image_{number:05d}.jpg" for number in range(1, 6)))
    mat(root / "imagelabels.mat", labels=np.array([[77, 1, 77, 1, 77]], dtype=np.uint8))
    setid(root / "setid.mat", [5, 2], [4], [1, 3])


def setid(path: Path, train: list[int], val: list[int], test: list[int]) -> None:
    sets = {"trnid": train, "valid": val, "tstid": test}
    mat(path, **{name: np.array([ids], dtype=np.uint16) for name, ids in sets.items()})


def pets(root: Path) -> None:
    put(root / "images", "Abyssinian_100.jpg", "american_bulldog_7.jpg", "american_bulldog_8.jpg")
    put(root / "images", "Abyssinian_100.mat")
    lines(root / "annotations/trainval.txt", "Abyssinian_100 1 1 1", "american_bulldog_8 2 2 1")
    lines(root / "annotations/test.txt", "american_bulldog_7 2 2 1")


def dtd(root: Path) -> None:
    names = ["banded/banded_0002.jpg", "zigzagged/zigzagged_0001.jpg", "banded/banded_0004.jpg"]
    put(root / "images", *names, "banded/banded_0005.jpg")
    lines(root / "labels/train1.txt", names[0], names[1])
    lines(root / "labels/val1.txt", names[2])
    lines(root / "labels/test1.txt", "banded/banded_0005.jpg")
    lines(root / "labels/train2.txt", "banded/not_of_this_split.jpg")


TREES: dict[str, Callable[[Path], None]] = {
    "cub": cub,
    "stanford-cars": cars,
    "stanford-dogs": dogs,
    "flowers102": flowers,
    "oxford-pets": pets,
    "dtd": dtd,
}
RAM = "Ram C/V Cargo Van Minivan 2012"
EXPECTED = {
    "cub": [
        ("images/001.Black_footed_Albatross/A_0002_2.jpg", "001.Black_footed_Albatross", "train"),
        ("images/200.Common_Yellowthroat/C_0003_3.jpg", "200.Common_Yellowthroat", "train"),
        ("images/001.Black_footed_Albatross/A_0001_1.jpg", "001.Black_footed_Albatross", "test"),
    ],
    "stanford-cars": [
        ("cars_train/00001.jpg", RAM, "train"),
        ("cars_train/00002.jpg", "AM General Hummer SUV 2000", "train"),
        ("cars_test/00001.jpg", RAM, "test"),
    ],
    "stanford-dogs": [
        (f"Images/{CHIHUAHUA}/n02085620_1.jpg", "Chihuahua", "train"),
        (f"Images/{SPANIEL}/n02085782_2.jpg", "Japanese_spaniel", "train"),
        (f"Images/{SPANIEL}/n02085782_3.jpg", "Japanese_spaniel", "test"),
    ],
    "flowers102": [
        ("jpg/image_00002.jpg", "1", "train"),
        ("jpg/image_00005.jpg", "77", "train"),
        ("jpg/image_00004.jpg", "1", "val"),
        ("jpg/image_00001.jpg", "77", "test"),
        ("jpg/image_00003.jpg", "77", "test"),
    ],
    "oxford-pets": [
        ("images/Abyssinian_100.jpg", "Abyssinian", "train"),
        ("images/american_bulldog_8.jpg", "american_bulldog", "train"),
        ("images/american_bulldog_7.jpg", "american_bulldog", "test"),
    ],
    "dtd": [
        ("images/banded/banded_0002.jpg", "banded", "train"),
        ("images/zigzagged/zigzagged_0001.jpg", "zigzagged", "train"),
        ("images/banded/banded_0004.jpg", "banded", "val"),
        ("images/banded/banded_0005.jpg", "banded", "test"),
    ],
}


def load(layout: str, root: Path) -> Dataset:
    return load_dataset(Data.model_validate({"layout": layout, "root": str(root)}), root, 0)


# --- what is right


def test_every_layout_has_a_reader_and_published_sizes() -> None:
    layouts = {name: layout_of(name) for name in get_args(Layout)}
    assert layouts.pop(CLASS_FOLDERS) is None
    totals = {name: sum(layout.sizes.values()) for name, layout in layouts.items() if layout}
    assert totals == {
        "fgvc-aircraft": 10000,
        "cub": 11788,
        "stanford-cars": 16185,
        "stanford-dogs": 20580,
        "flowers102": 8189,
        "oxford-pets": 7349,
        "dtd": 5640,
    }


@pytest.mark.parametrize("above", [False, True], ids=["root", "above"])
@pytest.mark.parametrize("layout", TREES)
def test_rows_classes_and_splits(tmp_path: Path, layout: str, above: bool) -> None:
    TREES[layout](tmp_path / "all" / "unpacked")
    data = load(layout, tmp_path / "all" if above else tmp_path / "all" / "unpacked")
    rows = [(sample.key, sample.cls, sample.split) for sample in data.samples]
    assert rows == EXPECTED[layout]
    assert data.classes == tuple(sorted({cls for _, cls, _ in EXPECTED[layout]}))
    assert all(sample.path.is_file() for sample in data.samples)


def test_matlab_files_may_lie_in_their_own_folder_or_beside(tmp_path: Path) -> None:
    cars(tmp_path / "c")
    dogs(tmp_path / "d")
    for name in ("cars_meta.mat", "cars_train_annos.mat"):
        shutil.move(tmp_path / "c/devkit" / name, tmp_path / "c" / name)
    (tmp_path / "d/lists").mkdir()
    for name in ("train_list.mat", "test_list.mat"):
        shutil.move(tmp_path / "d" / name, tmp_path / "d/lists" / name)
    assert len(load("stanford-cars", tmp_path / "c").samples) == 3
    assert len(load("stanford-dogs", tmp_path / "d").samples) == 3


def test_windows_line_ends_are_read(tmp_path: Path) -> None:
    dtd(tmp_path)
    for path in (tmp_path / "labels").iterdir():
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert len(load("dtd", tmp_path).samples) == 4


# --- what is wrong

REQUIRED = [
    ("cub", "images.txt"),
    ("cub", "classes.txt"),
    ("cub", "image_class_labels.txt"),
    ("cub", "train_test_split.txt"),
    ("stanford-cars", "devkit/cars_meta.mat"),
    ("stanford-cars", "devkit/cars_train_annos.mat"),
    ("stanford-cars", "cars_test_annos_withlabels.mat"),
    ("stanford-dogs", "train_list.mat"),
    ("stanford-dogs", "test_list.mat"),
    ("flowers102", "imagelabels.mat"),
    ("flowers102", "setid.mat"),
    ("oxford-pets", "annotations/trainval.txt"),
    ("oxford-pets", "annotations/test.txt"),
    ("dtd", "labels/train1.txt"),
    ("dtd", "labels/val1.txt"),
    ("dtd", "labels/test1.txt"),
]


def refused(layout: str, root: Path, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        load(layout, root)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message and ";" in message, message  # one line, with a remedy


@pytest.mark.parametrize(("layout", "name"), REQUIRED)
def test_a_missing_list_file_is_named(tmp_path: Path, layout: str, name: str) -> None:
    TREES[layout](tmp_path)
    (tmp_path / name).unlink()
    refused(layout, tmp_path, Path(name).name)


@pytest.mark.parametrize("layout", TREES)
def test_a_listed_photo_that_is_absent_is_named(tmp_path: Path, layout: str) -> None:
    TREES[layout](tmp_path)
    key = EXPECTED[layout][-1][0]
    (tmp_path / key).unlink()
    refused(layout, tmp_path, "no image", Path(key).name)


@pytest.mark.fault(
    "folders",
    "public data sets as others have packed them again",
    "read, or the file that is missing is named",
)
@pytest.mark.parametrize("layout", TREES)
def test_archives_packed_again_are_read(tmp_path: Path, layout: str) -> None:
    """In two folders more, and each folder of photos in one of its own name."""
    TREES[layout](tmp_path / "archive/data")
    for folder in [path for path in (tmp_path / "archive/data").iterdir() if path.is_dir()]:
        if any(path.suffix == ".jpg" for path in folder.rglob("*")):
            folder.rename(tmp_path / "inner")
            folder.mkdir()
            (tmp_path / "inner").rename(folder / folder.name)
    data = load(layout, tmp_path)
    assert data.of("train") and all(sample.path.is_file() for sample in data.samples)


@pytest.mark.fault("folders", "public data sets as others have packed them again")
def test_cars_in_one_folder_with_one_list(tmp_path: Path) -> None:
    put(tmp_path / "car_ims", *(f"{n:06d}.jpg" for n in range(1, 5)))
    names = ("relative_im_path", "class", "test")
    records = np.zeros((1, 4), dtype=[(name, object) for name in names])
    for n in range(4):
        records[0, n] = (f"car_ims/{n + 1:06d}.jpg", 1 + n % 2, int(n > 1))
    classes = cells("AM General Hummer SUV 2000", "Acura TL 2012").T
    mat(tmp_path / "cars_annos.mat", annotations=records, class_names=classes)
    data = load("stanford-cars", tmp_path)
    assert data.classes == ("AM General Hummer SUV 2000", "Acura TL 2012")
    assert [s.key for s in data.of("test")] == ["car_ims/000003.jpg", "car_ims/000004.jpg"]
    records[0, 0] = ("../x.jpg", 1, 0)
    mat(tmp_path / "cars_annos.mat", annotations=records, class_names=classes)
    refused("stanford-cars", tmp_path, "annotations(1)", "leaves the data folder")


@pytest.mark.fault("folders", "public data sets as others have packed them again")
def test_cars_without_labels_of_the_test_photos(tmp_path: Path) -> None:
    cars(tmp_path)
    (tmp_path / "cars_test_annos_withlabels.mat").unlink()
    refused("stanford-cars", tmp_path, "withlabels.mat is missing", "a file of its own")


@pytest.mark.parametrize("layout", TREES)
def test_another_layout_is_said(tmp_path: Path, layout: str) -> None:
    put(tmp_path, "train/daisy/0.jpg")
    refused(layout, tmp_path, "not in the layout of", "data.root")


def test_two_copies_below_the_root_are_not_guessed_between(tmp_path: Path) -> None:
    dtd(tmp_path / "old")
    dtd(tmp_path / "new")
    refused("dtd", tmp_path, "old", "new", "data.root")


ALBATROSS = "001.Black_footed_Albatross"
BAD_LINES = [
    ("cub", "images.txt", "1", ["line 1", "2 fields"]),
    ("cub", "images.txt", "1 ../../secret.jpg", ["line 1", "leaves the data folder"]),
    ("cub", "images.txt", "9 x/y.jpg", ["line 1", "unknown image 9", "image_class_labels.txt"]),
    ("cub", "image_class_labels.txt", "1 7", ["line 1", "unknown class 7", "classes.txt"]),
    ("cub", "image_class_labels.txt", "1 200", ["line 1", "not the folder", "A_0001_1.jpg"]),
    ("cub", "image_class_labels.txt", "2 1", ["2 is already in", "line 1"]),
    ("cub", "train_test_split.txt", "1 yes", ["line 1", "`yes` is not 0 or 1"]),
    ("cub", "images.txt", f"1 {ALBATROSS}/A_0002_2.jpg", ["A_0002_2.jpg is already in", "line 1"]),
    ("oxford-pets", "annotations/trainval.txt", "Abyssinian_100 1", ["line 1", "4 fields"]),
    ("oxford-pets", "annotations/trainval.txt", "Abyssinian 1 1 1", ["<breed>_<number>"]),
    ("oxford-pets", "annotations/trainval.txt", "../../a_1 1 1 1", ["leaves the data folder"]),
    ("oxford-pets", "annotations/test.txt", "Abyssinian_100 1 1 1", ["already in", "trainval.txt"]),
    ("oxford-pets", "annotations/test.txt", "american_bulldog_7 1 2 1", ["class 1 is"]),
    ("oxford-pets", "annotations/test.txt", "Bengal_1 3 1 2", ["no image", "Bengal_1.jpg"]),
    ("dtd", "labels/val1.txt", "banded_0004.jpg", ["line 1", "<class>/<file>"]),
    ("dtd", "labels/val1.txt", "banded/../../../x.jpg", ["line 1", "leaves the data folder"]),
    ("dtd", "labels/val1.txt", "/etc/passwd", ["line 1", "no image"]),
    ("dtd", "labels/val1.txt", "banded/banded_0002.jpg", ["val1.txt", "already in", "train1.txt"]),
    ("dtd", "labels/train1.txt", "banded/banded_0002.jpg\n", ["`zigzagged`", "no training image"]),
]


@pytest.mark.parametrize(("layout", "name", "line", "words"), BAD_LINES)
def test_a_bad_line_is_named(
    tmp_path: Path, layout: str, name: str, line: str, words: list[str]
) -> None:
    TREES[layout](tmp_path)
    put(tmp_path, "images/zigzagged/zigzagged_0009.jpg")
    path = tmp_path / name
    kept = path.read_text().splitlines()[1:]
    if line.endswith("\n"):
        kept = []
        lines(tmp_path / "labels/test1.txt", "zigzagged/zigzagged_0009.jpg")
    lines(path, line.strip(), *kept)
    refused(layout, tmp_path, *words)


def test_bad_annotations_of_cars_are_named(tmp_path: Path) -> None:
    cars(tmp_path)
    train = tmp_path / "devkit/cars_train_annos.mat"
    for name, label, words in [
        ("00001.jpg", 0, ["annotations(1)", "unknown class 0", "cars_meta.mat"]),
        ("00001.jpg", 3, ["unknown class 3"]),
        ("00001.jpg", "two", ["not a whole number"]),
        ("../../x.jpg", 1, ["annotations(1)", "leaves the data folder"]),
        (7, 1, ["not a text"]),
    ]:
        car_annotations(train, (name, label), ("00002.jpg", 1))  # type: ignore[arg-type]
        refused("stanford-cars", tmp_path, "cars_train_annos.mat", *words)
    car_annotations(train, ("00001.jpg", 1), ("00001.jpg", 1))
    refused("stanford-cars", tmp_path, "annotations(2)", "already in", "annotations(1)")
    mat(train, other=1)
    refused("stanford-cars", tmp_path, "no variable `annotations`")
    mat(train, annotations=np.array([1, 2]))
    refused("stanford-cars", tmp_path, "no field `fname`")
    # The class that the test set has is no longer trained.
    car_annotations(train, ("00001.jpg", 1), ("00002.jpg", 1))
    refused("stanford-cars", tmp_path, RAM, "no training image")


def test_bad_lists_of_dogs_are_named(tmp_path: Path) -> None:
    dogs(tmp_path)
    right = (f"{SPANIEL}/n02085782_2.jpg", 2.0)
    for name, label, words in [
        ("Chihuahua/1.jpg", 1.0, ["file_list(1)", "<synset>-<breed>/<file>"]),
        (f"{CHIHUAHUA}/../../../x.jpg", 1.0, ["file_list(1)", "leaves the data folder"]),
        (f"{CHIHUAHUA}/n02085620_1.jpg", 2.0, ["file_list(2)", "class 2", CHIHUAHUA, SPANIEL]),
        (f"{CHIHUAHUA}/n02085620_1.jpg", 1.5, ["labels(1)", "not a whole number"]),
        (f"{CHIHUAHUA}/n02085620_1.jpg", float("nan"), ["labels(1)", "not a whole number"]),
    ]:
        dog_list(tmp_path / "train_list.mat", (name, label), right)
        refused("stanford-dogs", tmp_path, "train_list.mat", *words)
    mat(tmp_path / "train_list.mat", file_list=cells(right[0]), labels=np.array([1, 2]))
    refused("stanford-dogs", tmp_path, "1 files and 2 labels")


def test_bad_sets_of_flowers_are_named(tmp_path: Path) -> None:
    flowers(tmp_path)
    for train, words in [
        ([5, 0], ["trnid(2)", "photo 0 has no label"]),
        ([5, 6], ["trnid(2)", "photo 6 has no label", "imagelabels.mat"]),
        ([5, 2, 4], ["valid(1)", "image_00004.jpg is already in", "trnid(3)"]),
        ([5], ["`1`", "no training image"]),
    ]:
        setid(tmp_path / "setid.mat", train, [4], [1, 3])
        refused("flowers102", tmp_path, *words)
    setid(tmp_path / "setid.mat", [5, 2], [4], [1, 3])
    mat(tmp_path / "imagelabels.mat", labels=np.array([[77, 1, 77, 1, 103]]))
    refused("flowers102", tmp_path, "labels(5)", "unknown class 103", "1 to 102")


def test_a_broken_matlab_file_is_named(tmp_path: Path) -> None:
    flowers(tmp_path)
    whole = (tmp_path / "setid.mat").read_bytes()
    for content in (b"", b"not MATLAB", whole[:-20], b"x" * 400):
        (tmp_path / "setid.mat").write_bytes(content)
        refused("flowers102", tmp_path, "setid.mat")


def test_without_scipy_the_remedy_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pets(tmp_path / "p")
    flowers(tmp_path / "f")
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    assert len(load("oxford-pets", tmp_path / "p").samples) == 3
    with pytest.raises(
        UserError, match=r'imagelabels\.mat needs scipy: pip install "higfa\[mat\]"'
    ):
        load("flowers102", tmp_path / "f")


def test_a_split_file_beside_own_lists_is_refused(tmp_path: Path) -> None:
    dtd(tmp_path)
    lines(tmp_path / "split.csv", "path,class,split")
    with pytest.raises(UserError, match=r"data\.split_file cannot go with data\.layout: dtd"):
        load_dataset(Data(layout="dtd", root=".", split_file="split.csv"), tmp_path, 0)
