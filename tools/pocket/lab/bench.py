"""The measuring bench: what is asked on the command line, and arms drawn and measured once each."""

from __future__ import annotations

import argparse
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from PIL import Image
from torch import Tensor

from higfa_cli.artifacts.atomic import read_json
from higfa_cli.artifacts.fingerprint import hash_file, hash_json
from higfa_cli.artifacts.lock import folder_lock
from higfa_cli.cli.quiet import silence_libraries
from higfa_cli.data.dataset import load_dataset
from higfa_cli.errors import UserError
from higfa_cli.method.guidance import Guidance
from higfa_cli.models.device import resolve_device
from higfa_cli.recipe.load import load_recipe
from higfa_cli.recipe.refs import resolve_ref
from higfa_cli.stages.context import Context
from higfa_cli.stages.inputs import model_inputs
from tools.pocket.lab import figures
from tools.pocket.lab.arms import DRAWN, HIGFA, Arm
from tools.pocket.lab.draw import (
    Setting,
    Workers,
    arm_context,
    draw_arm,
    guide_file,
    jobs_of,
    photos_of,
    prepare,
    worker_pool,
)
from tools.pocket.lab.features import NAME as FEATURES
from tools.pocket.lab.judges import Judge, load_judges
from tools.pocket.lab.scores import Score, check_jury, jury
from tools.pocket.lab.strips import strip
from tools.pocket.lab.text import percent
from tools.pocket.train.unpack import CONTROLNET, HISTORY, TEXT, UNET, VAE

ROOT = Path(__file__).resolve().parents[3]
RECIPE = ROOT / "recipes" / "pocket-aircraft.yaml"
JUDGES = ROOT / "pocket" / "judges"
COLUMNS = 8

Features = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Request:
    """What a command is asked.

    `recipe`: file or built-in name. `judges`: their folder. `workspace`: where contours, guides
    and drawn pictures are kept. `out`: for `data/` (numbers), `pictures/` and pages, as docs/ is.
    """

    recipe: str
    judges: Path
    workspace: Path
    out: Path
    per_class: int
    workers: int

    def data(self, page: str) -> Path:
        """The numbers that a page is made of."""
        return self.out / "data" / f"{page}.json"


def command(
    about: str,
    per_class: int,
    flag: str,
    names: str,
    work: Callable[[Request, Sequence[str], Features], Any],
) -> None:
    """Read the command line of a bench's command, and work on the names that `flag` gives.

    `about`: first line of the help; `names`: what `flag` takes. `per_class`: pictures per class
    where none are asked for.
    """
    parser = argparse.ArgumentParser(description=about)
    add = parser.add_argument
    add("--recipe", default=str(RECIPE), help="file or built-in name (default: %(default)s)")
    add("--judges", type=Path, default=JUDGES, help="their folder (default: %(default)s)")
    add(
        "--workspace",
        type=Path,
        required=True,
        help="folder, perhaps new, of contours, guides (trained there, some minutes each) and "
        "drawn pictures",
    )
    add("--out", type=Path, required=True, help="folder of numbers, pages and their pictures")
    per_arm = "pictures per class and arm (default: %(default)s)"
    add("--per-class", type=int, default=per_class, help=per_arm)
    add("--workers", type=int, default=2, help="processes that draw (default: %(default)s)")
    add(flag, nargs="+", dest="names", default=(), help=names)
    asked = parser.parse_args()
    silence()
    request = Request(**{name: getattr(asked, name) for name in Request.__dataclass_fields__})
    try:
        check_pocket(request.recipe)
        work(request, asked.names, default_features())
    except UserError as error:
        raise SystemExit(str(error)) from None


def silence() -> None:
    """Quiet libraries. They have been imported, and no longer read what silences them elsewhere."""
    silence_libraries()
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


def check_pocket(recipe: str, checkout: Path = ROOT) -> None:
    """Raises UserError when the recipe draws with an installed pocket that is not the checkout's.

    Weights that were trained here and not installed would otherwise never be measured.
    """
    model = load_recipe(recipe).recipe.model.base
    if not model.startswith("pocket:"):
        return
    installed = Path(resolve_ref(model, checkout)).parent
    own = checkout / "pocket" / "higfa_pocket"
    for file in (UNET, CONTROLNET, VAE, TEXT):
        if hash_file(installed / file) != hash_file(own / file):
            raise UserError(
                f"{installed / file} is not {own / file}: the installed pocket is another one; "
                "pip install ./pocket"
            )


def default_features() -> Features:
    """The laboratory's feature space. Raises UserError when its weights are not installed."""
    from tools.pocket.lab.features import features_of, load_feature_network

    return partial(features_of, load_feature_network())


