"""The plan of a synthesis run: a pure function of recipe and inputs, written before any picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from higfa_cli.artifacts.class_folders import class_dirs
from higfa_cli.artifacts.rows import ContourRow, PlanItem
from higfa_cli.artifacts.seeds import seed_for


def make_plan(
    contours: Sequence[ContourRow],
    prompts: Mapping[str, Sequence[str]],
    negative: str,
    wanted: Mapping[str, int],
    seed: int,
) -> tuple[PlanItem, ...]:
    """The pictures of a run in drawing order, `wanted` of each class; in batch 0 (`in_batches`).

    Of a class's `prompts` one is drawn per picture, with the picture's seed.
    """
    items: list[PlanItem] = []
    ordered = sorted(contours, key=lambda row: (row.class_id, row.source, row.index))
    folders = class_dirs(row.cls for row in ordered)
    for row, repeats, most in _repeated(ordered, wanted, seed):
        for again in range(repeats):
            replica = row.index * most + again
            drawn_with = seed_for(seed, "image", row.cls, row.source, replica)
            choices = prompts[row.cls]
            items.append(
                PlanItem(
                    id=f"{drawn_with:016x}",
                    cls=row.cls,
                    class_id=row.class_id,
                    source=row.source,
                    source_sha256=row.source_sha256,
                    contour=row.file_name,
                    contour_sha256=row.sha256,
                    transform=row.transform,
                    replica=replica,
                    seed=drawn_with,
                    prompt=choices[seed_for(drawn_with, "prompt") % len(choices)],
                    negative=negative,
                    batch=0,
                    file_name=f"{folders[row.cls]}/{drawn_with:016x}.png",
                )
            )
    return tuple(items)


def _repeated(
    ordered: Sequence[ContourRow], wanted: Mapping[str, int], seed: int
) -> Iterator[tuple[ContourRow, int, int]]:
    """Each contour, how often it is drawn, and how often one of its class is at most.

    The contours of a class differ by one at most; one of every photo comes before any second.
    """
    ranks: dict[str, dict[tuple[str, int], int]] = {}

    def by_lot(row: ContourRow) -> tuple[int, int]:
        return row.index, seed_for(seed, "wanted", row.cls, row.source, row.index)

    for row in sorted(ordered, key=by_lot):
        ranks.setdefault(row.cls, {})[row.source, row.index] = len(ranks.get(row.cls, ()))
    for row in ordered:
        rank, count = ranks[row.cls][row.source, row.index], len(ranks[row.cls])
        yield row, -(-(wanted[row.cls] - rank) // count), -(-wanted[row.cls] // count)


def sample(plan: Sequence[PlanItem], count: int, seed: int) -> tuple[PlanItem, ...]:
    """`count` items spread over the classes: every class once before any class twice."""
    ranked: dict[str, list[PlanItem]] = {}
    for item in sorted(plan, key=lambda item: seed_for(seed, "gallery", item.id)):
        ranked.setdefault(item.cls, []).append(item)
    rounds = max((len(group) for group in ranked.values()), default=0)
    order = [group[i] for i in range(rounds) for group in ranked.values() if i < len(group)]
    return tuple(order[:count])


def in_batches(items: Sequence[PlanItem], size: int) -> tuple[PlanItem, ...]:
    """The same items with their batch set: `size` pictures each, the last perhaps fewer."""
    return tuple(
        item.model_copy(update={"batch": index // size}) for index, item in enumerate(items)
    )


def batches(plan: Sequence[PlanItem]) -> list[tuple[PlanItem, ...]]:
    """The plan's items by batch, in order."""
    groups: dict[int, list[PlanItem]] = {}
    for item in plan:
        groups.setdefault(item.batch, []).append(item)
    return [tuple(groups[index]) for index in sorted(groups)]
