"""Iterated local search: re-splits of two ranks, moves of one replica between experts.

All in integers. A size is a load in units of :class:`solvers.scaling.Scale`; so is a rank load.
"""

from __future__ import annotations

import numpy as np

from solvers.arrays import Integers
from solvers.compiled import compiled
from solvers.local_search.resplit import split_in_two, subsets


@compiled
def rank_loads(ranks: Integers, counts: Integers, size: Integers) -> Integers:
    """[G] rank loads: sums of ``size[e, c_e]`` over the slots.

    Args:
        ranks: [G, S] the expert in each slot.
        counts: [E] replicas.
        size: [E, most + 1] size of one of k replicas.
    """
    loads = np.zeros(len(ranks), np.int64)
    for g in range(len(ranks)):
        for e in ranks[g]:
            loads[g] += size[e, counts[e]]
    return loads


@compiled
def repeats(rank: Integers) -> bool:
    """Whether a rank holds an expert twice.

    Args:
        rank: [S] the expert in each slot.
    """
    for i in range(len(rank)):
        for j in range(i):
            if rank[i] == rank[j]:
                return True
    return False


@compiled
def resplit(
    ranks: Integers, counts: Integers, size: Integers, loads: Integers, a: int, b: int, spread: bool
) -> bool:
    """Split what two ranks hold anew if that lowers the larger of their loads; whether it did.

    Args:
        ranks: [G, S] the expert in each slot; changed in place.
        counts: [E] replicas.
        size: [E, most + 1] size of one of k replicas.
        loads: [G] rank loads; changed in place.
        a: one rank.
        b: the other.
        spread: no rank may hold an expert twice.
    """
    S = ranks.shape[1]
    experts = np.concatenate((ranks[a], ranks[b]))
    items = np.array([size[e, counts[e]] for e in experts])
    member = split_in_two(items)
    first = (items * member).sum()
    second = items.sum() - first
    if max(first, second) >= max(loads[a], loads[b]):
        return False
    to_a, to_b = experts[member == 1], experts[member == 0]
    if spread and (repeats(to_a) or repeats(to_b)):
        return False
    ranks[a], ranks[b] = to_a[:S], to_b[:S]
    loads[a], loads[b] = first, second
    return True


POLISH = 50_000_000
"""Subsets looked at in one polish at most, so that a caller can look at the clock."""


@compiled
def polish(
    ranks: Integers, counts: Integers, size: Integers, target: int, spread: bool
) -> Integers:
    """Re-split the heaviest rank with the lightest that helps, until none does.

    Args:
        ranks: [G, S] the expert in each slot; changed in place.
        counts: [E] replicas.
        size: [E, most + 1] size of one of k replicas.
        target: rank load that is low enough.
        spread: no rank may hold an expert twice.

    Returns:
        [G] rank loads.
    """
    loads = rank_loads(ranks, counts, size)
    left = max(1, POLISH // subsets(ranks.shape[1]))
    improved = True
    while improved:
        improved = False
        worst = int(np.argmax(loads))
        if loads[worst] <= target:
            break
        left -= len(loads) // 64
        for other in np.argsort(loads, kind="mergesort"):
            left -= 1
            if left < 0:
                break
            if other != worst and resplit(ranks, counts, size, loads, worst, other, spread):
                improved = True
                break
    return loads


@compiled
def draw(random: Integers, n: int) -> int:
    """An integer in 0..n-1.

    Args:
        random: [1] state of Park and Miller's generator; changed in place.
        n: at least 1.
    """
    random[0] = random[0] * 48271 % 2147483647
    return int(random[0] % n)


@compiled
def move_replica(
    ranks: Integers, counts: Integers, size: Integers, worst: int, spread: bool, random: Integers
) -> bool:
    """Relieve a rank: one of its experts takes over a slot of an expert with several replicas.

    Of a random sample of such moves the one with the least makespan is made; False if there is
    none.

    Args:
        ranks: [G, S] the expert in each slot; changed in place.
        counts: [E] replicas; changed in place.
        size: [E, most + 1] size of one of k replicas.
        worst: the rank.
        spread: no rank may hold an expert twice.
        random: [1] state of the generator.
    """
    G, S = ranks.shape
    best = np.iinfo(np.int64).max
    best_g, best_s, best_f = -1, -1, -1
    for _ in range(4 * S + 16):
        g, s, f = draw(random, G), draw(random, S), ranks[worst, draw(random, S)]
        e = ranks[g, s]
        if e == f or counts[e] < 2 or counts[f] + 1 == size.shape[1]:
            continue
        if spread and np.any(ranks[g] == f):
            continue
        ranks[g, s] = f
        counts[e] -= 1
        counts[f] += 1
        makespan = rank_loads(ranks, counts, size).max()
        if makespan < best:
            best, best_g, best_s, best_f = makespan, g, s, f
        ranks[g, s] = e
        counts[e] += 1
        counts[f] -= 1
    if best_g < 0:
        return False
    counts[ranks[best_g, best_s]] -= 1
    counts[best_f] += 1
    ranks[best_g, best_s] = best_f
    return True


@compiled
def exchange(ranks: Integers, worst: int, spread: bool, random: Integers) -> None:
    """Swap random slots of the worst rank with random others, to leave a local optimum.

    Args:
        ranks: [G, S] the expert in each slot; changed in place.
        worst: the rank.
        spread: no rank may hold an expert twice.
        random: [1] state of the generator.
    """
    G, S = ranks.shape
    for _ in range(1 + draw(random, 3)):
        a, g, b = draw(random, S), draw(random, G), draw(random, S)
        if g == worst:
            continue
        x, y = ranks[worst, a], ranks[g, b]
        if spread and (np.any(ranks[worst] == y) or np.any(ranks[g] == x)):
            continue
        ranks[worst, a], ranks[g, b] = y, x


@compiled
def iterate(
    ranks: Integers,
    counts: Integers,
    size: Integers,
    target: int,
    spread: bool,
    free_counts: bool,
    rounds: int,
    random: Integers,
) -> int:
    """Improve a placement in place by random kicks; returns the makespan.

    A kick is kept if the makespan does not rise.

    Args:
        ranks: [G, S] the expert in each slot; changed in place.
        counts: [E] replicas; changed in place.
        size: [E, most + 1] size of one of k replicas.
        target: makespan at which it stops.
        spread: no rank may hold an expert twice.
        free_counts: replicas may move from one expert to another.
        rounds: kicks.
        random: [1] state of the generator; changed in place.
    """
    loads = polish(ranks, counts, size, target, spread)
    makespan = loads.max()
    for _ in range(rounds):
        if makespan <= target:
            break
        new_ranks, new_counts = ranks.copy(), counts.copy()
        worst = int(np.argmax(loads))
        moved = free_counts and draw(random, 2) == 0
        if moved:
            moved = move_replica(new_ranks, new_counts, size, worst, spread, random)
        if not moved:
            exchange(new_ranks, worst, spread, random)
        new_loads = polish(new_ranks, new_counts, size, target, spread)
        if new_loads.max() <= makespan:
            ranks[:], counts[:] = new_ranks, new_counts
            loads, makespan = new_loads, new_loads.max()
    return int(makespan)


def rehearse() -> None:
    """Compile all of it."""
    ranks, size = np.array([[0, 1], [2, 0]]), np.array([[0, 4, 2], [0, 3, 1], [0, 9, 4]])
    iterate(ranks, np.array([2, 1, 1]), size, 0, False, True, 3, np.array([1]))
