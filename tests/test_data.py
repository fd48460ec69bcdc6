"""Reading images, listing data sets, class words."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from higfa_cli.data.dataset import load_dataset
from higfa_cli.data.images import ImageError, encode_png, fit_square, read_image
from higfa_cli.data.prompts import default_words, load_words, prompts_for
from higfa_cli.errors import UserError
from higfa_cli.recipe.data import Data, Prompts


def photo(path: Path, seed: int = 0, size: tuple[int, int] = (20, 16)) -> Path:
    """Write a noise picture of (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def folders(root: Path, counts: dict[str, int]) -> Path:
    """Class folders: {"train/daisy": 3} makes three pictures there."""
    for number, (name, count) in enumerate(counts.items()):
        for index in range(count):
            photo(root / name / f"{index}.png", seed=100 * number + index)
    return root


# --- images


def test_every_mode_has_its_conversion(tmp_path: Path) -> None:
    red = Image.new("RGB", (4, 3), (200, 10, 30))
    expected = np.array(red)
    red.save(tmp_path / "rgb.png")
    red.quantize(4).save(tmp_path / "palette.png")
    assert (read_image(tmp_path / "rgb.png") == expected).all()
    assert (read_image(tmp_path / "palette.png") == expected).all()
    Image.new("CMYK", (4, 3), (255, 0, 0, 0)).save(tmp_path / "cmyk.tif")
    assert tuple(read_image(tmp_path / "cmyk.tif")[0, 0]) == (0, 255, 255)
    Image.new("LA", (4, 3), (0, 0)).save(tmp_path / "la.png")
    assert (read_image(tmp_path / "la.png") == 255).all()
    Image.new("RGBA", (4, 3), (0, 0, 0, 51)).save(tmp_path / "rgba.png")
    assert (read_image(tmp_path / "rgba.png") == 204).all()  # black at 20 % over white
    Image.new("1", (4, 3), 1).save(tmp_path / "bit.png")
    assert (read_image(tmp_path / "bit.png") == 255).all()
    keyed = Image.new("P", (4, 3), 0)
    keyed.putpalette([9, 9, 9])
    keyed.save(tmp_path / "keyed.png", transparency=0)
    assert (read_image(tmp_path / "keyed.png") == 255).all()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    ramp = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
    Image.fromarray(ramp).save(tmp_path / f"deep.{suffix}")
    assert read_image(tmp_path / f"deep.{suffix}")[0, :, 1].tolist() == [0, 1, 128, 255]


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    pixels = np.zeros((2, 6, 3), dtype=np.uint8)
    pixels[0, 0] = 255
    exif = Image.Exif()
    exif[274] = 6  # turn a quarter clockwise to see it upright
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    upright = read_image(tmp_path / "turned.png")
    assert upright.shape == (6, 2, 3)
    assert np.argwhere(upright[..., 0]).tolist() == [[0, 1]]


def _bomb() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 20000, 20000, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def _whole(kind: str) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def _half(kind: str) -> bytes:
    data = _whole(kind)
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "missing"),
        (b"", "empty"),
        (b"<html>404</html>", "not-an-image"),
        (_half("JPEG"), "truncated"),
        (_half("PNG"), "truncated"),
        (_bomb(), "too-large"),
    ],
)
def test_bad_files_are_named_with_their_reason(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "x.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=r"x\.jpg") as caught:
        read_image(path)
    assert caught.value.reason == reason
    assert "\n" not in str(caught.value)


def test_what_is_no_file_or_has_no_range_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere")
    for name in ("folder.jpg", "pipe.jpg", "dangling.jpg", "nul\0.jpg"):
        with pytest.raises(ImageError) as caught:
            read_image(tmp_path / name)
        assert caught.value.reason == "missing"
    Image.new("F", (2, 2), 0.5).save(tmp_path / "float.tif")
    with pytest.raises(ImageError, match="unsupported-mode"):
        read_image(tmp_path / "float.tif")


def _tiff(tag: int, value: int) -> bytes:
    """A TIFF with one of its first page's values changed."""
    data = bytearray(_whole("TIFF"))
    at = data.index(struct.pack("<H", tag), struct.unpack("<I", data[4:8])[0])
    data[at + 8 : at + 10] = struct.pack("<H", value)
    return bytes(data)


def _changed(kind: str, at: int, new: bytes) -> bytes:
    data = _whole(kind)
    return data[:at] + new + data[at + len(new) :]


@pytest.mark.fault(
    "images",
    "a damaged file, or a whole one of a kind that is not read",
    "called so, neither truncated nor no image",
)
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (_changed("BMP", 30, b"\4"), "unsupported-mode .*compression"),  # JPEG inside a BMP
        (_changed("BMP", 28, b"\7"), "unsupported-mode .*depth"),
        (_changed("BMP", 14, b"\x63"), "unsupported-mode .*header type"),
        (_tiff(259, 99), "unsupported-mode .*value 99"),
        (_tiff(259, 4), "unsupported-mode .*TIFF compression group4"),
        (_tiff(262, 32803), "unsupported-mode .*unknown pixel mode"),
        (_whole("JPEG").replace(b"\xff\xc0", b"\xff\xc3", 1), "unsupported-mode .*JPEG frame"),
        (b"\0\0\0\x18ftypheic" + bytes(99), "unsupported-mode .*HEIC"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(99), "unsupported-mode .*JXL"),
        (_changed("PNG", 29, bytes(4)), "damaged .*bad checksum in IHDR"),
        (_changed("PNG", len(_whole("PNG")) - 16, bytes(4)), "damaged .*bad checksum in IDAT"),
        (_changed("GIF", 2000, b"\xff" * 99), "damaged"),
        (_changed("WEBP", 30, b"\xff" * 20), "damaged"),
        (_half("WEBP"), "truncated"),
        (_whole("GIF")[:10], "truncated"),
    ],
)
def test_reasons_fit(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(ImageError, match=f": {reason}"):
        read_image(tmp_path / "a.jpg")


def test_the_pixel_cap_is_exact(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.png", size=(10, 10))
    assert read_image(path, max_pixels=100).shape == (10, 10, 3)
    with pytest.raises(ImageError, match="too-large"):
        read_image(path, max_pixels=99)


def test_fit_square_keeps_the_aspect_and_centres() -> None:
    wide = np.full((10, 40, 3), 200, dtype=np.uint8)
    square = fit_square(wide, 20, "zero")
    assert square.shape == (20, 20, 3)
    rows = np.flatnonzero(square[:, 0, 0])
    assert rows.tolist() == [7, 8, 9, 10, 11]  # 5 of 20 rows, (20 - 5) // 2 = 7 above
    assert (fit_square(wide, 20, "edge") == 200).all()
    assert fit_square(wide[..., 0], 20).shape == (20, 20)


def test_png_bytes_give_the_array_back() -> None:
    array = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    data = encode_png(array)
    assert data == encode_png(array.copy())
    assert (np.array(Image.open(io.BytesIO(data))) == array).all()


# --- class folders


def test_class_folders_with_other_names_for_val(tmp_path: Path) -> None:
    counts = {"train/a b": 3, "train/b": 2, "validation/b": 1, "test/a b": 1}
    root = folders(tmp_path / "d", counts)
    (root / "train/b/.hidden.png").write_bytes(b"x")
    (root / "train/b/notes.txt").write_text("x")
    photo(root / "train/b/more/deep.JPG", seed=9)
    data = load_dataset(Data(root=str(root)), tmp_path, 0)
    assert data.classes == ("a b", "b")
    assert data.splits == ("train", "val", "test")
    assert [s.key for s in data.of("val")] == ["validation/b/0.png"]
    assert [s.class_id for s in data.of("train")] == [0, 0, 0, 1, 1, 1]
    assert data.of("train")[-1].key == "train/b/more/deep.JPG"
    assert all(sample.path.is_file() for sample in data.samples)


def test_a_missing_val_split_is_allowed_and_said(tmp_path: Path) -> None:
    folders(tmp_path / "photos", {"train/a": 1, "train/b": 1})
    data = load_dataset(Data(root="photos"), tmp_path, 0)
    assert data.splits == ("train",)
    assert data.of("val") == ()


@pytest.mark.parametrize(
    ("counts", "empty", "words"),
    [
        ({"a/x": 1}, "", ["no train/ folder", "higfa init"]),
        ({"train/a": 1}, "train/b", ["train/b", "no images"]),
        ({"train/a": 1, "test/b": 1}, "", ["`b`", "no training image"]),
        ({"train/daisy": 1, "val/dasy": 1}, "", ["`dasy`", "did you mean `daisy`"]),
        ({"train/a": 1, "val/a": 1, "valid/a": 1}, "", ["val/", "valid/", "keep one"]),
        ({}, "train", ["no class folders"]),
    ],
)
def test_broken_class_folders_are_named(
    tmp_path: Path, counts: dict[str, int], empty: str, words: list[str]
) -> None:
    root = folders(tmp_path / "d", counts)
    if empty:
        (root / empty).mkdir(parents=True)
    with pytest.raises(UserError) as caught:
        load_dataset(Data(root=str(root)), tmp_path, 0)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_missing_data_folder_names_the_key(tmp_path: Path) -> None:
    for root in ("nowhere", str(tmp_path / "nowhere")):
        with pytest.raises(UserError, match=r"data\.root.*nowhere"):
            load_dataset(Data(root=root), tmp_path, 0)


# --- split CSV


def _csv(tmp_path: Path, *lines: str) -> Data:
    folders(tmp_path / "d", {"daisy": 2, "iris": 2})
    (tmp_path / "split.csv").write_text("\n".join(["path,class,split", *lines]) + "\n")
    return Data(root="d", split_file="split.csv")


def test_a_split_csv_says_which_photo_is_where(tmp_path: Path) -> None:
    lines = ["iris/0.png,iris,train", "daisy/0.png,daisy,train", "daisy/1.png,daisy,test"]
    data = load_dataset(_csv(tmp_path, *lines), tmp_path, 0)
    assert [(s.key, s.cls, s.split) for s in data.samples] == [
        ("daisy/0.png", "daisy", "train"),
        ("iris/0.png", "iris", "train"),
        ("daisy/1.png", "daisy", "test"),
    ]


def test_another_class_or_split_is_another_fingerprint(tmp_path: Path) -> None:
    lines = ["iris/0.png,iris,train", "daisy/0.png,daisy,train"]
    prints = {
        load_dataset(_csv(tmp_path, *lines, last), tmp_path, 0).fingerprint()
        for last in ("iris/1.png,iris,train", "iris/1.png,daisy,train", "iris/1.png,iris,val")
    }
    assert len(prints) == 3


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("../secret.png,iris,train", ["line 3", "leaves the data folder"]),
        ("/etc/secret.png,iris,train", ["leaves the data folder"]),
        ("a/..\\..\\x.png,iris,train", ["leaves the data folder"]),
        ("iris/9.png,iris,train", ["line 3", "iris/9.png", "no image"]),
        ("daisy/0.png,daisy,val", ["line 3", "already in", "line 2"]),
        ("iris/0.png,irs,train", ["unknown class `irs`", "did you mean `iris`"]),
        ("iris/0.png,iris,later", ["split `later`", "train, val, test"]),
        ("iris/0.png,,train", ["no class"]),
        ("iris/0.png,iris,val", ["`iris`", "no training image"]),
    ],
)
def test_a_bad_csv_line_is_named(tmp_path: Path, line: str, words: list[str]) -> None:
    data = _csv(tmp_path, "daisy/0.png,daisy,train", line)
    with pytest.raises(UserError) as caught:
        load_dataset(data, tmp_path, 0)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_csv_without_its_columns_is_refused(tmp_path: Path) -> None:
    data = _csv(tmp_path)
    (tmp_path / "split.csv").write_text("file,class,split\n")
    with pytest.raises(UserError, match="no column `path`"):
        load_dataset(data, tmp_path, 0)
    (tmp_path / "split.csv").unlink()
    with pytest.raises(UserError, match=r"data\.split_file.*split\.csv"):
        load_dataset(data, tmp_path, 0)


