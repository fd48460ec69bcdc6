"""The judges: two classifiers that know the truth about the web, and that nothing else uses.

Each is trained on true labels of the `web` pool alone, at several sizes of picture, and is of
another architecture than the guide. A judge reads uint8 pictures; its temperature is fitted on
airlines of the web pool that it was not trained on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from higfa_cli.artifacts.atomic import write_bytes
from higfa_cli.errors import UserError
from tools.pocket.lab.freeze import data_hash
from tools.pocket.pocket_render.catalogue import load_classes

# Rows kept from the square picture: the aircraft is in the middle, the rest is sky, and leaving
# it out saves a third of the time.
KEPT_ROWS = (0.1875, 0.8125)
# Pixels that a judge's input is enlarged to: a net that halves its input five times would
# otherwise see an aircraft of 64 pixels as two cells.
INPUT_SIDE = 128
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "resnet10t": {"channels": (32, 64, 128, 256), "stem_width": 16},
    "densenet121": {"growth_rate": 16, "block_config": (4, 6, 8, 6)},
}
BATCH = 128


@dataclass(frozen=True)
class JudgeSpec:
    """What a judge's file says about it.

    `sizes`: sides of the pictures it was trained on, pixels; calibrated on those of the first.
    `temperature` > 0 divides the logits. `data`: hash of the frozen class list, pools and caption
    rates.
    """

    architecture: str
    classes: tuple[str, ...]
    sizes: tuple[int, ...]
    temperature: float
    data: str

    @property
    def size(self) -> int:
        """Side of the pictures it was calibrated on."""
        return self.sizes[0]


class Judge:
    """A trained judge in evaluation mode."""

    def __init__(self, network: nn.Module, spec: JudgeSpec) -> None:
        self.network = network.eval().requires_grad_(False)
        self.spec = spec

    @torch.no_grad()
    def log_probabilities(self, pictures: Tensor) -> Tensor:
        """uint8 square pictures [N, 3, S, S] -> calibrated log p, [N, K] float32."""
        parts = [self.network(judge_input(part)) for part in keep_rows(pictures).split(BATCH)]
        return (torch.cat(parts) / self.spec.temperature).log_softmax(dim=1)


def keep_rows(pictures: Tensor) -> Tensor:
    """The middle rows of square pictures [N, 3, S, S]."""
    side = pictures.shape[-1]
    top, bottom = (round(share * side) for share in KEPT_ROWS)
    return pictures[:, :, top:bottom]


def judge_input(rows: Tensor) -> Tensor:
    """Middle rows, 0..255 of any type, to a network's input, enlarged where they are small."""
    x = (rows.float() - 127.5) / 64.0
    if x.shape[-1] < INPUT_SIDE:
        x = nn.functional.interpolate(
            x, scale_factor=INPUT_SIDE / x.shape[-1], mode="bilinear", align_corners=False
        )
    return x.contiguous(memory_format=torch.channels_last)


def build(architecture: str, classes: int) -> nn.Module:
    """An untrained judge. Raises KeyError for a network that is no judge's."""
    settings = ARCHITECTURES[architecture]
    network: nn.Module = timm.create_model(architecture, num_classes=classes, **settings)
    return network.to(memory_format=torch.channels_last)


def save_judge(path: Path, network: nn.Module, spec: JudgeSpec) -> None:
    """Write weights (float16) and spec; the file appears complete or not at all."""
    tensors = {
        name: value.detach().half().contiguous() if value.is_floating_point() else value
        for name, value in network.state_dict().items()
    }
    metadata = {"judge": json.dumps(asdict(spec), sort_keys=True)}
    write_bytes(path, save(tensors, metadata=metadata))


def load_judge(path: Path) -> Judge:
    """Read a judge.

    Raises FileNotFoundError: none at `path`; ValueError: the file is no judge's.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no judge; leave --judges out to ask the shipped ones")
    try:
        return _read_judge(path)
    except (SafetensorError, KeyError, TypeError, RuntimeError) as error:
        said = str(error).splitlines()[0]
        raise ValueError(f"{path}: no judge's file ({said}); leave --judges out") from error


def _read_judge(path: Path) -> Judge:
    with safe_open(path, framework="pt") as stored:
        about = json.loads(stored.metadata()["judge"])
        state = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    spec = JudgeSpec(**about | {name: tuple(about[name]) for name in ("classes", "sizes")})
    network = build(spec.architecture, len(spec.classes))
    network.load_state_dict(
        {n: v.float() if v.is_floating_point() else v for n, v in state.items()}
    )
    return Judge(network, spec)


def load_judges(folder: Path) -> tuple[Judge, ...]:
    """All judges of a folder. Raises UserError for none, or of different sizes or classes."""
    try:
        judges = tuple(load_judge(folder / f"{name}.safetensors") for name in ARCHITECTURES)
    except (FileNotFoundError, ValueError) as error:
        raise UserError(str(error)) from None
    about = {(judge.spec.classes, judge.spec.sizes, judge.spec.data) for judge in judges}
    if len(about) != 1:
        raise UserError(f"{folder}: the judges are of different classes, sizes or data")
    return judges


def jury_of(votes: Tensor) -> Tensor:
    """log of the judges' mean probability, [N, K], from the log p of each, [J, N, K]."""
    return votes.logsumexp(dim=0) - torch.log(torch.tensor(float(len(votes))))


def jury_log_probabilities(judges: Sequence[Judge], pictures: Tensor) -> Tensor:
    """log of the judges' mean probability, [N, K], in their own order of classes."""
    return jury_of(torch.stack([judge.log_probabilities(pictures) for judge in judges]))


def check_jury(judges: Sequence[Judge], classes: Sequence[str], size: int) -> None:
    """Raises UserError when the judges know other classes, or were trained on another size."""
    spec = judges[0].spec
    if set(spec.classes) != set(classes):
        odd = sorted(set(spec.classes) ^ set(classes))
        raise UserError(
            f"the judges' {len(spec.classes)} classes are not the data's {len(classes)} "
            f"({', '.join(odd[:3])}); train judges on these classes"
        )
    if size != spec.size:
        raise UserError(
            f"the judges read {spec.size} px, the pictures have {size}; "
            "train judges at the pictures' size"
        )


def votes(judges: Sequence[Judge], pictures: Tensor, classes: Sequence[str]) -> Tensor:
    """Each judge's log p in the order of `classes`, [J, N, K]. Raises UserError as `check_jury`."""
    check_jury(judges, classes, pictures.shape[-1])
    columns = torch.tensor([judges[0].spec.classes.index(name) for name in classes])
    return torch.stack([judge.log_probabilities(pictures)[:, columns] for judge in judges])


def check_data(judges: tuple[Judge, ...]) -> tuple[Judge, ...]:
    """The judges. Raises UserError when they know other data than the pocket's."""
    spec = judges[0].spec
    if spec.classes != tuple(load_classes()) or spec.data != data_hash():
        raise UserError(
            "the judges were trained on other classes or pools than the pocket's; train them "
            "again: python -m tools.pocket.lab.train_judges"
        )
    return judges
