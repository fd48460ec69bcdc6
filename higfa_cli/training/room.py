"""Pictures that are trained on are held whole in memory: whether they fit, known from counts."""

from __future__ import annotations

from collections.abc import Mapping

from higfa_cli.data.layouts.common import Split
from higfa_cli.errors import UserError
from higfa_cli.recipe.schema import Recipe

# Streaming from disk would be a second data path.
MEMORY_CAP_BYTES = 4_000_000_000
# Without a val split so many parts are made of the training photos, and one is held out.
HELD_OUT_PARTS = 5


def check_memory(
    count: int, size: int, what: str = "pictures", remedy: str = "lower image_size, or take fewer"
) -> None:
    """Raise UserError where `count` RGB pictures of side `size` would take more than the cap."""
    needed = count * 3 * size * size
    if needed > MEMORY_CAP_BYTES:
        raise UserError(
            f"{count:,} {what} at {size} px need {needed / 1e9:.1f} GB of memory, over the limit "
            f"of {MEMORY_CAP_BYTES / 1e9:.0f} GB; {remedy}"
        )


def check_guide(recipe: Recipe, photos: Mapping[Split, int]) -> None:
    """`check_memory` of stage `finetune-guide`; `photos`: split -> how many."""
    noised = recipe.guide.noised_per_image if recipe.guidance.consulted else 0
    remedy = "lower guide.image_size, guide.noised_per_image or data.shots"
    for count in (photos.get("train", 0), photos.get("val", 0)):
        check_memory(count, recipe.size, "photos", "lower size or data.shots")
        check_memory(count * (1 + noised), recipe.guide.image_size, "noised photos", remedy)


def check_downstream(
    recipe: Recipe, photos: Mapping[Split, int], pictures: Mapping[str, int]
) -> None:
    """`check_memory` of stage `train-downstream`; `pictures`: arm -> how many, at least."""
    size, train = recipe.downstream.image_size, photos.get("train", 0)
    if not photos.get("val"):
        train -= -(-train // HELD_OUT_PARTS)
    for count in (train, photos.get("val", 0), photos.get("test", 0)):
        check_memory(count, size, "photos", "lower downstream.image_size or data.shots")
    remedy = "lower downstream.image_size, contours.per_image or the number in `pictures`"
    for arm, count in pictures.items():
        check_memory(count, size, f"pictures of arm {arm}", remedy)
