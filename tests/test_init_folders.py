"""What `higfa init` takes for a class, a split and a photo; every file below the root counted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from higfa_cli.cli.app import app
from higfa_cli.data.dataset import load_dataset
from higfa_cli.data.layouts.imagefolder import split_of
from higfa_cli.errors import UserError
from higfa_cli.init.photos import Form
from higfa_cli.init.project import init_project
from higfa_cli.recipe.load import load_recipe
from higfa_cli.stages.context import make_context
from tests.support.fault_project import obey_permissions
from tests.support.folders import lines, photo, put

FLAT = Form(flat=True)


def init(root: Path, form: Form = Form()) -> dict[str, Any]:
    """The result of `init`, whose recipe loads the photos that it counted; all files accounted."""
    out = root.parent / f"{root.name}.yaml"
    result = init_project(root, out, form=form, force=True)
    loaded = load_recipe(str(out))
    data = load_dataset(loaded.recipe.data, loaded.base, loaded.recipe.seed)
    assert {split: len(data.of(split)) for split in result["counts"]} == result["counts"]
    assert list(data.classes) == result["classes"]
    assert all(sample.read().size for sample in data.samples)
    files = sum(not path.is_dir() for path in root.rglob("*"))
    skipped = sum(row.get("files", 1) for row in result["skipped"])
    links = any(path.is_symlink() for path in root.rglob("*"))
    assert links or len(data.samples) + skipped == files
    return result


@pytest.mark.fault("folders", "folders called like splits", "read as splits, or asked about")
@pytest.mark.parametrize(
    ("training", "other", "split"),
    [
        ("Training", "Testing", "test"),
        ("Training", "Test", "test"),
        ("train_images", "val_images", "val"),
        ("seg_train/seg_train", "seg_test/seg_test", "test"),
        ("training_set", "test_set", "test"),
        ("train2017", "val2017", "val"),
        ("TRAIN", "dev", "val"),
        ("train-jpg", "eval-jpg", "val"),
        ("trainset", "testset", "test"),
        ("TrainImages", "TestImages", "test"),
        ("birds_train", "birds_val", "val"),
    ],
)
def test_splits_as_people_call_them(tmp_path: Path, training: str, other: str, split: str) -> None:
    result = init(
        put(tmp_path / "d", f"{training}/{{a,b}}/{{4}}.jpg", f"{other}/{{a,b}}/{{2}}.jpg")
    )
    assert result["classes"] == ["a", "b"]
    assert (result["counts"]["train"], result["counts"][split]) == (8, 4)


@pytest.mark.parametrize("name", ["trainer", "test tube", "dev kit", "Valais", "set", "2014", ""])
def test_other_names_are_no_splits(name: str) -> None:
    assert split_of(name) is None


@pytest.mark.fault("folders", "folders called like splits")
@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["batch_{3}/{a,b}/{2}.jpg"], ["--flat` if batch_0 is a class", "d/batch_0` if it"]),
        (["{wren,tit}/{train,test}/{2}.jpg"], ["splits inside classes", "--flat"]),
        (["{bus,train,car}/{3}.jpg"], ["--flat` if train is a class", "--labels"]),
        (["{wren,tit,test}/{3}.jpg"], ["test/ but no train/", "--flat` takes it for a class"]),
        (["{train,training}/{a,b}/{2}.jpg"], ["train/ and training/", "keep one"]),
        (["birds/{wren,tit}/{2}.jpg"], ["one class, `birds`", "--root", "d/birds"]),
    ],
)
def test_what_could_mean_two_things_is_asked(
    tmp_path: Path, keys: list[str], words: list[str]
) -> None:
    root = put(tmp_path / "d", *keys)
    with pytest.raises(UserError) as caught:
        init(root)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert not list(tmp_path.glob("d.*"))
    if "--flat" in words[0] + words[1]:
        assert init(root, FLAT)["classes"] == sorted(p.name for p in root.iterdir())


@pytest.mark.fault("folders", "photos without a class", "the table or the folder that has them")
def test_unlabelled_photos_are_no_class(tmp_path: Path) -> None:
    root = put(tmp_path / "contest", "train/{wren,tit}/{4}.jpg", "test/{4}.jpg")
    with pytest.raises(UserError, match=r"4 photos without a class.*--root .*contest/train$"):
        init(root)
    assert init(root / "train")["classes"] == ["tit", "wren"]
    put(tmp_path / "bare", "{5}.jpg")
    with pytest.raises(UserError, match=r"5 photos without a class.*--labels TABLE\.csv"):
        init(tmp_path / "bare")


@pytest.mark.fault(
    "folders",
    "thumbnails, results of higfa and other files between the photos",
    "counted under `skipped`, with a reason",
)
def test_what_is_no_photo_is_counted(tmp_path: Path) -> None:
    root = put(
        tmp_path / "d",
        "{wren,tit}/{5}.jpg",
        "wren/@eaDir/{5}.jpg/SYNOPHOTO_THUMB_{M,XL}.jpg",
        "#recycle/{2}.jpg",
        "__MACOSX/wren/._0.jpg",
        "runs/here/contours/images/wren/{3}.png",
        "wren/0.jpg~",
        "tit/{DSC1.THM,p.jpeg_original}",
        "stray.png",
    )
    lines(root / "runs/here/contours/run.json", "{}")
    lines(root / "wren/notes.txt", "x")
    lines(root / "annotations/wren.xml", "x")
    result = init(root)
    assert result["classes"] == ["tit", "wren"] and sum(result["counts"].values()) == 10
    skipped = {row["file"]: (row["reason"], row.get("files")) for row in result["skipped"]}
    assert skipped == {
        "stray.png": ("not in a class folder", None),
        "@eaDir/": ("left by a system", 10),
        "#recycle/": ("left by a system", 2),
        "__MACOSX/": ("left by a system", 1),
        "here/": ("results of higfa", 4),
        "*.jpg~": ("a copy or part of another file", 1),
        "*.THM": ("a copy or part of another file", 1),
        "*.jpeg_original": ("a copy or part of another file", 1),
        "*.txt": ("no image", 1),
        "*.xml": ("no image", 1),
    }


@pytest.mark.fault(
    "folders", "photos with other suffixes, or none", "photos by their content, or counted"
)
def test_a_photo_is_one_whatever_its_name(tmp_path: Path) -> None:
    names = "0.jpg,1.jfif,2.jpe,3.avif,4,5.jpg?w=640,6.JPEG,7.png_large,8.webp"
    root = put(tmp_path / "d", f"{{robin,tit}}/{{{names}}}")
    (root / "robin/cat.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (root / "robin/raw.nef").write_bytes(b"II*\0raw")
    result = init(root)
    assert sum(result["counts"].values()) == 18
    assert [row["file"] for row in result["skipped"]] == ["*.heic", "*.nef"]


@pytest.mark.fault("folders", "photos with other suffixes, or none")
def test_a_class_of_unread_files_is_named(tmp_path: Path) -> None:
    root = put(tmp_path / "d", "{wren,tit}/{3}.jpg")
    (root / "robin").mkdir()
    (root / "robin/a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(UserError, match=r"robin has no images \(but 1 \.heic\)"):
        init(root)


@pytest.mark.fault("folders", "data sets made of links", "read, by `init` and by every stage")
@pytest.mark.parametrize("kind", ["classes", "files", "splits", "inner", "loop"])
def test_links_are_read(tmp_path: Path, kind: str) -> None:
    store = put(tmp_path / "store", "{train,val}/{wren,tit}/{3}.jpg")
    root = tmp_path / "d"
    for cls in ("wren", "tit"):
        if kind == "splits":
            continue
        (root / cls).mkdir(parents=True)
        if kind == "classes":
            (root / cls).rmdir()
            (root / cls).symlink_to(store / "train" / cls)
        if kind == "inner":
            (root / cls / "more").symlink_to(store / "train" / cls)
        if kind == "files":
            for path in (store / "train" / cls).iterdir():
                (root / cls / path.name).symlink_to(path)
        if kind == "loop":
            put(root, f"{cls}/{{3}}.jpg")
            (root / cls / "up").symlink_to(root)
    if kind == "splits":
        root.mkdir()
        for split in ("train", "val"):
            (root / split).symlink_to(store / split)
    result = init(root)
    assert result["classes"] == ["tit", "wren"]
    assert sum(result["counts"].values()) == (12 if kind == "splits" else 6)


@pytest.mark.fault(
    "folders", "results in the folder of the photos", "written beside it, or refused"
)
def test_results_never_lie_among_the_photos(tmp_path: Path) -> None:
    root = put(tmp_path / "here", "{wren,tit}/{6}.jpg")
    init_project(root, root / "recipe.yaml")
    loaded = load_recipe(str(root / "recipe.yaml"))
    assert make_context(loaded).workspace.resolve() == tmp_path / "runs/here"
    for inside in (root / "runs/here", root / "../here/wren", root):
        with pytest.raises(UserError, match=r"lies in the data folder.*--workspace"):
            make_context(loaded, inside)
    lines(root / "runs/x/contours/run.json", "{}")
    put(root, "runs/x/contours/images/wren/{3}.png")
    result = init_project(root, root / "recipe.yaml", force=True)
    assert result["classes"] == ["tit", "wren"]


@pytest.mark.fault("folders", "results in the folder of the photos")
def test_every_path_starts_at_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "project/photos", "{wren,tit}/{6}.jpg")
    put(tmp_path / "elsewhere/photos", "{bus,car}/{6}.jpg")
    init_project(tmp_path / "project/photos", tmp_path / "project/r.yaml")
    monkeypatch.chdir(tmp_path / "elsewhere")
    ctx = make_context(load_recipe("../project/r.yaml"))
    assert ctx.workspace.resolve() == tmp_path / "project/runs/r"
    assert {row.cls for row in ctx.listing.rows} == {"wren", "tit"}
    # The flag is typed here, and means here.
    assert make_context(load_recipe("../project/r.yaml"), Path("w")).workspace == Path.cwd() / "w"
    with pytest.raises(UserError, match=r"only-here does not exist.*folder of the recipe"):
        put(tmp_path / "elsewhere/only-here", "{wren,tit}/{6}.jpg")
        changed = load_recipe("../project/r.yaml", ["data.root=./only-here"])
        assert make_context(changed).listing


@pytest.mark.fault("folders", "photos on a read-only disk", "another --out, before any is read")
def test_a_folder_that_takes_nothing_names_out(tmp_path: Path) -> None:
    root = put(tmp_path / "mount", "{wren,tit}/{6}.jpg")
    root.chmod(0o555)
    for flags in ([], ["--out", "wren.yaml"], ["--out", str(root / "r.yaml")]):
        command = [sys.executable, "-m", "higfa_cli", "init", "--root", ".", *flags]
        ended = subprocess.run(
            command, cwd=root, capture_output=True, text=True, preexec_fn=obey_permissions
        )
        assert ended.returncode == 1 and ended.stderr.count("\n") == 1
        assert "choose another --out" in ended.stderr and "--workspace" not in ended.stderr
    out = str(tmp_path / "r.yaml")
    assert CliRunner().invoke(app, ["init", "--root", str(root), "--out", out]).exit_code == 0


# --- classes from a table


def table_of(root: Path, header: str, separator: str = ",", folder: str = "train") -> list[str]:
    """Photos in one folder, and a table of their classes by file name."""
    put(root, f"{folder}/{{12}}.jpg")
    return [header, *(f"{n}.jpg{separator}{('wren', 'tit')[n % 2]}" for n in range(12))]


@pytest.mark.fault(
    "lists", "classes in a table beside the photos", "read, or the command that reads them"
)
def test_a_metadata_file_gives_the_classes(tmp_path: Path) -> None:
    root = tmp_path / "hub"
    lines(root / "train/metadata.csv", *table_of(root, "file_name,label"))
    put(root, "test/{2}.jpg")
    rows = ['{"file_name": "0.jpg", "label": "tit"}', '{"file_name": "1.jpg", "label": "wren"}']
    lines(root / "test/metadata.jsonl", *rows)
    result = init(root)
    assert result["classes"] == ["tit", "wren"]
    assert result["counts"] == {"train": 12, "val": 0, "test": 2}


@pytest.mark.fault("lists", "classes in a table beside the photos")
@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("image_id,label", "{n}.jpg,{c}"),
        ("id,breed", "{n},{c}"),
        ("filename;category;author", "{n}.jpg;{c};me"),
        ("Path\tSpecies\tlat", "images\\{n}.JPG\t{c}\t3.2"),
        ("label,label_id,image", "{c},7,leaves/images/{n}.jpg"),
    ],
)
def test_columns_are_recognised(tmp_path: Path, header: str, row: str) -> None:
    root = put(tmp_path / "leaves", "images/{12}.jpg", "test_images/900.jpg")
    rows = [row.format(n=n, c=("wren", "tit")[n % 2]) for n in range(12)]
    table = lines(root / "labels.csv", header, *rows)
    result = init(root, Form(labels=(table,)))
    assert result["classes"] == ["tit", "wren"] and sum(result["counts"].values()) == 12
    assert {"file": "test_images/900.jpg", "reason": "in no row of the labels"} in result["skipped"]


@pytest.mark.fault("lists", "classes in a table beside the photos")
def test_the_table_is_offered_and_its_doubts_are_asked(tmp_path: Path) -> None:
    root = tmp_path / "leaves"
    table = lines(root / "train.csv", *table_of(root, "image_id,label"))
    with pytest.raises(UserError, match=r"--labels .*train\.csv$"):
        init(root)
    both = [f"{n}.jpg,{n % 2},{n % 3}" for n in range(12)]
    lines(table, "image_id,species,family", *both)
    with pytest.raises(UserError, match="--label-column: species, family"):
        init(root, Form(labels=(table,)))
    chosen = Form(labels=(table,), label_column="Family")
    assert init(root, chosen)["classes"] == ["0", "1", "2"]
    lines(table, "image_id,species", "0.jpg,a", "77.jpg,b")
    with pytest.raises(UserError, match=r"line 3: no photo.*'77\.jpg'"):
        init(root, Form(labels=(table,)))


def test_photos_differ() -> None:
    assert len({photo(seed) for seed in range(20)}) == 20