# --- FGVC-Aircraft


def _fgvc(root: Path, lists: dict[str, list[str]]) -> Path:
    (root / "images").mkdir(parents=True)
    (root / "variants.txt").write_text("737-800\nBAE 146-200\n")
    for split, lines in lists.items():
        (root / f"images_variant_{split}.txt").write_text("\n".join(lines) + "\n")
    for number in range(4):
        photo(root / f"images/000{number}.jpg", seed=number)
    return root


@pytest.mark.parametrize("below", [".", "data"])
def test_fgvc_lists(tmp_path: Path, below: str) -> None:
    lists = {"train": ["0000 BAE 146-200", "0001 737-800"], "test": ["0002 BAE 146-200"]}
    _fgvc(tmp_path / "fgvc" / below, lists)
    data = load_dataset(Data(layout="fgvc-aircraft", root="fgvc"), tmp_path, 0)
    assert data.classes == ("737-800", "BAE 146-200")
    assert data.splits == ("train", "test")
    assert data.words["BAE 146-200"] == "BAE 146-200"
    assert [(s.key, s.class_id) for s in data.of("train")] == [
        ("images/0000.jpg", 1),
        ("images/0001.jpg", 0),
    ]


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        (["0000 737-800"], [], ["`BAE 146-200`", "no training image"]),
        (["0000 737-80"], [], ["line 1", "`737-80`", "did you mean `737-800`"]),
        (["0000"], [], ["line 1", "2 fields"]),
        (["0009 737-800"], [], ["0009.jpg"]),
        (["../0000 737-800"], [], ["leaves the data folder"]),
        (["0000 737-800", "0001 BAE 146-200"], ["0001 BAE 146-200"], ["0001", "already in"]),
    ],
)
def test_broken_fgvc_lists_are_named(
    tmp_path: Path, train: list[str], test: list[str], words: list[str]
) -> None:
    _fgvc(tmp_path / "f", {"train": train, "test": test})
    with pytest.raises(UserError) as caught:
        load_dataset(Data(layout="fgvc-aircraft", root="f"), tmp_path, 0)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_another_layout_is_said(tmp_path: Path) -> None:
    folders(tmp_path / "d", {"train/a": 1})
    with pytest.raises(UserError, match=r"variants\.txt"):
        load_dataset(Data(layout="fgvc-aircraft", root="d"), tmp_path, 0)


