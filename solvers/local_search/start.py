"""Where a search starts: greedily, the largest item to the lightest rank."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

from eplb_opt import bounds
from eplb_opt.bounds.closed_form import threshold_counts
from eplb_opt.problem.layer import Layer
from solvers.arrays import Integers
from solvers.bracket import Bracket
from solvers.dispatch import value
from solvers.scaling import item_sizes, scale_for


def first_packing(items: Integers, experts: Integers, num_ranks: int, spread: bool) -> Integers:
    """[G, S] experts: longest processing time first with S slots a rank, O(P log G).

    With ``spread`` the items, ordered by size with replicas side by side, are dealt in turn: an
    expert with at most G replicas then never meets a rank twice.
    """
    order = np.lexsort((experts, -items))
    slots_per_rank = len(items) // num_ranks
    if spread:
        return np.ascontiguousarray(experts[order].reshape(slots_per_rank, num_ranks).T)
    ranks: list[list[int]] = [[] for _ in range(num_ranks)]
    queue = [(0, g) for g in range(num_ranks)]
    for i in order:
        load, g = heapq.heappop(queue)
        ranks[g].append(int(experts[i]))
        if len(ranks[g]) < slots_per_rank:
            heapq.heappush(queue, (load + int(items[i]), g))
    return np.array(ranks, dtype=np.int64)


def largest_first(layer: Layer, counts: Sequence[int]) -> tuple[int, ...]:
    """Slots [P] of a placement with these ``counts`` [E] under the global rule; a heuristic."""
    experts = np.repeat(np.arange(len(counts)), counts)
    items = item_sizes(layer, scale_for(layer, counts), counts)[experts]
    ranks = first_packing(items, experts, layer.topology.num_ranks, layer.spread_replicas)
    return tuple(int(e) for e in ranks.ravel())


def first_bracket(layer: Layer, initial: Sequence[int] | None = None) -> Bracket:
    """The closed-form bound under the global rule, and the greedy placement, or ``initial`` [P] if
    that is better.
    """
    starts = [largest_first(layer, threshold_counts(layer))]
    starts += [] if initial is None else [tuple(initial)]
    return Bracket.start(bounds.of(layer), [value(layer, phy2log) for phy2log in starts])
