"""Stage `contours` over bad and odd files: each accounted for, within a gigabyte."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from higfa_cli.artifacts.atomic import read_jsonl
from higfa_cli.artifacts.rows import PHOTO_FAULTS
from higfa_cli.data.layouts.files import IMAGE_SUFFIXES
from tests.support.apart import apart
from tests.support.bad_images import cases
from tests.support.image_bytes import large_palette_png
from tests.support.photo_folders import photo, project

CASES = cases()


# Kilobytes, as the kernel counts the most that a process ever held.
ONE_GB = 10**6


_RUN = "sys.argv[:2] = ['higfa']; from higfa_cli.cli.app import main; main()"


_READ = "from higfa_cli.data.images import read_image; print(read_image(sys.argv[2])[9399, 0])"


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


@pytest.mark.fault("images", "not enough memory for a picture; the largest picture")
def test_the_largest_picture_that_is_read_stays_under_a_gigabyte(tmp_path: Path) -> None:
    """With every conversion on its way: palette, transparency, a quarter turn."""
    (tmp_path / "large.png").write_bytes(large_palette_png(9400))
    out, peak = apart(tmp_path, _READ, str(tmp_path / "large.png"))
    assert out.split() == ["[255", "0", "0]"]
    assert peak < ONE_GB, f"{peak / 1000:.0f} MB"
