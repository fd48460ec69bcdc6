"""What hostile files are made of: a canary that code would touch, and paths that lead out."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from typer.testing import CliRunner

from higfa_cli.cli.app import app

BACKBONE = "test_resnet.r160_in1k"
SMALL = {"backbone": BACKBONE, "pretrained": False, "image_size": 32, "epochs": 1, "batch_size": 8}

# A photo lies at ROOT/../secret.png; ROOT/link leads to ROOT/.. and ROOT/link.png to the photo.
PATHS = {
    "parent": "../secret.png",
    "parent-inside": "train/../../secret.png",
    "absolute": "/{outside}/secret.png",
    "home": "~/secret.png",
    "folder-link": "link/secret.png",
    "file-link": "link.png",
    "nul": "train/\0secret.png",
    "windows-parent": "..\\secret.png",
    "windows-drive": "C:\\secret.png",
    "windows-drive-relative": "C:secret.png",
    "windows-root": "\\secret.png",
    "windows-share": "\\\\server\\share\\secret.png",
    "share": "//server/share/secret.png",
    "dot": ".",
    "long-name": "x" * 5000 + ".png",
    "long-path": "train/" * 2000 + "secret.png",
    "no-such-user": "~nobody-of-that-name/secret.png",
}


class Canary:
    """A file that appears as soon as any of the code planted here runs."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "canary"

    @property
    def dead(self) -> bool:
        return self.path.exists()

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))

    def pickled(self, kind: str = "plain") -> bytes:
        """A pickle that touches the canary when it is opened; `torch`: as torch.save writes it."""
        if kind == "plain":
            return pickle.dumps({"state_dict": self})
        buffer = io.BytesIO()
        torch.save({"conv1.weight": torch.zeros(1), "state_dict": self}, buffer)
        return buffer.getvalue()

    def source(self, *classes: str) -> str:
        """Python source that touches the canary when it is imported."""
        return f"open({str(self.path)!r}, 'w').close()\n" + "".join(
            f"class {name}: pass\n" for name in classes
        )


def photo(path: Path, seed: int = 0) -> Path:
    """A small picture with edges."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 10, 3)).astype(np.uint8)
    Image.fromarray(pixels).resize((40, 32), Image.Resampling.NEAREST).save(path)
    return path


def hostile_root(folder: Path) -> Path:
    """A data folder with the links that PATHS speaks of, beside a photo that it must not reach."""
    root = folder / "data"
    root.mkdir(parents=True)
    photo(folder / "secret.png")
    (root / "link").symlink_to(folder)
    (root / "link.png").symlink_to(folder / "secret.png")
    return root


def path_of(name: str, folder: Path) -> str:
    """One of PATHS, for a data folder in `folder`."""
    return PATHS[name].replace("/{outside}", str(folder))


def higfa(*arguments: str | Path) -> tuple[int, bytes]:
    """Exit code, and all that was printed to stdout and stderr."""
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    return result.exit_code, result.stdout_bytes + result.stderr_bytes


def assert_inert(printed: bytes) -> None:
    """Nothing in it is a command to a terminal, or turns the direction of the text."""
    text = printed.decode("utf-8")
    bad = [c for c in text if c != "\n" and not c.isprintable() and c != "\u200d"]
    assert not bad, repr([text[max(0, text.index(c) - 60) : text.index(c) + 20] for c in bad[:3]])
