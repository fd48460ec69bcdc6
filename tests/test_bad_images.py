"""Bad and odd image files: one reader, every file accounted for, and runs that go on without."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import higfa_cli
from higfa_cli.artifacts.atomic import read_json, read_jsonl
from higfa_cli.artifacts.rows import PHOTO_FAULTS, ImageFault
from higfa_cli.cli.app import app
from higfa_cli.data.dataset import load_dataset
from higfa_cli.data.images import ImageError, read_image
from higfa_cli.data.layouts.files import IMAGE_SUFFIXES
from higfa_cli.data.rejected import allowed, file_state, read_rejected
from higfa_cli.recipe.data import Data
from higfa_cli.recipe.load import load_recipe
from higfa_cli.stages import drawing, filter, finetune_guide, train_downstream
from higfa_cli.stages.context import load_photos, make_context
from higfa_cli.stages.inputs import downstream_inputs
from tests.support.bad_images import Case, cases, encoded, large_palette_png, one_bit_png, scene
from tests.support.fault_project import obey_permissions
from tests.support.recipes import write_recipe

CASES = cases()
ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
# Kilobytes, as the kernel counts the most that a process ever held.
ONE_GB = 10**6
PACKAGE = Path(higfa_cli.__file__).parent


def label(case: Case) -> str:
    return ascii(case.name)[1:-1][:40]


# --- the one reader


@pytest.mark.fault(
    "images",
    "truncated, empty, foreign, oversized, animated, 16-bit, CMYK, palette, rotated and "
    "other odd files",
    "each accepted with a defined conversion, or rejected with a reason of a closed list",
)
@pytest.mark.parametrize("case", CASES, ids=label)
def test_every_file_has_its_outcome(case: Case, tmp_path: Path) -> None:
    path = tmp_path / case.name
    case.write(path)
    if case.as_user and ROOT:
        # Root reads everything, unless it gives that up, as only another process may.
        assert f": {case.reason} (" in apart(tmp_path, _TRY, str(path))[0]
        return
    if case.reason is not None:
        with pytest.raises(ImageError) as caught:
            read_image(path)
        assert (caught.value.reason, caught.value.path) == (case.reason, path)
        assert str(caught.value).isprintable() and caught.value.detail
        return
    pixels = read_image(path)
    assert (pixels.dtype, pixels.shape) == (np.uint8, (*(case.shape or ()), 3))
    assert pixels.flags["C_CONTIGUOUS"]
    if case.check is not None:
        case.check(pixels)


@pytest.mark.fault(
    "images",
    "truncated, empty, foreign, oversized, animated, 16-bit, CMYK, palette, rotated and "
    "other odd files",
)
def test_the_generator_covers_every_reason() -> None:
    assert len(CASES) >= 45
    assert len({case.name for case in CASES}) == len(CASES)
    assert {case.reason for case in CASES} == {None, *get_args(ImageFault)}
    assert sum(case.reason is not None for case in CASES) >= 45


def test_a_path_that_no_file_system_takes_is_missing(tmp_path: Path) -> None:
    path = tmp_path / f"{'n' * 300}.png"
    with pytest.raises(ImageError, match="missing \\(File name too long\\)"):
        read_image(path)
    assert file_state(path) == "unreadable"


@pytest.mark.fault(
    "images",
    "not enough memory for a picture; the largest picture",
    "rejected; under 1 GB",
)
@pytest.mark.parametrize("room", [40, 200])
def test_memory_that_is_not_there_is_a_size(tmp_path: Path, room: int) -> None:
    """Megabytes left: too few to decode 88 million grey pixels, or to turn them into RGB.

    In a process of its own: one that has run other tests holds memory that it may use again.
    """
    (tmp_path / "large.png").write_bytes(one_bit_png(9400))
    command = [sys.executable, "-c", READ_WITHIN, str(tmp_path / "large.png"), str(room)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "too-large: does not fit in memory"


READ_WITHIN = r"""
import re, resource, sys
from pathlib import Path
from higfa_cli.data.images import ImageError, read_image

