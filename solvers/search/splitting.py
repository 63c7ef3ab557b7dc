"""Rank by rank: is there a packing of items on ranks of ``S`` slots with no rank above ``T``?

The rank in hand takes the largest item that is left. Its sum must lie in ``[R - (m - 1) T, T]``, with
``R`` the sum of the items left and ``m`` the ranks left: what it leaves must fit on the others. Items of
one kind are interchangeable, so after a failure the next kind is tried. A rank is skipped if one of its
items could be exchanged for a larger one that is left without passing ``T``: the rank that would get the
smaller item only gains.

A failure also says how far ``T`` has to be raised to change anything, which gives the next ``T`` to try.

Schreiber, Korf, Moffitt: Optimal multi-way number partitioning, J. ACM 65 (2018);
Dell'Amico, Martello: Bounds for the cardinality constrained P||Cmax problem, J. Scheduling 4 (2001).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from solvers.search.compiled import compiled

Integers = NDArray[np.int64]

FOUND, EXHAUSTED, PAUSED = 0, 1, 2
NEVER = np.iinfo(np.int64).max

LEVEL, SLOT, NODES, NEXT_THRESHOLD = 0, 1, 2, 3


class Tree(NamedTuple):
    """Where the search stands. Level ``g`` fills rank ``g`` from the items that ranks ``0..g-1`` left.

    Attributes:
        index: [G + 1, P] the items left at each level, largest first, by their position in the input.
        size: [G + 1, P] their sizes.
        prefix: [G + 1, P + 1] sums of the largest items left.
        chosen: [G, S + 1] positions taken in the level's list.
        partial: [G, S + 1] sums of the rank in hand.
        counters: level, slot, nodes, and the smallest threshold that would have let more through.
    """

    index: Integers
    size: Integers
    prefix: Integers
    chosen: Integers
    partial: Integers
    counters: Integers

    def packed(self, experts: Integers) -> Integers:
        """[G, S] the experts of the packing found; ``experts`` [P] in the order of the items."""
        return experts[np.take_along_axis(self.index[:-1], self.chosen[:, :-1], axis=1)]


def new_tree(items: Integers, num_ranks: int) -> Tree:
    """A tree at its root; ``items`` [P] in descending order."""
    P = len(items)
    S = P // num_ranks
    tree = Tree(
        index=np.zeros((num_ranks + 1, P), np.int64),
        size=np.zeros((num_ranks + 1, P), np.int64),
        prefix=np.zeros((num_ranks + 1, P + 1), np.int64),
        chosen=np.zeros((num_ranks, S + 1), np.int64),
        partial=np.zeros((num_ranks, S + 1), np.int64),
        counters=np.zeros(4, np.int64),
    )
    tree.index[0] = np.arange(P)
    tree.size[0] = items
    tree.prefix[0, 1:] = np.cumsum(items)
    reset(tree)
    return tree


def reset(tree: Tree) -> None:
    """Back to the root."""
    tree.counters[:] = (0, 1, 0, NEVER)
    tree.chosen[0, 0] = 0
    tree.chosen[0, 1] = 1
    tree.partial[0, 0] = tree.size[0, 0]


@compiled
def first_not_above(size: Integers, start: int, stop: int, limit: int) -> int:
    """First position in ``start..stop`` (descending sizes) with ``size <= limit``; ``stop`` if none."""
    while start < stop:
        middle = (start + stop) // 2
        if size[middle] > limit:
            start = middle + 1
        else:
            stop = middle
    return start


@compiled
def dominated(size: Integers, chosen: Integers, S: int, room: int) -> bool:
    """Could an item of the rank be exchanged for a larger one outside it within ``room``?"""
    for slot in range(1, S):
        taken = slot
        p = chosen[slot]
        x = size[p]
        while p > chosen[0]:
            p -= 1
            if size[p] - x > room:
                break
            if taken > 0 and chosen[taken - 1] == p:
                taken -= 1
            elif size[p] > x:
                return True
    return False


@compiled
def descend(tree: Tree, level: int, n: int, S: int) -> None:
    """The items that the rank at ``level`` leaves become the list of the next level."""
    taken = 0
    kept = 0
    for p in range(n):
        if taken < S and tree.chosen[level, taken] == p:
            taken += 1
        else:
            tree.index[level + 1, kept] = tree.index[level, p]
            tree.size[level + 1, kept] = tree.size[level, p]
            tree.prefix[level + 1, kept + 1] = tree.prefix[level + 1, kept] + tree.size[level, p]
            kept += 1


@compiled
def advance(tree: Tree, kind: Integers, threshold: int, spread: bool, budget: int) -> int:
    """Search on for at most ``budget`` nodes: FOUND, EXHAUSTED or PAUSED (call again to go on)."""
    G, S = tree.chosen.shape[0], tree.chosen.shape[1] - 1
    level, slot, next_threshold = tree.counters[LEVEL], tree.counters[SLOT], tree.counters[NEXT_THRESHOLD]
    nodes = 0
    state = PAUSED
    while nodes < budget:
        nodes += 1
        size, prefix, chosen, partial = tree.size[level], tree.prefix[level], tree.chosen[level], tree.partial[level]
        m = G - level
        n = m * S
        q = S - 1 - slot
        total = partial[slot - 1]
        need = prefix[n] - (m - 1) * threshold
        lightest = prefix[n] - prefix[n - q]
        start = chosen[slot]
        p = first_not_above(size, start, n - q, threshold - total - lightest)
        if p > start:
            next_threshold = min(next_threshold, total + size[p - 1] + lightest)
        fits = p < n - q
        if fits:
            reach = total + prefix[p + 1 + q] - prefix[p]
            if reach < need:
                fits = False
                next_threshold = min(next_threshold, -((reach - prefix[n]) // (m - 1)))
        if fits:
            chosen[slot] = p
            partial[slot] = total + size[p]
            if q > 0:
                slot += 1
                start = p + 1
                if spread:
                    while start < n and kind[tree.index[level, start]] == kind[tree.index[level, p]]:
                        start += 1
                chosen[slot] = start
                continue
            if spread or not dominated(size, chosen, S, threshold - partial[slot]):
                descend(tree, level, n, S)
                if level == G - 1:
                    state = FOUND
                    break
                level += 1
                slot = 1
                tree.chosen[level, 0] = 0
                tree.chosen[level, 1] = 1
                tree.partial[level, 0] = tree.size[level, 0]
                if spread:
                    start = 1
                    while start < n - S and kind[tree.index[level, start]] == kind[tree.index[level, 0]]:
                        start += 1
                    tree.chosen[level, 1] = start
                continue
            slot += 1
        slot -= 1
        if slot == 0:
            if level == 0:
                state = EXHAUSTED
                break
            level -= 1
            slot = S - 1
        p = tree.chosen[level, slot]
        last = kind[tree.index[level, p]]
        n = (G - level) * S
        while p < n and kind[tree.index[level, p]] == last:
            p += 1
        tree.chosen[level, slot] = p
    tree.counters[LEVEL], tree.counters[SLOT], tree.counters[NEXT_THRESHOLD] = level, slot, next_threshold
    tree.counters[NODES] += nodes
    return state
