"""The instruments and the bars for the generator: one command, one table.

    python -m tools.pocket.lab.instruments --rendered WORLD --workspace DIR --out OUT

WORLD holds the pools web, train and test as render.py wrote them; without `--judges` the shipped
ones are asked. Writes data/instruments.json, the page instruments.md, which is printed too, and
pictures/text-only.png to OUT after every part. Run again to resume: parts that were measured before
under the same recipe, weights, judges, photos and pools stay; `--only PART` measures that part
again, and no other.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial

import numpy as np
import torch
from torch import Tensor

from higfa_cli.data.images import read_image
from higfa_cli.errors import UserError
from higfa_cli.method.guidance import ContourStrength, Guidance, TextStrength
from higfa_cli.models.draw import draw
from higfa_cli.recipe.arms import TEXT_CONTOUR
from higfa_cli.recipe.contours import Transforms
from higfa_cli.stages.drawing import torch_threads
from higfa_cli.training.calibration import expected_calibration_error
from tools.pocket.lab import figures, measure, strips
from tools.pocket.lab.arms import TEXT
from tools.pocket.lab.features import FeatureSpace, looks_like_aircraft
from tools.pocket.lab.generator import load_generator, through_autoencoder
from tools.pocket.lab.judges import check_data, jury_log_probabilities, jury_of
from tools.pocket.lab.laboratory import Instruments, Results, known_names, open_instruments
from tools.pocket.lab.measure import Pools, Row, row
from tools.pocket.lab.options import Options, command
from tools.pocket.lab.train_judges import load_pool
from tools.pocket.lab.warp import MIRRORED, REPEATED, warped
from tools.pocket.pocket_render.catalogue import load_classes
from tools.pocket.pocket_render.records import read_records
from tools.pocket.sheet import compose
from tools.pocket.train.webdata import shrink

PER_CLASS, SPLIT = 30, "train"
ACCURACY_BAR, WARP_BAR, AUTOENCODING_BAR = 0.85, 0.95, 0.90
TEXT_BAR, CONTOUR_BAR, SPEED_BAR = 0.40, 0.65, 5.0
SHEET, SHEET_COLUMNS = 64, 16
SPEED_BATCH, SPEED_STEPS, SPEED_THREADS, SPEED_ROUNDS = 32, 25, 2, 3


def judges_part(instruments: Instruments, pools: Pools) -> list[Row]:
    """Accuracy and calibration on test photos, of every judge at every size."""
    rows = []
    for size in instruments.judges[0].spec.sizes:
        test = load_pool(pools.folder / "test", size)
        each = {j.spec.architecture: j.log_probabilities(test.pictures) for j in instruments.judges}
        each["jury"] = jury_of(torch.stack([*each.values()]))
        for name, log_p in each.items():
            right = figures.share(figures.agreement(log_p, test.labels))
            rows += [
                row(f"{name} at {size} px: accuracy", right, ACCURACY_BAR),
                Row(
                    f"{name} at {size} px: ECE",
                    expected_calibration_error(log_p, test.labels, 1.0),
                    about=f"{len(test.labels)} photos of airlines that no judge learnt from",
                ),
            ]
    return rows


def ratio_rows(
    instruments: Instruments,
    pools: Pools,
    after: Tensor,
    figure: str,
    threshold: float | None,
    about: str = "",
) -> list[Row]:
    """The jury's accuracy on changed test photos [N, 3, S, S], and its ratio to the unchanged."""
    first, second = (
        figures.agreement(jury_log_probabilities(instruments.judges, pictures), pools.test.labels)
        for pictures in (pools.test.pictures, after)
    )
    return [
        row("jury accuracy before", figures.share(first)),
        row("jury accuracy after", figures.share(second), about=about),
        row(figure, figures.ratio(first, second), threshold, "number", about),
    ]


def warp_part(instruments: Instruments, pools: Pools) -> list[Row]:
    """What the contours' default transforms cost when photos are moved by them.

    Borders are repeated; with mirrored ones without a threshold, to show what the choice decides.
    """
    folder, size = pools.folder / "test", pools.size
    records = read_records(folder / "records.jsonl")
    photos = [read_image(folder / record["file"]) for record in records]

    def moved(border: int) -> Tensor:
        pictures = [
            shrink(warped(photo, record["id"], Transforms(), border), size)
            for photo, record in zip(photos, records, strict=True)
        ]
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)

    repeated = ratio_rows(
        instruments, pools, moved(REPEATED), "warped / unwarped", WARP_BAR, "borders repeated"
    )
    mirrored = ratio_rows(
        instruments, pools, moved(MIRRORED), "warped / unwarped", None, "borders mirrored"
    )
    return [*repeated, *mirrored[1:]]


