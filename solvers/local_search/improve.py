"""The best placement of one layer that local search finds under the global rule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from eplb_opt.bounds.closed_form import threshold_counts
from eplb_opt.problem.layer import Layer
from solvers.arrays import Integers
from solvers.compiled import compile_within
from solvers.dispatch import value
from solvers.local_search.iterated import iterate, rehearse
from solvers.local_search.start import first_packing
from solvers.options import Budget
from solvers.scaling import replica_sizes, scale_for

KICKS = 10
"""Kicks between two looks at the clock."""
KICK_WORK = 5_000
"""Work that a kick counts for: steps of a tree search in about its time."""


def improve(
    layer: Layer,
    *,
    start: Sequence[int] | None = None,
    budget: Budget | None = None,
    rounds: int | None = None,
    seed: int = 0,
    target: Fraction | None = None,
) -> tuple[int, ...]:
    """Slots [P] of a good placement under the global rule. A heuristic: no guarantee.

    From ``start`` (by default greedy counts and longest processing time first): re-splits of the
    heaviest rank with others, then kicks, each followed by re-splits and kept if the makespan does
    not rise. A kick moves a replica from one expert to another or exchanges a few items. Never
    worse than ``start``. Deterministic without a time limit. After Ctrl-C it returns what it has,
    and the budget says so. With ``layer.spread_replicas`` the ``start`` must comply.

    Args:
        layer: the problem; its rule is taken as global.
        start: [P] a placement to begin with.
        budget: charged by the kick; None for no limit.
        rounds: kicks; needed if the budget has no time limit.
        seed: of the kicks.
        target: tokens; the search ends when the makespan is no larger.

    Raises:
        ValueError: no limit is given, or the slots cannot be filled with spread replicas.
    """
    budget = budget or Budget()
    if budget.seconds is None and rounds is None:
        raise ValueError("neither a time limit nor rounds: give one of them")
    most, spread = layer.most_replicas, layer.spread_replicas
    P, E = layer.topology.num_physical_experts, len(layer.loads)
    if most * E < P:
        raise ValueError(f"{E} experts with at most {most} replicas each cannot fill {P} slots")
    scale = scale_for(layer, range(1, most + 1))
    size = replica_sizes(layer, scale, most)
    ranks, counts = _start(layer, size, start)
    first = tuple(int(e) for e in ranks.ravel())
    goal = 0 if target is None else scale.down(target)
    random = np.array([seed % 2147483646 + 1])
    left = math.inf if rounds is None else rounds
    try:
        if not compile_within(budget.seconds_left(), rehearse):
            left = 0
            budget.chunk()
        while left > 0:
            kicks = int(min(KICKS, left))
            left -= kicks
            free = most > 1
            makespan = iterate(ranks, counts, size, goal, spread, free, kicks, random)
            budget.charge(kicks * KICK_WORK)
            if makespan <= goal or not budget.chunk():
                break
    except KeyboardInterrupt:
        budget.interrupt()
    found = tuple(int(e) for e in ranks.ravel())
    return min(value(layer, first), value(layer, found), key=lambda x: x.incumbent).phy2log


def _start(layer: Layer, size: Integers, start: Sequence[int] | None) -> tuple[Integers, Integers]:
    """Ranks [G, S] and counts [E] to begin with."""
    G, E = layer.topology.num_ranks, len(layer.loads)
    if start is not None:
        ranks = np.array(start, np.int64).reshape(G, -1)
        return ranks, np.bincount(ranks.ravel(), minlength=E)
    counts = np.array(threshold_counts(layer))
    experts = np.repeat(np.arange(E), counts)
    items = size[experts, counts[experts]]
    return first_packing(items, experts, G, layer.spread_replicas), counts
