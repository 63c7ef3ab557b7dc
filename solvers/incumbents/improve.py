"""The best placement of one layer that local search finds under the global rule."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from eplb_opt.instance import Layer
from eplb_opt.metrics import exact_makespan
from solvers.incumbents.local_search import iterate
from solvers.incumbents.start import first_packing, greedy_counts
from solvers.search.grid import make_grid

Integers = NDArray[np.int64]

CHUNK = 10
"""Kicks between two looks at the clock."""


def improve(
    layer: Layer,
    *,
    start: Sequence[int] | None = None,
    time_limit: float | None = None,
    rounds: int | None = None,
    seed: int = 0,
    target: Fraction | None = None,
    spread_replicas: bool = False,
) -> tuple[int, ...]:
    """Slots [P] of a good placement (the layer's rule is taken as global). A heuristic, no guarantee.

    From ``start`` (by default greedy counts and longest processing time first): re-splits of the heaviest
    rank with others, then kicks by a moved replica or a few exchanges, each followed by re-splits and kept
    if the makespan does not rise. Never worse than ``start``. Runs for ``time_limit`` seconds or ``rounds``
    kicks, whichever ends first (one of them is needed), or until the makespan is ``target`` tokens.
    Deterministic without a time limit.

    Raises:
        ValueError: neither limit is given, or the experts cannot be spread over the ranks.
    """
    if time_limit is None and rounds is None:
        raise ValueError("time_limit and rounds are both None: give one of them")
    started = time.perf_counter()
    G, P, E = layer.topology.num_ranks, layer.topology.num_physical_experts, len(layer.loads)
    most = min(P - E + 1, G) if spread_replicas else P - E + 1
    if P > most * E:
        raise ValueError(
            f"{P} slots cannot be filled with {E} experts of at most {most} replicas each"
        )
    grid = make_grid(layer, range(1, most + 1))
    ranks, counts = _start(layer, grid.size, most, start, spread_replicas)
    goal = 0 if target is None else math.floor(target / layer.unit * grid.scale)
    random = np.array([seed % 2147483646 + 1])
    best = tuple(int(e) for e in ranks.ravel())
    left = math.inf if rounds is None else rounds
    while left > 0:
        kicks = int(min(CHUNK, left))
        makespan = iterate(ranks, counts, grid.size, goal, spread_replicas, most > 1, kicks, random)
        left -= kicks
        if makespan <= goal or (time_limit and time.perf_counter() - started >= time_limit):
            break
    found = tuple(int(e) for e in ranks.ravel())
    return min(best, found, key=lambda slots: exact_makespan(layer, slots))


def _start(
    layer: Layer, size: Integers, most: int, start: Sequence[int] | None, spread: bool
) -> tuple[Integers, Integers]:
    """Ranks [G, S] and counts [E] to begin with."""
    G, P, E = layer.topology.num_ranks, layer.topology.num_physical_experts, len(layer.loads)
    if start is not None:
        ranks = np.array(start, np.int64).reshape(G, P // G)
        return ranks, np.bincount(ranks.ravel(), minlength=E)
    counts = greedy_counts(layer.loads, P, most)
    experts = np.repeat(np.arange(E), counts)
    return first_packing(size[experts, counts[experts]], experts, G, spread), counts