def autoencoder_part(instruments: Instruments, pools: Pools) -> list[Row]:
    """What decode(encode(.)) costs."""
    model = load_generator(instruments.samples.ctx)
    after = through_autoencoder(model, pools.test.pictures)
    return ratio_rows(instruments, pools, after, "after / before", AUTOENCODING_BAR)


def photos_part(instruments: Instruments, pools: Pools) -> list[Row]:
    """The same figures of the user's own photos, as a yardstick for the drawings'."""
    score = instruments.measured(pools.pictures("train"), tuple(load_classes()))
    labels = score.pictures.labels
    about = f"{len(labels)} train photos"
    return [
        *measure.agreement_rows(score, instruments.judges, about=about),
        *measure.spread_rows(pools.space.network, score, labels, pools.reference, drawn=False),
    ]


def arm_part(arm: str, threshold: float, instruments: Instruments, pools: Pools) -> list[Row]:
    """All figures of one arm's drawings."""
    score, samples = instruments.score(arm), instruments.samples
    labels = measure.pool_labels(score.pictures, samples.classes)
    steps = samples.ctx.recipe.sampling.steps
    return [
        *measure.agreement_rows(score, instruments.judges, threshold),
        *measure.spread_rows(pools.space.network, score, labels, pools.reference, drawn=True),
        measure.overlap_row(score),
        Row(
            "seconds per picture",
            score.seconds,
            about=f"{len(labels)} pictures, {steps} steps, one thread",
        ),
    ]


def sheet_part(instruments: Instruments, pools: Pools) -> list[Row]:
    """text-only.png: 64 pictures by text alone, all classes alike; how many show an aircraft."""
    drawings = instruments.pictures(TEXT)
    pictures = drawings.pictures[:SHEET]
    names = [item.cls for item in instruments.samples.items[:SHEET]]
    shown = [list(pictures.permute(0, 2, 3, 1).numpy())]
    sheet = instruments.options.out / "pictures" / "text-only.png"
    strips.save(compose(shown, names, SHEET_COLUMNS), sheet)
    failed = drawings.failed[:SHEET]
    rows = []
    for among, named in ((1, "seen as aircraft"), (5, "an aircraft among the first five")):
        photos = figures.share(looks_like_aircraft(pools.space.network, pools.test.pictures, among))
        seen = looks_like_aircraft(pools.space.network, pictures, among) & ~failed
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


def speed_part(instruments: Instruments, pools: Pools) -> list[Row]:
    """Pictures per second of the plain conditional, decoded, from two threads."""
    prompt = "a photo of an airliner"
    model = load_generator(instruments.samples.ctx, prompt)
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


Part = Callable[[Instruments, Pools], list[Row]]
PARTS: dict[str, Part] = {
    "judges": judges_part,
    "warp": warp_part,
    "photos": photos_part,
    "autoencoder": autoencoder_part,
    "text": partial(arm_part, TEXT, TEXT_BAR),
    "contour": partial(arm_part, TEXT_CONTOUR, CONTOUR_BAR),
    "sheet": sheet_part,
    "speed": speed_part,
}


def pools_of(instruments: Instruments, space: FeatureSpace) -> Pools:
    """The rendered pools. Raises UserError when the judges know other data than the pocket's."""
    options = instruments.options
    assert options.rendered is not None
    size = check_data(instruments.judges)[0].spec.size
    return Pools(options.rendered, size, options.workspace / "features", space)


def measure_parts(
    page: str,
    parts: Mapping[str, Part],
    instruments: Instruments,
    pools: Pools,
    only: Sequence[str] = (),
) -> str:
    """Measure the parts of that name, or else those that no earlier run has; returns the page."""
    results = Results(page, parts, instruments, " --rendered WORLD", guided=False)
    for name in only or [name for name in parts if name not in results.parts]:
        print(f"measuring: {name}", flush=True)
        results.add(name, [asdict(row) for row in parts[name](instruments, pools)])
    return results.publish()


def measure_all(options: Options, only: Sequence[str], space: FeatureSpace) -> None:
    """Measure and print the page. Raises UserError as the stages, or for an unknown part."""
    known_names(only, PARTS, "--only", "part")
    if options.per_class < 2:
        raise UserError(f"--per-class {options.per_class}: a class needs two pictures at least")
    with open_instruments(options, SPLIT, space, guide=None) as instruments:
        print(measure_parts("instruments", PARTS, instruments, pools_of(instruments, space), only))


def main() -> None:
    """Read the command line, measure, and print the page."""
    meaning = f"of {', '.join(PARTS)}; without: all"
    command(__doc__.splitlines()[0], PER_CLASS, "--only", meaning, measure_all, rendered=True)


if __name__ == "__main__":
    main()