# --- shots and fingerprint


def test_shots_do_not_depend_on_other_classes_or_other_files(tmp_path: Path) -> None:
    def chosen(root: Path, shots: int, seed: int = 0) -> set[str]:
        data = load_dataset(Data(root=str(root), shots=shots), tmp_path, seed)
        return {s.key for s in data.of("train") if s.cls == "b"}

    one = folders(tmp_path / "one", {"train/b": 12, "test/b": 3})
    two = folders(tmp_path / "two", {"train/a": 5, "train/b": 12, "train/c": 1})
    assert len(chosen(one, 4)) == 4
    assert chosen(one, 4) == chosen(two, 4)
    assert chosen(one, 4) < chosen(one, 7)
    assert len({frozenset(chosen(one, 4, seed)) for seed in range(5)}) > 1
    kept = chosen(one, 4)
    spare = sorted({f"train/b/{n}.png" for n in range(12)} - kept)[0]
    (one / spare).unlink()
    assert chosen(one, 4) == kept
    assert len(load_dataset(Data(root=str(one), shots=1), tmp_path, 0).of("test")) == 3


def test_the_fingerprint_follows_content_class_and_split_alone(tmp_path: Path) -> None:
    counts = {"train/a": 2, "train/b": 1, "test/a": 1}

    def load(root: Path):
        return load_dataset(Data(root=str(root)), tmp_path, 0)

    one, two = folders(tmp_path / "one", counts), folders(tmp_path / "two", counts)
    os.utime(two / "train/a/0.png", (1, 1))
    before = load(one)
    assert before.fingerprint() == load(two).fingerprint()
    assert before.fingerprint("train") != before.fingerprint()
    photo(two / "test/a/0.png", seed=999)
    assert load(two).fingerprint("train") == before.fingerprint("train")
    assert load(two).fingerprint() != before.fingerprint()
    (two / "train/a/1.png").rename(two / "train/b/1.png")
    assert load(two).fingerprint("train") != before.fingerprint("train")


