"""The instruments and the bars for the generator: one command, one table.

    python -m tools.pocket.lab.instruments --rendered WORLD --workspace DIR --out OUT

WORLD holds the pools web, train and test as render.py wrote them; without `--judges` the shipped
ones are asked. Writes data/instruments.json, the page instruments.md, which is printed too, and
pictures/text-only.png to OUT. Every part is kept in DIR/parts with what it depends on: run again,
only what changed is measured; `--only PART` measures that part again, and no other.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from higfa_cli.artifacts.fingerprint import hash_file, hash_json, hash_tree
from higfa_cli.data.images import read_image
from higfa_cli.errors import UserError
from higfa_cli.method.guidance import ContourStrength, Guidance, TextStrength
from higfa_cli.models.draw import draw
from higfa_cli.recipe.contours import Transforms
from higfa_cli.recipe.refs import resolve_ref
from higfa_cli.stages.inputs import model_inputs
from higfa_cli.stages.shards import torch_threads
from higfa_cli.training.calibration import expected_calibration_error
from tools.pocket.lab import figures, measure, pages
from tools.pocket.lab.arms import DRAWN, TEXT_CONTOUR, TEXT_ONLY, Arm
from tools.pocket.lab.bench import JUDGES, check_pocket, constants, made, silence
from tools.pocket.lab.draw import Drawings
from tools.pocket.lab.features import NAME as FEATURE_SPACE
from tools.pocket.lab.features import looks_like_aircraft
from tools.pocket.lab.judges import jury_log_probabilities
from tools.pocket.lab.measure import Pictures
from tools.pocket.lab.table import Row, row
from tools.pocket.lab.train_judges import load_pool
from tools.pocket.lab.warp import MIRRORED, REPEATED, warped
from tools.pocket.lab.world import World
from tools.pocket.pocket_render.catalogue import load_classes
from tools.pocket.pocket_render.records import read_records
from tools.pocket.sheet import compose
from tools.pocket.train.webdata import shrink

ACCURACY_BAR, WARP_BAR, AUTOENCODING_BAR = 0.85, 0.95, 0.90
TEXT_BAR, CONTOUR_BAR, SPEED_BAR = 0.40, 0.65, 5.0
SHEET, SHEET_COLUMNS = 64, 16
SPEED_BATCH, SPEED_STEPS, SPEED_THREADS, SPEED_ROUNDS = 32, 25, 2, 3
ENCODED = 64
POOLS = ("web", "train", "test")


def judges_part(world: World) -> list[Row]:
    """Accuracy and calibration on test photos, of every judge at every size."""
    rows = []
    for size in world.judges[0].spec.sizes:
        test = load_pool(world.rendered / "test", size)
        votes = {j.spec.architecture: j.log_probabilities(test.pictures) for j in world.judges}
        votes["jury"] = jury_log_probabilities(world.judges, test.pictures)
        for name, log_p in votes.items():
            hits = figures.agreement(log_p, test.labels)
            rows += [
                row(f"{name} at {size} px: accuracy", figures.share(hits), ACCURACY_BAR),
                Row(
                    f"{name} at {size} px: ECE",
                    expected_calibration_error(log_p, test.labels, 1.0),
                    about=f"{len(test.labels)} photos of airlines that no judge learnt from",
                ),
            ]
    return rows


def ratio_rows(
    world: World, after: Tensor, figure: str, threshold: float | None, about: str = ""
) -> list[Row]:
    """The jury's accuracy on changed test photos [N, 3, S, S], and its ratio to the unchanged."""
    first, second = (
        figures.agreement(jury_log_probabilities(world.judges, pictures), world.test.labels)
        for pictures in (world.test.pictures, after)
    )
    return [
        row("jury accuracy before", figures.share(first)),
        row("jury accuracy after", figures.share(second), about=about),
        row(figure, figures.ratio(first, second), threshold, "number", about),
    ]


def warp_part(world: World) -> list[Row]:
    """What the contours' default transforms cost when photos are moved by them.

    Borders are repeated; with mirrored ones without a threshold, to show what the choice decides.
    """
    folder, size = world.rendered / "test", world.judges[0].spec.size
    records = read_records(folder / "records.jsonl")
    photos = [read_image(folder / one["file"]) for one in records]

    def moved(border: int) -> Tensor:
        found = [
            shrink(warped(photo, one["id"], Transforms(), border), size)
            for photo, one in zip(photos, records, strict=True)
        ]
        return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2)

    repeated = ratio_rows(world, moved(REPEATED), "warped / unwarped", WARP_BAR, "borders repeated")
    mirrored = ratio_rows(world, moved(MIRRORED), "warped / unwarped", None, "borders mirrored")
    return [*repeated, *mirrored[1:]]


