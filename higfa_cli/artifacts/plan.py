"""The plan of a synthesis run: a pure function of recipe and inputs, written before any picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from higfa_cli.artifacts.class_folders import class_dirs
from higfa_cli.artifacts.seeds import seed_for


@dataclass(frozen=True)
class PlanItem:
    """One picture to draw.

    Attributes:
        id: 16 hex digits of the seed; names the file.
        cls, class_id: the target class.
        source, source_sha256: the photo whose contour is used (its dataset key).
        contour, contour_sha256: contour file below the contours stage's folder.
        transform: the contour's transform record.
        replica: counts all pictures of one source photo from 0.
        seed: of the initial noise; from (recipe seed, class, source, replica) alone.
        prompt, negative: what the text encoder reads.
        batch: index of the batch that the picture is drawn in.
        file_name: where the picture goes, relative to the images folder.
    """

    id: str
    cls: str
    class_id: int
    source: str
    source_sha256: str
    contour: str
    contour_sha256: str
    transform: Mapping[str, Any]
    replica: int
    seed: int
    prompt: str
    negative: str
    batch: int
    file_name: str

    def row(self) -> dict[str, Any]:
        """JSON-able form, with `class` for `cls`."""
        row = asdict(self)
        row["class"] = row.pop("cls")
        return row


def make_plan(
    contours: Sequence[Mapping[str, Any]],
    prompts: Mapping[str, Sequence[str]],
    negative: str,
    per_contour: int,
    seed: int,
) -> tuple[PlanItem, ...]:
    """The pictures of a run in drawing order.

    Args:
        contours: rows of the contours manifest.
        prompts: class -> its prompts; one is drawn per picture with the picture's seed.
        negative: negative prompt.
        per_contour: replicas per contour.
        seed: the recipe's.

    All are in batch 0 until `in_batches` parts them.
    """
    items: list[PlanItem] = []
    ordered = sorted(contours, key=lambda r: (r["class_id"], r["source"], r["index"]))
    folders = class_dirs(row["class"] for row in ordered)
    for row in ordered:
        for again in range(per_contour):
            replica = row["index"] * per_contour + again
            own = seed_for(seed, "image", row["class"], row["source"], replica)
            choices = prompts[row["class"]]
            items.append(
                PlanItem(
                    id=f"{own:016x}",
                    cls=row["class"],
                    class_id=row["class_id"],
                    source=row["source"],
                    source_sha256=row["source_sha256"],
                    contour=row["file_name"],
                    contour_sha256=row["sha256"],
                    transform=row["transform"],
                    replica=replica,
                    seed=own,
                    prompt=choices[seed_for(own, "prompt") % len(choices)],
                    negative=negative,
                    batch=0,
                    file_name=f"{folders[row['class']]}/{own:016x}.png",
                )
            )
    return tuple(items)


def in_batches(items: Sequence[PlanItem], size: int) -> tuple[PlanItem, ...]:
    """The same items with their batch set: `size` pictures each, the last perhaps fewer."""
    return tuple(replace(item, batch=index // size) for index, item in enumerate(items))


def batches(plan: Sequence[PlanItem]) -> list[tuple[PlanItem, ...]]:
    """The plan's items by batch, in order."""
    groups: dict[int, list[PlanItem]] = {}
    for item in plan:
        groups.setdefault(item.batch, []).append(item)
    return [tuple(groups[index]) for index in sorted(groups)]