# --- words


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("colts-foot", "colts foot"),
        ("737-800", "737-800"),
        ("DC-10", "DC-10"),
        ("Boeing_737-800", "Boeing 737-800"),
        ("001.Black_footed_Albatross", "Black footed Albatross"),
        ("F/A-18", "F/A-18"),
    ],
)
def test_default_words(name: str, words: str) -> None:
    assert default_words(name) == words


def test_class_words_stay_text(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text("747: Boeing 747\nno: nothing\n1e3: thousand\n")
    assert load_words(tmp_path / "w.yaml") == {
        "747": "Boeing 747",
        "no": "nothing",
        "1e3": "thousand",
    }
    (tmp_path / "w.json").write_text('{"a": "b"}')
    assert load_words(tmp_path / "w.json") == {"a": "b"}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a: x\n", "`b` has no words"),
        ("a: x\nb: ''\n", "`b` has no words"),
        ("- a\n- b\n", "not a mapping"),
        ("a: [x]\nb: y\n", "not a mapping"),
        ("a: x\na: y\nb: z\n", "line 2: key `a` appears twice"),
        ("a: !!python/object/apply:os.getcwd []\nb: y\n", "not a mapping"),
        ("a: {\n", "line 2: "),
    ],
)
def test_broken_class_words_are_named(tmp_path: Path, text: str, match: str) -> None:
    folders(tmp_path / "d", {"train/a": 1, "train/b": 1})
    (tmp_path / "words.yaml").write_text(text)
    with pytest.raises(UserError, match=match) as caught:
        load_dataset(Data(root="d", class_words="words.yaml"), tmp_path, 0)
    assert "words.yaml" in str(caught.value)


def test_prompts_take_words_literally() -> None:
    prompts = Prompts(templates=("a {words}, 100 % {",))
    assert prompts_for(prompts, {"c": "{0} %s"}, Path()) == {"c": ("a {0} %s, 100 % {",)}


def test_crop_bottom_takes_the_banner_away(tmp_path: Path) -> None:
    picture = np.zeros((30, 20, 3), dtype=np.uint8)
    picture[24:] = 255  # the banner
    (tmp_path / "train" / "a").mkdir(parents=True)
    Image.fromarray(picture).save(tmp_path / "train" / "a" / "x.png")
    cropped = load_dataset(Data(root=str(tmp_path), crop_bottom=6), tmp_path, 0).samples[0].read()
    assert cropped.shape == (24, 20, 3)
    assert cropped.max() == 0
    everything = load_dataset(Data(root=str(tmp_path), crop_bottom=30), tmp_path, 0).samples[0]
    with pytest.raises(UserError, match=r"data\.crop_bottom = 30 leaves nothing"):
        everything.read()
