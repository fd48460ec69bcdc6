"""One reader of image files: every file has its outcome, and nobody else reads any."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

import higfa_cli
from higfa_cli.artifacts.rows import ImageFault
from higfa_cli.data.images import ImageError, read_image
from higfa_cli.data.rejected import file_state
from tests.support.apart import apart
from tests.support.bad_images import cases
from tests.support.image_bytes import Case, one_bit_png

CASES = cases()
_TRY = """
from higfa_cli.data.images import ImageError, read_image
try:
    read_image(sys.argv[2])
except ImageError as error:
    print(error)
"""
ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
PACKAGE = Path(higfa_cli.__file__).parent


def label(case: Case) -> str:
    return ascii(case.name)[1:-1][:40]


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
    rooms = ("stages", "trained", "forecast")
    modules = sorted(path for room in rooms for path in (PACKAGE / room).glob("*.py"))
    calls = re.compile(r"\b(list_photos|choose_photos|load_dataset)\(")
    listing = [p.stem for p in modules if calls.search(p.read_text(encoding="utf-8"))]
    assert listing == ["context"]


def test_file_states_tell_content_from_the_lack_of_it(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    shutil.copy(tmp_path / "a", tmp_path / "b")
    os.mkfifo(tmp_path / "pipe")
    assert file_state(tmp_path / "a") == file_state(tmp_path / "b")
    assert re.fullmatch("[0-9a-f]{64}", file_state(tmp_path / "a"))
    assert file_state(tmp_path / "pipe") == file_state(tmp_path / "none") == "not a regular file"
    assert file_state(tmp_path / "a", 3) != file_state(tmp_path / "a", 4)
    assert file_state(Path("\0")) == "not a regular file"
