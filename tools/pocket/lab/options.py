"""What the laboratory's commands are asked, and where their numbers come from."""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from higfa_cli.artifacts.atomic import read_json
from higfa_cli.artifacts.fingerprint import hash_file
from higfa_cli.cli.options import silence_libraries
from higfa_cli.errors import UserError
from higfa_cli.method.guidance import Guidance
from higfa_cli.models.device import resolve_device
from higfa_cli.recipe.load import load_recipe
from higfa_cli.recipe.refs import resolve_ref
from higfa_cli.stages.context import Context
from tools.pocket.lab.features import FeatureSpace, weights_file
from tools.pocket.train.unpack import CONTROLNET, HISTORY, TEXT, UNET, VAE

ROOT = Path(__file__).resolve().parents[3]
RECIPE = ROOT / "recipes" / "pocket-aircraft.yaml"
JUDGES = ROOT / "pocket" / "judges"


@dataclass(frozen=True)
class Options:
    """What a command is asked.

    `recipe`: file or built-in name. `judges`: their folder. `workspace`: where contours, guides
    and drawn pictures are kept. `out`: for `data/` (numbers), `pictures/` and pages, as docs/ is.
    `rendered`: the pools as render.py wrote them, for the command that reads them.
    """

    recipe: str
    judges: Path
    workspace: Path
    out: Path
    per_class: int
    workers: int
    rendered: Path | None = None

    def data(self, page: str) -> Path:
        """The numbers that a page is made of."""
        return self.out / "data" / f"{page}.json"


def command(
    about: str,
    per_class: int,
    flag: str,
    meaning: str,
    work: Callable[[Options, Sequence[str], FeatureSpace], Any],
    rendered: bool = False,
) -> None:
    """Read the command line, and work on the names that `flag` gives.

    `about`: first line of the help; `meaning`: what `flag` takes. `per_class`: pictures per class
    where none are asked for. `rendered`: the command reads rendered pools too.
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
    if rendered:
        add("--rendered", type=Path, required=True, help="pools web, train and test")
    add(flag, nargs="+", dest="names", default=(), help=meaning)
    asked = parser.parse_args()
    silence()
    given = vars(asked)
    names = given.pop("names")
    options = Options(**given)
    try:
        check_pocket(options.recipe)
        weights_file()
        work(options, names, FeatureSpace())
    except UserError as error:
        parser.exit(error.exit_code, f"error: {error}\n")


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