status = Path("/proc/self/status").read_text()
held = int(re.findall(r"VmSize:\s+(\d+) kB", status)[0]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (held + int(sys.argv[2]) * 2**20, -1))
try:
    read_image(Path(sys.argv[1]))
except ImageError as error:
    print(f"{error.reason}: {error.detail}")
"""


_READERS = {"imread", "imreadmulti", "imdecode", "open_image", "default_loader", "ImageFolder"}
_READERS |= {"decode_image", "decode_jpeg", "decode_png", "decode_webp", "decode_gif"}


def foreign_reads(source: str) -> Iterator[str]:
    """Whatever in a module reads image files by other means than `read_image`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value)
            if node.attr in _READERS or (node.attr == "open" and owner.endswith("Image")):
                yield ast.unparse(node)
            if node.attr == "read_image" and owner != "images":
                yield ast.unparse(node)
        if isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            foreign = names & (_READERS | {"read_image"})
            if node.module == "PIL.Image":
                foreign |= names & {"open"}
            if foreign and node.module != "higfa_cli.data.images":
                yield ast.unparse(node)


def test_no_other_module_reads_image_files() -> None:
    modules = [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "data/images.py"]
    found = {path.name: list(foreign_reads(path.read_text(encoding="utf-8"))) for path in modules}
    assert len(found) > 80
    assert {name: reads for name, reads in found.items() if reads} == {}


@pytest.mark.parametrize(
    "line",
    [
        "Image.open(path)",
        "PIL.Image.open(path)",
        "from PIL.Image import open",
        "cv2.imread(path)",
        "from torchvision.io import read_image",
        "torchvision.io.read_image(path)",
        "ImageFolder(root)\nfrom torchvision.datasets import ImageFolder",
    ],
)
def test_the_scan_would_find_another_reader(line: str) -> None:
    assert list(foreign_reads(line))


def test_only_the_context_lists_photos_by_itself() -> None:
    """All others get them from `load_photos`, and so leave out the same ones."""
    modules = sorted([*(PACKAGE / "stages").glob("*.py"), *(PACKAGE / "forecast").glob("*.py")])
    calls = re.compile(r"\b(list_photos|choose_photos|load_dataset)\(")
    listing = [p.stem for p in modules if calls.search(p.read_text(encoding="utf-8"))]
    assert listing == ["context"]


# --- stage `contours` over all of them


def project(base: Path, photos: Path, **data: Any) -> Path:
    """A recipe of a few seconds; returns its path."""
    training = {"epochs": 1, "batch_size": 8}
    return write_recipe(
        base / "tiny.yaml",
        ("none", "none"),
        workspace=str(base / "out"),
        data={"root": str(photos), **data},
        contours={"transforms": {"translation": 0, "perspective": 0}},
        guide=training,
        downstream=training | {"seeds": [0]},
    )


def photo(path: Path, seed: int) -> None:
    """The scene in other colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shift = np.random.default_rng(seed).integers(0, 60, 3)
    path.write_bytes(encoded((scene() + shift).clip(0, 255).astype(np.uint8), "PNG"))


# What getrusage counts begins with the peak of the process that started this one.
_TELL_PEAK = """
import atexit, pathlib, re, sys
def tell():
    status = pathlib.Path("/proc/self/status").read_text()
    pathlib.Path(sys.argv[1]).write_text(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1])
atexit.register(tell)
"""
_RUN = "sys.argv[:2] = ['higfa']; from higfa_cli.cli.app import main; main()"
_TRY = """
from higfa_cli.data.images import ImageError, read_image
try:
    read_image(sys.argv[2])
except ImageError as error:
    print(error)