class Bench:
    """A setting with its instruments: draws and measures arms, each once.

    Args:
        setting: what is drawn.
        judges: the jury, for pictures of the setting's size.
        features: uint8 [N, 3, S, S] -> unit vectors [N, D].
        cache: folder of drawn pictures.
        pool: who draws.
    """

    def __init__(
        self,
        setting: Setting,
        judges: Sequence[Judge],
        features: Features,
        cache: Path,
        pool: Workers,
    ) -> None:
        self.setting, self.judges, self.features = setting, tuple(judges), features
        self.cache, self.pool = cache, pool
        self._known: dict[str, Score] = {}

    def ahead(self, arms: Iterable[Arm]) -> None:
        """Have the arms drawn in the background, so that no worker waits while one is measured.

        Raises UserError as `draw_arm`.
        """
        for arm in arms:
            self.pool.ask(jobs_of(self.setting, arm, self.cache))

    def measure(self, arm: Arm) -> Score:
        """Draw (or read) and measure, and print a line. Raises UserError as `draw_arm`, `jury`."""
        guide = guide_file(self.setting, arm)
        about = arm_context(self.setting, arm).recipe.model_dump(mode="json")
        key = hash_json([about, None if guide is None else hash_file(guide)])
        if key not in self._known:
            began = time.monotonic()
            drawings = draw_arm(self.setting, arm, self.cache, pool=self.pool)
            log_p = jury(self.judges, drawings.pictures, self.setting.classes)
            hits = figures.agreement(log_p, drawings.labels) & ~drawings.failed
            score = Score(drawings, log_p, hits, self.features(drawings.pictures))
            took = time.monotonic() - began
            print(f"{arm.name}: agreement {percent(score.agreement)} %, {took:.0f} s", flush=True)
            self._known[key] = score
        return self._known[key]

    def strip(self, rows: Sequence[tuple[str, Score]]) -> Image.Image:
        """The first items: contours, photos, and a line of pictures per score."""
        few = slice(None, COLUMNS)
        first = rows[0][1].drawings
        lines = [("contour", first.contours[few]), ("photo", photos_of(self.setting)[few])]
        lines += [(name, score.drawings.pictures[few]) for name, score in rows]
        return strip(lines, [item.cls for item in self.setting.items[few]])


@contextmanager
def open_bench(
    request: Request, split: str, features: Features, guide: bool = True
) -> Iterator[Bench]:
    """Contours of the split and, where asked, the guide made ready, and workers started.

    One command at a time has the workspace. Raises UserError as `prepare` and `folder_lock`.
    """
    with folder_lock(request.workspace):
        judges = _judges(request)
        setting = prepare(request.recipe, request.workspace, split, request.per_class, guide=guide)
        with worker_pool(request.workers) as pool:
            cache = request.workspace / "drawn"
            yield Bench(setting, judges, features, cache, pool)


def constants(own: Guidance) -> str:
    """The method's constants in one line."""
    c = own.classifier
    switch = f"tau {c.switch:g}" if c.switch_sigma is None else f"tau at sigma {c.switch_sigma:g}"
    return (
        f"S_T {own.text.scale:g} (floor {own.text.floor:g}), S_C {own.contour.scale:g} (floor "
        f"{own.contour.floor:g}), S_K {c.scale:g}, gamma {c.gamma:g}, {switch}, modulation "
        f"{c.modulation} (power {c.power:g}), confidence {c.confidence}, gradient {c.gradient}, "
        f"read {c.read}, grad_norm {c.grad_norm}"
    )


def device_name(name: str) -> str:
    """What drew, for a reader: the GPU's name, or how many threads of a CPU.

    Raises as `resolve_device`.
    """
    device = resolve_device(name)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"one thread of {device.type}"


def _judges(request: Request) -> tuple[Judge, ...]:
    """The judges, checked before any long work."""
    try:
        judges = load_judges(request.judges)
    except (FileNotFoundError, ValueError) as error:
        raise UserError(str(error)) from None
    loaded = load_recipe(request.recipe)
    recipe = loaded.recipe
    classes = load_dataset(recipe.data, loaded.base, recipe.seed).classes
    check_jury(judges, classes, recipe.size)
    return judges


def made(ctx: Context, page: str, flags: str = "") -> dict[str, str]:
    """Where a page's numbers come from: command, commit, weights and machine."""
    head = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude", "*"]
    found = subprocess.run(head, capture_output=True, text=True, check=False)
    recipe = ctx.recipe
    weights = recipe.model.base
    if weights.startswith("pocket:"):
        weights = f"pocket, step {read_json(ROOT / 'pocket' / HISTORY)['denoiser']['step']:,}"
    return {
        "command": f"python -m tools.pocket.lab.{page}{flags} --workspace DIR --out OUT",
        "commit": found.stdout.strip() or "no checkout",
        "weights": weights,
        "machine": device_name(recipe.run.device),
    }


def start_results(path: Path, request: Request, bench: Bench, split: str) -> dict[str, Any]:
    """What a command's JSON file begins with: what was drawn, and the `parts` that still hold.

    Parts of an earlier run stay when recipe, guide, judges and contours are the same.
    """
    setting, recipe = bench.setting, bench.setting.ctx.recipe
    guide = guide_file(setting, HIGFA)
    base = {
        "recipe": recipe.model_dump(mode="json", include=DRAWN),
        "models": model_inputs(setting.ctx, setting.classes),
        "guide": guide and hash_file(guide),
        "judges": [hash_file(file) for file in sorted(request.judges.glob("*.safetensors"))],
        "items": [[item.id, item.contour_sha256] for item in setting.items],
    }
    new = {
        "made": made(setting.ctx, path.stem),
        "base": hash_json(base),
        "recipe": recipe.name,
        "seed": recipe.seed,
        "steps": recipe.sampling.steps,
        "device": device_name(recipe.run.device),
        "constants": constants(recipe.guidance),
        "features": FEATURES,
        "split": split,
        "classes": len(setting.classes),
        "per_class": request.per_class,
        "pictures": len(setting.items),
    }
    before = read_json(path) if path.is_file() else {}
    return {**new, "parts": before["parts"] if before.get("base") == new["base"] else {}}
