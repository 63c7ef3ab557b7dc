"""A first placement: replicas to the heaviest replica, largest item to the lightest rank."""

from __future__ import annotations

import heapq
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from eplb_opt.instance import Layer

Integers = NDArray[np.int64]


def greedy_counts(layer: Layer, most: int) -> Integers:
    """[E] counts of at most ``most`` that minimize ``max loads[e] / c[e]``, exactly.

    The next replica goes to the largest load per replica, the least expert on ties. The exchange
    argument of :func:`eplb_opt.bounds.threshold_counts` holds with the cap as well: an expert at
    the cap cannot have more in a better solution. O(P log E) exact comparisons.
    """
    loads = layer.loads
    counts = np.ones(len(loads), np.int64)
    queue = [(-Fraction(w), e) for e, w in enumerate(loads)] if most > 1 else []
    heapq.heapify(queue)
    for _ in range(layer.num_redundant_experts):
        _, e = heapq.heappop(queue)
        counts[e] += 1
        if counts[e] < most:
            heapq.heappush(queue, (-Fraction(loads[e], int(counts[e])), e))
    return counts


def first_packing(items: Integers, experts: Integers, num_ranks: int, spread: bool) -> Integers:
    """[G, S] experts: longest processing time first with S slots a rank, O(P log G).

    With ``spread`` the items, ordered by size with replicas side by side, are dealt in turn: an
    expert with at most G replicas then never meets a rank twice.
    """
    order = np.lexsort((experts, -items))
    slots = len(items) // num_ranks
    if spread:
        return np.ascontiguousarray(experts[order].reshape(slots, num_ranks).T)
    ranks: list[list[int]] = [[] for _ in range(num_ranks)]
    queue = [(0, g) for g in range(num_ranks)]
    for i in order:
        load, g = heapq.heappop(queue)
        ranks[g].append(int(experts[i]))
        if len(ranks[g]) < slots:
            heapq.heappush(queue, (load + int(items[i]), g))
    return np.array(ranks, dtype=np.int64)