"""
_READ = "from higfa_cli.data.images import read_image; print(read_image(sys.argv[2])[9399, 0])"


def apart(tmp_path: Path, code: str, *arguments: str) -> tuple[str, int]:
    """What a process of its own prints, and its peak memory in kB."""
    peak = tmp_path / "peak"
    start = _TELL_PEAK.replace("sys.argv[1]", repr(str(peak))) + code
    command = [sys.executable, "-c", start, str(peak), *arguments]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=env,
        timeout=1500,
        preexec_fn=obey_permissions,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, int(peak.read_text())


def contours_apart(recipe: Path, tmp_path: Path) -> tuple[dict[str, Any], int]:
    """`higfa contours --json` in a process of its own: its result, and its peak memory in kB."""
    flags = ("contours", str(recipe), "--json", "--quiet", "--max-bad", "100%")
    out, peak = apart(tmp_path, _RUN, *flags)
    return json.loads(out), peak


def check_accounts(summary: dict[str, Any], folder: Path, found: int) -> list[dict[str, Any]]:
    """Accepted + rejected = found, every rejection listed with a reason; returns the list."""
    rows = read_jsonl(folder / "rejected.jsonl")
    photos = summary["photos"]
    assert photos["found"] == found
    assert photos["accepted"] + photos["rejected"] == found
    assert photos["rejected"] == len(rows) == len({row["key"] for row in rows})
    assert sum(summary["rejected"].values()) == len(rows)
    assert {row["reason"] for row in rows} <= set(PHOTO_FAULTS)
    assert all(row["path"].isprintable() and row["detail"] for row in rows)
    assert all({"class", "split", "state"} <= row.keys() for row in rows)
    return rows


@pytest.mark.fault(
    "images", "a folder of good and bad images", "accepted + rejected = found, no crash"
)
@pytest.mark.timeout(120)
def test_contours_over_all_of_them(tmp_path: Path) -> None:
    folder = tmp_path / "photos/train/odd"
    folder.mkdir(parents=True)
    # A folder is no photo, whatever its name.
    listed = [case for case in CASES if case.name != "folder.jpg"]
    for case in listed:
        case.write(folder / case.name)
    for number in range(3):
        photo(tmp_path / f"photos/train/plain/{number}.png", number)
        photo(tmp_path / f"photos/test/plain/{number}.png", 10 + number)
    result, peak = contours_apart(project(tmp_path, tmp_path / "photos"), tmp_path)
    rows = check_accounts(result["summary"], tmp_path / "out/contours", len(listed) + 6)
    assert len(list(folder.iterdir())) == len(listed)

    expected = {case.name: case.reason or case.listed for case in listed}
    got = {row["key"].removeprefix("train/odd/"): row["reason"] for row in rows}
    edgeless = {name for name, reason in got.items() if reason == "no-edges"}
    unusable = {name: reason for name, reason in expected.items() if reason}
    assert {name: reason for name, reason in got.items() if name not in edgeless} == unusable
    assert not edgeless & unusable.keys()
    # One pixel, one colour, or only two rows; everything that shows the scene has edges.
    assert edgeless >= {"dot.png", "just-fits.png", "ycck.jpg"}
    shown = {case.name for case in CASES if case.reason is None and case.shape == (32, 48)}
    assert edgeless & shown == {"ycck.jpg", "rows-missing.png"}

    sources = {row["source"] for row in read_jsonl(tmp_path / "out/contours/manifest.jsonl")}
    assert len(sources) == result["summary"]["photos"]["accepted"] - 3  # test photos give none
    assert peak < ONE_GB, f"{peak / 1000:.0f} MB"


@pytest.mark.fault("images", "a folder of good and bad images")
@pytest.mark.slow
@pytest.mark.skipif("HIGFA_IMAGE_CORPUS" not in os.environ, reason="no HIGFA_IMAGE_CORPUS")
@pytest.mark.timeout(1800)
def test_contours_over_a_corpus(tmp_path: Path) -> None:
    """Every file below a folder of other people's test images, whatever it is called."""
    corpus = Path(os.environ["HIGFA_IMAGE_CORPUS"])
    files = sorted(path for path in corpus.rglob("*") if path.is_file())
    folder = tmp_path / "photos/train/odd"
    folder.mkdir(parents=True)
    for number, path in enumerate(files):
        known = path.suffix.lower() in IMAGE_SUFFIXES
        name = path.name if known else f"{path.name}.jpg"
        (folder / f"{number:05}-{name}").symlink_to(path.resolve())
    for number in range(3):
        photo(tmp_path / f"photos/train/plain/{number}.png", number)
    result, peak = contours_apart(project(tmp_path, tmp_path / "photos"), tmp_path)
    check_accounts(result["summary"], tmp_path / "out/contours", len(files) + 3)
    print(f"\n{json.dumps(result['summary'])}\npeak {peak / 1000:.0f} MB, {result['seconds']} s")
    assert peak < ONE_GB, f"{peak / 1000:.0f} MB"


