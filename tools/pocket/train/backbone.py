"""The pocket's pretrained backbone: it knows families of airliners, and no variants.

    python -m tools.pocket.train.backbone --web WEB --run RUN --package pocket/higfa_pocket

What ImageNet weights are to real photos: a network that has seen the web, with coarse labels only.
The web pool's family names ("Boeing 737") are the labels; which variant a picture shows is never
told. Writes PACKAGE/backbone.safetensors (float16, normalisation in its metadata). Run again to
resume, with more --epochs to go on; PACKAGE is written when the last epoch is done.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from higfa_cli.models.classifier import network_input
from tools.pocket.lab.augment import mirrored, moved
from tools.pocket.pocket_render.records import read_records
from tools.pocket.train.course import Course, Pace
from tools.pocket.train.webdata import held_out, load_stack, numbered, read_web

ARCHITECTURE = "regnetx_002"
PICTURE_SIDE, INPUT_SIDE = 64, 128
HALF = (0.5, 0.5, 0.5)
BATCH = 64
PEAK_RATE = 2e-3
RISING = 0.07
GAIN, OFFSET = 0.15, 0.05


def family_labels(web: Path) -> tuple[list[str], Tensor]:
    """Families in alphabetical order, and the label of every record."""
    rows = read_records(web / "records.jsonl")
    return numbered([str(row["family"]) for row in rows])


def load_pictures(web: Path) -> Tensor:
    """uint8 [N, 3, 64, 64] in the order of the records."""
    return load_stack((picture.path for picture in read_web(web)), PICTURE_SIDE)


def lightly_changed(pictures: Tensor) -> Tensor:
    """uint8 [N, 3, S, S] -> float in 0..255: mirrored by half, moved a little, other exposure.

    Not `augment`: with colours swapped as the judges see them this network learned nothing in
    three epochs.
    """
    x = moved(mirrored(pictures.float() / 255))
    x = x * (1 + GAIN * torch.randn(len(x), 1, 1, 1)) + OFFSET * torch.randn(len(x), 3, 1, 1)
    return x.clamp(0, 1) * 255


def ready(pictures: Tensor) -> Tensor:
    """Pictures 0..255 of any type to the network's input, as a guide of 128 pixels sees them."""
    x = network_input(pictures.float() / 127.5 - 1.0, INPUT_SIDE, HALF, HALF)
    return x.contiguous(memory_format=torch.channels_last)


def train(web: Path, run: Path, epochs: int) -> nn.Module:
    """The network in evaluation mode after `epochs`, from its checkpoint where there is one."""
    torch.manual_seed(0)
    pictures = load_pictures(web)
    families, labels = family_labels(web)
    hold = torch.from_numpy(held_out(read_web(web), seed=0))
    network: nn.Module = timm.create_model(ARCHITECTURE, num_classes=len(families))
    network = network.to(memory_format=torch.channels_last)
    learn = pictures[~hold]
    course = Course(
        network,
        lambda chosen: ready(lightly_changed(learn[chosen])),
        labels[~hold],
        Pace(epochs, BATCH, PEAK_RATE, RISING, fall="linear"),
        run / "backbone.pt",
    )
    course.run(
        lambda: accuracy(network, pictures[hold], labels[hold]),
        run / "backbone.jsonl",
        ARCHITECTURE,
    )
    return network.eval()


@torch.no_grad()
def accuracy(network: nn.Module, pictures: Tensor, labels: Tensor) -> float:
    """Share of right families, in evaluation mode."""
    network.eval()
    guesses = torch.cat([network(ready(part)).argmax(1) for part in pictures.split(128)])
    return float((guesses == labels).float().mean())


def export(network: nn.Module, package: Path) -> None:
    """Write the weights as `guide.weights` reads them; the head belongs to families and is left."""
    tensors = {
        name: value.half().contiguous() if value.is_floating_point() else value
        for name, value in network.state_dict().items()
        if not name.startswith("head.fc.")
    }
    partial = package / "backbone.partial"
    about = json.dumps({"mean": HALF, "std": HALF}, sort_keys=True)
    save_file(tensors, partial, metadata={"higfa": about})
    partial.chmod(0o644)
    partial.replace(package / "backbone.safetensors")


def main() -> None:
    """Read the command line, train and export."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--web", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--package", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=18)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.run.mkdir(parents=True, exist_ok=True)
    export(train(asked.web, asked.run, asked.epochs), asked.package)


if __name__ == "__main__":
    main()