@torch.no_grad()
def autoencoder_part(world: World) -> list[Row]:
    """What decode(encode(.)) costs."""
    model = world.model()
    decoded = []
    for part in world.test.pictures.split(ENCODED):
        images = model.decode(model.encode(part.float() / 127.5 - 1))
        decoded.append(((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8))
    after = torch.cat(decoded)
    return ratio_rows(world, after, "after / before", AUTOENCODING_BAR)


def photos_part(world: World) -> list[Row]:
    """The same figures of the user's own photos, as a yardstick for the drawings'."""
    own = load_pool(world.rendered / "train", world.judges[0].spec.size)
    found = Pictures.whole(own.pictures, own.labels)
    return [
        *measure.agreement_rows(world.judges, found, about=f"{len(own.labels)} train photos"),
        *measure.spread_rows(world.network, found, world.reference, drawn=False),
    ]


def judged(world: World, drawings: Drawings) -> Pictures:
    """Drawings with labels as the judges count them."""
    names = [world.setting.classes[label] for label in drawings.labels.tolist()]
    labels = measure.judge_labels(names, world.judges)
    return Pictures(drawings.pictures, labels, drawings.failed)


def arm_part(world: World, arm: Arm, threshold: float) -> list[Row]:
    """All figures of one arm's drawings."""
    drawings = world.drawings(arm)
    found = judged(world, drawings)
    return [
        *measure.agreement_rows(world.judges, found, threshold),
        *measure.spread_rows(world.network, found, world.reference, drawn=True),
        measure.overlap_row(found, drawings.contours),
        Row(
            "seconds per picture",
            drawings.seconds / len(drawings.labels),
            about=f"{len(drawings.labels)} pictures, {world.ctx.recipe.sampling.steps} steps, "
            "one thread",
        ),
    ]


def sheet_part(world: World) -> list[Row]:
    """text-only.png: 64 pictures by text alone, all classes alike; how many show an aircraft."""
    drawings = world.drawings(TEXT_ONLY)
    pictures = drawings.pictures[:SHEET]
    names = [world.setting.classes[label] for label in drawings.labels[:SHEET].tolist()]
    shown = [list(pictures.permute(0, 2, 3, 1).numpy())]
    path = world.out / "pictures" / "text-only.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    compose(shown, names, SHEET_COLUMNS).save(path)
    failed = drawings.failed[:SHEET]
    rows = []
    for among, named in ((1, "seen as aircraft"), (5, "an aircraft among the first five")):
        photos = figures.share(looks_like_aircraft(world.network, world.test.pictures, among))
        seen = looks_like_aircraft(world.network, pictures, among) & ~failed
        # The stricter figure is the one with the bar.
        threshold = measure.NEARLY_ALL * photos.value if among == 1 else None
        about = (
            f"the bar is {100 * measure.NEARLY_ALL:.0f} % of the photos' share" if threshold else ""
        )
        rows += [
            row(f"test photos: {named}", photos, about="of the feature network's classes"),
            row(f"drawings: {named}", figures.share(seen), threshold, about=about),
        ]
    return rows


def speed_part(world: World) -> list[Row]:
    """Pictures per second of the plain conditional, decoded, from two threads."""
    prompt = "a photo of an airliner"
    model = world.model(prompt)
    contours = torch.zeros(SPEED_BATCH, 1, model.size, model.size)
    rows = []
    for figure, contour, threshold in (
        ("text", 0.0, SPEED_BAR),
        ("text + contour, one branch", 1.0, None),
    ):
        strengths = TextStrength(1.0), ContourStrength(contour, contour)
        guidance = Guidance("three_term", *strengths).switched(1.0)

        def once(steps: int, guidance: Guidance = guidance) -> float:
            ready = model.with_sampling(model.sampling.model_copy(update={"steps": steps}))
            prompts, numbers = [prompt] * SPEED_BATCH, range(SPEED_BATCH)
            began = time.perf_counter()
            draw(ready, None, guidance, prompts, "", contours, [0] * SPEED_BATCH, numbers)
            return time.perf_counter() - began

        with torch_threads(SPEED_THREADS):
            once(2)
            taken = statistics.median(once(SPEED_STEPS) for _ in range(SPEED_ROUNDS))
        about = f"{SPEED_STEPS} steps, batch {SPEED_BATCH}, {SPEED_THREADS} threads, decoded"
        rows.append(
            Row(figure, SPEED_BATCH / taken, threshold=threshold, unit="per second", about=about)
        )
    return rows


@dataclass(frozen=True)
class Part:
    """A part of the table, and which inputs its figures depend on."""

    title: str
    run: Callable[[World], list[Row]]
    inputs: tuple[str, ...] = ("judges", "pools", "generator", "pictures")


PARTS: dict[str, Part] = {
    "judges": Part("Judges on test photos", judges_part, ("judges", "pools")),
    "warp": Part("Test photos under the contours' transforms", warp_part, ("judges", "pools")),
    "photos": Part("The user's photos", photos_part, ("judges", "pools")),
    "autoencoder": Part(
        "Test photos through the autoencoder",
        autoencoder_part,
        ("judges", "pools", "generator"),
    ),
    "text": Part("Text only", lambda world: arm_part(world, TEXT_ONLY, TEXT_BAR)),
    "contour": Part("Text + contour", lambda world: arm_part(world, TEXT_CONTOUR, CONTOUR_BAR)),
    "sheet": Part(f"{SHEET} pictures by text only", sheet_part),
    "speed": Part("Speed", speed_part, ("generator",)),
}


def input_hashes(world: World) -> dict[str, str]:
    """Input -> hash of all that it consists of. The program itself is not counted."""

    recipe, base = world.ctx.recipe, world.ctx.base
    pools = [hash_file(world.rendered / name / "records.jsonl") for name in POOLS]
    generator = [
        recipe.model_dump(mode="json", include=DRAWN),
        model_inputs(world.ctx, tuple(load_classes())),
    ]
    contours = recipe.contours.model_dump(mode="json")
    data = hash_tree(Path(resolve_ref(recipe.data.root, base)))
    about: dict[str, list[Any]] = {
        "judges": [hash_file(one) for one in sorted(world.judges_folder.glob("*.safetensors"))],
        "pools": pools,
        "generator": generator,
        "pictures": [world.count, recipe.seed, contours, data],
    }
    return {name: hash_json(values) for name, values in about.items()}


def measure_parts(world: World, only: tuple[str, ...]) -> dict[str, list[Row]]:
    """Part -> rows, of those that were measured now or are still true."""
    (world.workspace / "parts").mkdir(parents=True, exist_ok=True)
    found, hashes = {}, input_hashes(world)
    for name, part in PARTS.items():
        path = world.workspace / "parts" / f"{name}.json"
        key = hash_json([hashes[one] for one in part.inputs])
        kept: Mapping[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        fresh = kept.get("depends_on") == key
        if name in only or (not only and not fresh):
            print(f"measuring: {part.title}", flush=True)
            rows = part.run(world)
            about = {"depends_on": key, "rows": [asdict(one) for one in rows]}
            path.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
            found[name] = rows
        elif fresh:
            found[name] = [Row(**one) for one in kept["rows"]]
    return found


def write_page(world: World, found: Mapping[str, list[Row]]) -> str:
    """data/instruments.json, and the page made of it; returns the latter."""
    about = {
        "made": made(world.ctx, "instruments", " --rendered WORLD"),
        "recipe": world.ctx.recipe.name,
        "constants": constants(world.ctx.recipe.guidance),
        "count": world.count,
        "features": FEATURE_SPACE,
        "parts": {name: [asdict(one) for one in rows] for name, rows in found.items()},
    }
    return pages.publish(world.out, "instruments", about)


def main() -> None:
    """Read the command line, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rendered", type=Path, required=True)
    parser.add_argument("--judges", type=Path, default=JUDGES)
    parser.add_argument("--workspace", type=Path, required=True, help="folder, perhaps new")
    parser.add_argument("--out", type=Path, required=True, help="folder of numbers and page")
    parser.add_argument("--count", type=int, default=480, help="pictures per arm")
    parser.add_argument("--recipe", default="pocket-aircraft", help="a recipe's name or file")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw")
    parser.add_argument("--only", nargs="+", default=[], choices=list(PARTS), metavar="PART")
    asked = parser.parse_args()
    silence()
    world = World(
        rendered=asked.rendered,
        judges_folder=asked.judges,
        workspace=asked.workspace,
        out=asked.out,
        count=asked.count,
        recipe=asked.recipe,
        workers=asked.workers,
    )
    try:
        check_pocket(asked.recipe)
        print(write_page(world, measure_parts(world, tuple(asked.only))))
    except UserError as error:
        parser.exit(error.exit_code, f"error: {error}\n")


if __name__ == "__main__":
    main()