# --- whole runs


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Two classes of good photos with val and test, and three bad ones among them."""
    root = tmp_path / "photos"
    counts = {"train": 5, "val": 2, "test": 2}
    for number, (split, count) in enumerate(counts.items()):
        for index in range(count):
            for cls in ("a", "b"):
                photo(root / split / cls / f"{index}.png", 10 * number + index + ord(cls))
    whole = encoded(scene(), "JPEG")
    (root / "train/a/cut.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "val/b/page.jpg").write_text("<html>")
    (root / "test/a/dangling.jpg").symlink_to("nowhere")
    return project(tmp_path, root, max_bad=3)


BAD = {
    "train/a/cut.jpg": "truncated",
    "val/b/page.jpg": "not-an-image",
    "test/a/dangling.jpg": "missing",
}


def higfa(*arguments: str, exit_code: int = 0) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == exit_code, result.output
    return result


def train(recipe: Path, exit_code: int = 0) -> Result:
    return higfa("train-downstream", str(recipe), "--arm", "real", exit_code=exit_code)


def error_of(result: Result) -> str:
    """The one line that says what is wrong."""
    lines = result.stderr.strip().splitlines()
    assert sum(line.startswith("error: ") for line in lines) == 1
    assert lines[-1].startswith("error: ")
    return lines[-1]


def listed(recipe: Path) -> dict[str, str]:
    rows = read_jsonl(recipe.parent / "out/contours/rejected.jsonl")
    return {row["key"]: row["reason"] for row in rows}


def states(recipe: Path) -> dict[str, str]:
    rows = json.loads(higfa("status", str(recipe), "--json").stdout)["stages"]
    return {row["stage"]: row["state"] for row in rows}


def test_a_run_goes_on_without_the_bad_photos(recipe: Path) -> None:
    result = higfa("contours", str(recipe))
    warning = result.stderr.strip().splitlines()[-1]
    assert warning.startswith("warning: 3 of 21 photos were left out")
    assert all(key in warning for key in BAD) and "rejected.jsonl" in warning
    assert listed(recipe) == BAD
    train(recipe)
    out = recipe.parent / "out/train-downstream"
    counts = read_json(out / "results.json")["counts"]
    assert counts == {"train": 10, "val": 4, "test": 4}
    text = next(out.rglob("predictions.csv")).read_text(encoding="utf-8")
    assert text.count("\n") == 5 and "dangling" not in text
    assert states(recipe)["contours"] == "fresh"
    fresh = json.loads(
        higfa("train-downstream", str(recipe), "--arm", "real", "--json", "--quiet").stdout
    )
    assert fresh["action"] == "skipped"


def test_one_more_bad_photo_trains_nothing_anew_but_a_mended_one_does(recipe: Path) -> None:
    flags = ("train-downstream", str(recipe), "--arm", "real", "--json", "--quiet")
    higfa("contours", str(recipe))
    train(recipe)
    (recipe.parent / "photos/train/b/pipe.jpg").write_bytes(b"")
    assert states(recipe)["contours"] == "stale"
    higfa("contours", str(recipe), "--max-bad", "4")
    assert len(listed(recipe)) == 4
    more = ("--set", "data.max_bad=4")
    assert json.loads(higfa(*flags, *more).stdout)["action"] == "skipped"
    photo(recipe.parent / "photos/train/a/cut.jpg", 99)
    assert states(recipe)["contours"] == "stale"
    # The list still names it, but it is another file now, and is read.
    assert json.loads(higfa(*flags, *more).stdout)["summary"]["counts"]["train"] == 11
    higfa("contours", str(recipe))
    assert "train/a/cut.jpg" not in listed(recipe)
    assert json.loads(higfa(*flags).stdout)["action"] == "skipped"


def test_without_contours_a_bad_photo_is_one_line(recipe: Path) -> None:
    message = error_of(train(recipe, exit_code=1))
    assert "dangling.jpg" in message and "missing" in message and "`higfa contours`" in message
    assert not (recipe.parent / "out/train-downstream").exists()


@pytest.mark.fault("images", "a file that turns bad between stages", "one line")
@pytest.mark.parametrize("where", ["train", "test"])
@pytest.mark.parametrize("how", ["cut", "empty", "pipe", "gone-link"])
def test_a_file_that_turns_bad_between_stages(recipe: Path, where: str, how: str) -> None:
    """Named before anything is trained, without a crash or a hang; then `contours` mends it."""
    higfa("contours", str(recipe))
    path = recipe.parent / f"photos/{where}/b/0.png"
    data = path.read_bytes()
    path.unlink()
    match how:
        case "cut":
            path.write_bytes(data[: len(data) // 2])
        case "empty":
            path.write_bytes(b"")
        case "pipe":
            os.mkfifo(path)
        case "gone-link":
            path.symlink_to("nowhere")
    message = error_of(train(recipe, exit_code=1))
    assert f"{where}/b/0.png" in message and "`higfa contours`" in message
    assert not list((recipe.parent / "out").rglob("model.safetensors"))
    assert states(recipe)["contours"] == "stale"
    more = ("--set", "data.max_bad=20%")
    higfa("contours", str(recipe), *more)
    assert f"{where}/b/0.png" in listed(recipe)
    higfa("train-downstream", str(recipe), "--arm", "real", *more)
    counts = read_json(recipe.parent / "out/train-downstream/results.json")["counts"]
    assert counts == {"train": 10, "val": 4, "test": 4} | {where: 9 if where == "train" else 3}


def test_a_bad_picture_of_another_arm_is_named_before_anything_is_trained(recipe: Path) -> None:
    higfa("contours", str(recipe))
    other = recipe.parent / "other"
    photo(other / "a/0.png", 0)
    (other / "b").mkdir()
    (other / "b/0.png").write_bytes(b"")
    result = higfa("train-downstream", str(recipe), "--synthetic", str(other), exit_code=1)
    assert "other/b/0.png: empty" in error_of(result)
    assert not (recipe.parent / "out/train-downstream").exists()


@pytest.mark.fault("images", "some photos are bad", "left out by every stage alike")
def test_every_stage_leaves_out_the_same_photos(recipe: Path) -> None:
    higfa("contours", str(recipe))
    ctx = make_context(load_recipe(str(recipe)))
    want = load_photos(ctx)
    assert len(want.samples) == 18 and not BAD.keys() & {one.key for one in want.samples}
    for stage in (drawing, finetune_guide, filter, train_downstream):
        assert stage.load_photos is load_photos
    assert want == drawing.load_photos(ctx) == finetune_guide.load_photos(ctx)
    files = downstream_inputs(ctx, arms=["real"]).files
    assert files["data/train"] == want.fingerprint("train")
    everything = load_dataset(ctx.recipe.data, ctx.base, 0)
    assert everything.fingerprint("train") != want.fingerprint("train")


# --- --strict and --max-bad


@pytest.mark.fault("images", "`--strict`, `--max-bad`", "list and fail")
def test_strict_lists_what_is_bad_and_fails(recipe: Path) -> None:
    for _ in range(2):  # the second time from the list
        message = error_of(higfa("contours", str(recipe), "--strict", exit_code=1))
        assert all(f"{key} ({reason})" in message for key, reason in BAD.items())
    assert listed(recipe) == BAD
    assert not (recipe.parent / "out/contours/manifest.jsonl").exists()
    assert states(recipe)["contours"] == "partial"
    higfa("contours", str(recipe))
    before = (recipe.parent / "out/contours/manifest.jsonl").read_bytes()
    # What a lenient run has made is not undone by asking strictly.
    error_of(higfa("contours", str(recipe), "--strict", exit_code=1))
    assert (recipe.parent / "out/contours/manifest.jsonl").read_bytes() == before
    assert states(recipe)["contours"] == "fresh"
    for key in BAD:
        (recipe.parent / "photos" / key).unlink()
    higfa("contours", str(recipe), "--strict")
    assert listed(recipe) == {}


@pytest.mark.fault("images", "`--strict`, `--max-bad`")
@pytest.mark.parametrize(
    ("limit", "code"),
    [("0", 1), ("2", 1), ("3", 0), ("14%", 1), ("14.3%", 0), ("100%", 0)],
)
def test_max_bad_is_a_number_or_a_part(recipe: Path, limit: str, code: int) -> None:
    """3 of 21 are 14.29 %."""
    result = higfa("contours", str(recipe), "--max-bad", limit, exit_code=code)
    if code:
        assert f"data.max_bad is {limit}" in error_of(result)
        assert "3 of 21" in error_of(result)


@pytest.mark.parametrize("limit", ["-1", "ten", "101%", "5 %", "1.5", ""])
def test_max_bad_must_be_one_of_them(recipe: Path, limit: str) -> None:
    assert "max_bad" in error_of(higfa("contours", str(recipe), f"--max-bad={limit}", exit_code=2))


def test_strict_and_max_bad_exclude_each_other(recipe: Path) -> None:
    higfa("contours", str(recipe), "--strict", "--max-bad", "3", exit_code=2)


@pytest.mark.parametrize(
    ("limit", "found", "many"),
    [("10%", 9, 0), ("10%", 10, 1), ("10%", 19, 1), ("29%", 100, 29), ("0%", 9, 0), (7, 3, 7)],
)
def test_how_many_may_be_bad(limit: int | str, found: int, many: int) -> None:
    assert allowed(limit, found) == many
    assert Data(root="x", max_bad=limit).max_bad == limit


def test_no_stage_trains_on_what_is_left_of_too_many(recipe: Path) -> None:
    higfa("contours", str(recipe), "--strict", exit_code=1)
    message = error_of(
        higfa("train-downstream", str(recipe), "--arm", "real", "--set", "data.max_bad=0",
              exit_code=1)
    )  # fmt: skip
    assert "3 of 21 photos cannot be used" in message


def test_force_looks_again(recipe: Path) -> None:
    """A list that is wrong (an error of the disk, an older version) must not bind for ever."""
    higfa("contours", str(recipe))
    path = recipe.parent / "out/contours/rejected.jsonl"
    root = recipe.parent / "photos"
    good = {"key": "train/a/0.png", "path": "train/a/0.png", "class": "a", "split": "train"}
    good |= {"reason": "empty", "detail": "-", "state": file_state(root / "train/a/0.png")}
    path.write_text(path.read_text() + json.dumps(good) + "\n")
    assert "4 of 21" in error_of(higfa("contours", str(recipe), exit_code=1))
    higfa("contours", str(recipe), "--force")
    assert listed(recipe) == BAD


@pytest.mark.parametrize("line", ["[]", "{", '{"key": "x"}', '{"key": 1, "reason": "empty"}'])
def test_a_broken_list_is_named(recipe: Path, line: str) -> None:
    higfa("contours", str(recipe))
    (recipe.parent / "out/contours/rejected.jsonl").write_text(line + "\n")
    assert "rejected.jsonl" in error_of(train(recipe, exit_code=1))


# --- nothing left


@pytest.mark.fault("images", "a class of which nothing is left", "error")
@pytest.mark.parametrize(("split", "said"), [("train", "class `a`"), ("val", "split val")])
def test_a_class_or_a_split_of_which_nothing_is_left(recipe: Path, split: str, said: str) -> None:
    folders = [recipe.parent / f"photos/{split}/a"]
    if split != "train":
        folders.append(recipe.parent / f"photos/{split}/b")
    for path in [path for folder in folders for path in folder.iterdir()]:
        path.write_bytes(b"")
    for _ in range(2):
        message = error_of(higfa("contours", str(recipe), "--max-bad", "100%", exit_code=1))
        assert said in message and f"{split}/a/0.png (empty)" in message
    assert len(listed(recipe)) >= 5


def test_a_photo_that_is_all_banner_depends_on_the_crop(recipe: Path) -> None:
    low = recipe.parent / "photos/train/b/low.png"
    low.write_bytes(encoded(scene()[:8], "PNG"))
    crop = ("--max-bad", "4", "--set", "data.crop_bottom=8")
    higfa("contours", str(recipe), *crop)
    assert listed(recipe)["train/b/low.png"] == "too-small"
    rejected = read_rejected(recipe.parent / "out/contours/rejected.jsonl")
    root = str(recipe.parent / "photos")
    for rows, there in ((8, False), (7, True), (0, True)):
        data = Data(root=root, crop_bottom=rows, max_bad=4)
        keys = {sample.key for sample in load_dataset(data, recipe.parent, 0, rejected).samples}
        assert ("train/b/low.png" in keys) == there
    higfa("contours", str(recipe), "--max-bad", "4")
    assert listed(recipe) == BAD | {"train/b/low.png": "no-edges"}


def test_shots_are_drawn_from_the_photos_that_can_be_used(recipe: Path) -> None:
    root = recipe.parent / "photos"
    higfa("contours", str(recipe))
    data = Data(root=str(root), shots=3, max_bad=5)
    path = recipe.parent / "out/contours/rejected.jsonl"

    def chosen() -> list[str]:
        found = load_dataset(data, recipe.parent, 0, read_rejected(path))
        return [sample.key for sample in found.of("train") if sample.cls == "b"]

    before = chosen()
    (root / before[0]).write_bytes(b"")
    higfa("contours", str(recipe), "--max-bad", "4")
    after = chosen()
    assert len(after) == 3 and before[0] not in after and set(before[1:]) < set(after)


@pytest.mark.fault("images", "not enough memory for a picture; the largest picture")
def test_the_largest_picture_that_is_read_stays_under_a_gigabyte(tmp_path: Path) -> None:
    """With every conversion on its way: palette, transparency, a quarter turn."""
    (tmp_path / "large.png").write_bytes(large_palette_png(9400))
    out, peak = apart(tmp_path, _READ, str(tmp_path / "large.png"))
    assert out.split() == ["[255", "0", "0]"]
    assert peak < ONE_GB, f"{peak / 1000:.0f} MB"


def test_file_states_tell_content_from_the_lack_of_it(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    shutil.copy(tmp_path / "a", tmp_path / "b")
    os.mkfifo(tmp_path / "pipe")
    assert file_state(tmp_path / "a") == file_state(tmp_path / "b")
    assert re.fullmatch("[0-9a-f]{64}", file_state(tmp_path / "a"))
    assert file_state(tmp_path / "pipe") == file_state(tmp_path / "none") == "not a regular file"
    assert file_state(tmp_path / "a", 3) != file_state(tmp_path / "a", 4)
    assert file_state(Path("\0")) == "not a regular file"
