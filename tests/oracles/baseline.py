"""The baseline once more, one item at a time in plain Python: what the batched code must
reproduce. On a node without load all experts count as alike, unlike in the published program.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = np.float32


def greedy(loads: NDArray[np.float32], num_slots: int) -> list[int]:
    """Experts of the replicas: all once, then whoever is heaviest per replica, lowest index
    first.
    """
    counts = [1] * len(loads)
    replicas = list(range(len(loads)))
    while len(replicas) < num_slots:
        shares = [F32(w) / F32(c) for w, c in zip(loads, counts, strict=True)]
        expert = shares.index(max(shares))
        counts[expert] += 1
        replicas.append(expert)
    return replicas


def longest_first(loads: list[np.float32], num_packs: int) -> list[int]:
    """Item in each slot: heaviest item to the lightest pack that has a place left."""
    capacity = len(loads) // num_packs
    if capacity == 1:
        return list(range(len(loads)))
    packs: list[list[int]] = [[] for _ in range(num_packs)]
    totals = [F32(0)] * num_packs
    for item in sorted(range(len(loads)), key=lambda i: -loads[i]):
        open_packs = [g for g in range(num_packs) if len(packs[g]) < capacity]
        pack = min(open_packs, key=lambda g: totals[g])
        packs[pack].append(item)
        totals[pack] += loads[item]
    return [item for pack in packs for item in pack]


def baseline(
    loads: NDArray[np.float32], num_slots: int, num_groups: int, num_nodes: int, num_ranks: int
) -> list[int]:
    """Expert in each slot of one layer under the hierarchical rule."""
    size = len(loads) // num_groups
    totals = [F32(sum_pairwise(loads[k * size : (k + 1) * size])) for k in range(num_groups)]
    groups = longest_first(totals, num_nodes)
    slots: list[int] = []
    for node in range(num_nodes):
        mine = groups[node * num_groups // num_nodes : (node + 1) * num_groups // num_nodes]
        experts = [k * size + i for k in mine for i in range(size)]
        own = loads[experts] if loads[experts].any() else np.ones(len(experts), np.float32)
        replicas = greedy(own, num_slots // num_nodes)
        shares = [F32(own[r]) / F32(replicas.count(r)) for r in replicas]
        order = longest_first(shares, num_ranks // num_nodes)
        slots += [experts[replicas[i]] for i in order]
    return slots


def sum_pairwise(values: NDArray[np.float32]) -> float:
    """Group totals are integers in the tests, so that every order of summation gives the same."""
    return float(values.astype(np.float64).sum())
