"""A first packing: the largest item to the lightest rank."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


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
