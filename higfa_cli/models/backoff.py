"""Out of memory: the same work in halves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

T = TypeVar("T")
R = TypeVar("R")


def in_parts_that_fit(
    items: Sequence[T],
    work: Callable[[Sequence[T]], Sequence[R]],
    give_up: Callable[[T], R],
) -> list[R]:
    """`work(items)`, halved wherever the device runs out of memory.

    Where the cuts fall depends on `items` and the device alone, never on earlier batches, so a
    resumed run cuts alike.

    Args:
        items: what belongs together.
        work: one result per item.
        give_up: the result of an item that does not fit even alone; may raise.
    """
    try:
        return list(work(items))
    except Exception as error:
        if not should_reduce_batch_size(error):
            raise
    # Only here have the frames of the failed attempt let go of their tensors.
    clear_device_cache(garbage_collection=True)
    if len(items) == 1:
        return [give_up(items[0])]
    half = (len(items) + 1) // 2
    return in_parts_that_fit(items[:half], work, give_up) + in_parts_that_fit(
        items[half:], work, give_up
    )
