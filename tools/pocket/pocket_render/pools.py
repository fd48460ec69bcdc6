"""Gives every airline to exactly one pool, across all variants at once."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path

POOLS = ("web", "train", "val", "test", "sealed")
POOLS_FILE = Path(__file__).parents[1] / "airline_pools.json"

# What an airline can belong to. A user's own photos, train and val, share their airlines: some
# variants have so few liveries that a further division would leave one to learn from.
AIRLINE_POOLS = ("web", "own", "test", "sealed")

# Share of a variant's airlines each pool aims at, and the fewest it should get.
_SHARE = {"web": 0.5, "train": 0.16, "val": 0.08, "test": 0.18, "sealed": 0.08}
_LEAST = {"web": 3, "train": 1, "val": 1, "test": 1, "sealed": 1}
_BETTER = {"web": 4, "train": 2, "val": 1, "test": 2, "sealed": 1}
_LEAST_WEIGHT = {"web": 60.0, "train": 60.0, "val": 40.0, "test": 60.0, "sealed": 15.0}


def _variant_cost(counts: Mapping[str, int], total: int) -> float:
    cost = 0.0
    for pool in POOLS:
        cost += _LEAST_WEIGHT[pool] * max(0, _LEAST[pool] - counts[pool])
        cost += 6.0 * max(0, _BETTER[pool] - counts[pool])
        cost += 12.0 * abs(counts[pool] / total - _SHARE[pool])
    return cost


def assign_pools(
    airlines_of: Mapping[str, set[str]], seed: int = 0, steps: int = 60_000
) -> dict[str, str]:
    """Simulated annealing over airline -> pool; the same input and seed give the same answer.

    ``airlines_of`` maps a variant to the airlines that fly it.
    """
    rng = random.Random(seed)
    airlines = sorted(set().union(*airlines_of.values()))
    flown = {a: [v for v in sorted(airlines_of) if a in airlines_of[v]] for a in airlines}
    pool_of = {a: rng.choices(POOLS, [_SHARE[p] for p in POOLS])[0] for a in airlines}
    counts = {v: dict.fromkeys(POOLS, 0) for v in airlines_of}
    for airline in airlines:
        for variant in flown[airline]:
            counts[variant][pool_of[airline]] += 1

    def cost_of(variants: list[str]) -> float:
        return sum(_variant_cost(counts[v], len(airlines_of[v])) for v in variants)

    def move(airline: str, pool: str) -> None:
        for variant in flown[airline]:
            counts[variant][pool_of[airline]] -= 1
            counts[variant][pool] += 1
        pool_of[airline] = pool

    for step in range(steps):
        temperature = 20.0 * (1 - step / steps) ** 3 + 1e-6
        airline, other = rng.choice(airlines), rng.choice(airlines)
        old, old_other = pool_of[airline], pool_of[other]
        swap = rng.random() < 0.5
        new = old_other if swap else rng.choice(POOLS)
        touched = sorted(set(flown[airline]) | (set(flown[other]) if swap else set()))
        before = cost_of(touched)
        move(airline, new)
        if swap:
            move(other, old)
        worse = cost_of(touched) - before
        if worse > 0 and rng.random() >= pow(2.718281828, -worse / temperature):
            move(airline, old)
            if swap:
                move(other, old_other)
    return {airline: airlines_pool(pool) for airline, pool in sorted(pool_of.items())}


def airlines_pool(pool: str) -> str:
    """The airlines that the pictures of a pool may show: its own name, or `own` for train, val."""
    return "own" if pool in ("train", "val") else pool


def load_pools(path: Path = POOLS_FILE) -> dict[str, str]:
    """airline -> pool as recorded. Raises ValueError for a pool that does not exist."""
    pools: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    if wrong := sorted(set(pools.values()) - set(AIRLINE_POOLS)):
        raise ValueError(f"{path}: unknown pools {wrong}; use {AIRLINE_POOLS}")
    return pools
